"""A model's files: written by training, read by whatever embeds, searches or serves.

weights.safetensors        of all towers
network.json               what the network must be built like (`Shape`)
tokenizer.json
catalogue_numbers.txt      where the catalogue holds numbers that look like those of cards or telephones
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from smar_model.data.text_tokens import NUMBERS_FILE
from smar_model.errors import InputError
from smar_model.lake.digests import digest_files
from smar_model.network.model import RetrievalModel, Shape
from smar_model.settings import Network, Pictures


def save_model(model: RetrievalModel, folder: Path, tokenizer_file: Path, numbers_file: Path | None = None) -> None:
    """Write weights.safetensors, network.json, tokenizer.json, catalogue_numbers.txt (if any): all that search needs."""
    folder.mkdir(parents=True, exist_ok=True)
    # Each name keeps its own copy of what towers share: the library's own way of naming shared weights once is not the
    # same at every saving, and equal weights must be equal files.
    weights = {name: weight.detach().clone().contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, folder / "weights.safetensors")
    content = asdict(model.shape) | {"network": model.shape.network.model_dump(mode="json")}
    (folder / "network.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    (folder / "tokenizer.json").write_bytes(tokenizer_file.read_bytes())
    if numbers_file:
        (folder / NUMBERS_FILE).write_bytes(numbers_file.read_bytes())


def model_digest(folder: Path) -> str:
    """Digest of a model's files, equal to `content["model"]` in the manifest of the stage that published it."""
    return digest_files([f for f in folder.iterdir() if f.is_file()], root=folder.parent)


def load_model(folder: Path) -> RetrievalModel:
    """Read a model that `save_model` wrote, in evaluation mode.

    Raises:
        InputError: a file is missing or does not fit the others.
    """
    try:
        content = json.loads((folder / "network.json").read_text(encoding="utf-8"))
        grid = content.get("picture_grid")
        parts = {
            "network": Network.model_validate(content["network"]),
            "picture_grid": tuple(grid) if grid else None,
        }
        model = RetrievalModel(Shape(**content | parts))
        # A model from before there was a temperature has none.
        older = {"header_temperature": model.header_temperature}
        model.load_state_dict(older | load_file(folder / "weights.safetensors"))
    except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        raise InputError(f"{folder}: not a whole model (weights.safetensors, network.json): {error}") from error
    return model.eval()


def new_model(
    network: Network,
    *,
    vocabulary: int,
    query_length: int,
    item_length: int,
    pictures: Pictures,
    text_encoder: Path | None = None,
    vision_encoder: Path | None = None,
) -> RetrievalModel:
    """A model as settings describe it, which begins with the weights of pretrained encoders where there are some.

    Args:
        text_encoder: folder of the encoder that `network.text.pretrained` names (`smar_model/lake/encoder_store.py`).
        vision_encoder: likewise of `network.vision.pretrained`.

    Raises:
        InputError: an encoder cannot be read, or does not fit.
    """
    text_config = None
    if text_encoder:
        try:
            text_config = AutoConfig.from_pretrained(text_encoder / "text", local_files_only=True).to_dict()
        except (OSError, ValueError) as error:
            raise InputError(
                f"network.text.pretrained {network.text.pretrained!r} ({text_encoder}): {error}"
            ) from error
    shape = Shape(
        network=network,
        vocabulary=vocabulary,
        query_length=query_length,
        item_length=item_length,
        picture_width=pictures.width,
        picture_height=pictures.height,
        text_encoder=text_config,
        vision_came_with_weights=vision_encoder is not None,
    )
    return RetrievalModel(shape, is_new=True, text_encoder=text_encoder, vision_encoder=vision_encoder)
