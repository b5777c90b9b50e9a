"""What docker/ says, as the tests read it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from smar_model.settings import REPOSITORY

DOCKER = REPOSITORY / "docker"
DOCKERFILES = (DOCKER / "Dockerfile", DOCKER / "laptop.Dockerfile")


def run_tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of this interpreter's environment from the repository's root."""
    tool = Path(sys.executable).parent / name
    return subprocess.run([str(tool), *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)


@cache
def compose() -> dict[str, Any]:
    """The compose file with its merges done."""
    return yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))


def images(dockerfile: Path) -> dict[str, list[tuple[str, str]]]:
    """Stage → its instructions, those of the stages that it builds on first: (word, what follows it on one line)."""
    text = re.sub(r"(?m)^\s*#.*\n", "", dockerfile.read_text(encoding="utf-8"))
    stages: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for instruction in re.sub(r"\\\n\s*", " ", text).splitlines():
        if not instruction.strip():
            continue
        word, rest = instruction.split(maxsplit=1)
        if word == "FROM":
            base, name = re.fullmatch(r"(\S+)(?: AS (\S+))?", rest).groups()  # type: ignore[union-attr]
            current = [*stages.get(base, [("FROM", base)])]
            stages[name or "image"] = current
        else:
            current.append((word, rest))
    return stages


def last(instructions: list[tuple[str, str]], word: str) -> str | None:
    """What holds of an instruction of which the last one counts."""
    return next((rest for name, rest in reversed(instructions) if name == word), None)


def json_words(text: str) -> list[str]:
    """The command of a HEALTHCHECK, CMD or ENTRYPOINT in its JSON form."""
    return json.loads(text[text.index("[") :])
