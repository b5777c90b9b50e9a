"""What a folder with a pretrained model holds, and what is refused of it before anything is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from smar_model.errors import InputError, first_line

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def read_config(file: Path) -> dict[str, Any]:
    """A model's configuration.

    Raises:
        InputError: it is missing or damaged, or names code of its own.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{file}: there is no such file; a model's folder has one") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not readable JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: not a model's configuration, which is an object")
    if "auto_map" in content:
        raise InputError(
            f"{file}: names code of the model's own (auto_map), which is never run; take a model that transformers knows"
        )
    return content


def require_safetensors(folder: Path, *names: str) -> None:
    """Raises InputError where the weights are pickled, or there are none."""
    if there := [name for name in names if (folder / name).is_file()]:
        if there[0] == INDEX:
            _require_safetensors_of_index(folder / INDEX)
        return
    pickled = sorted(path for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        raise InputError(
            f"{pickled[0]}: pickled weights, which can run code when they are read, are not taken; save them as {names[0]} where you trust "
            "them (docs/encoders.md, 'Pickled weights'), and add that folder"
        )
    raise InputError(f"{folder / names[0]}: there is no such file; a model's folder has its weights in it")


def _require_safetensors_of_index(index: Path) -> None:
    """Raises InputError where an index names anything but safetensors beside it: transformers would open what it names, a pickle too."""
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{index}: not an index of weights: {first_line(error)}; fetch it again") from None
    for shard in sorted(map(str, shards)):
        if Path(shard).name != shard or Path(shard).suffix != ".safetensors":
            raise InputError(
                f"{index}: names {shard!r}; taken are safetensors beside it (docs/encoders.md, 'Pickled weights')"
            )
        if not (index.parent / shard).is_file():
            raise InputError(f"{index.parent / shard}: there is no such file, which {INDEX} names; fetch it too")


def model_card(folder: Path) -> tuple[str, list[str]]:
    """Licence and languages that the front matter of README.md names; empty where it names none."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
        front = yaml.safe_load(text.split("---", 2)[1]) if text.startswith("---") else None
    except (OSError, IndexError, yaml.YAMLError):
        front = None
    front = front if isinstance(front, dict) else {}
    licence, languages = front.get("license"), front.get("language") or []
    named = [languages] if isinstance(languages, str) else languages if isinstance(languages, list) else []
    return licence if isinstance(licence, str) else "", [language for language in named if isinstance(language, str)]
