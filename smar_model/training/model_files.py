"""A model's files: written by training, read by whatever embeds. What searches or serves reads its part of them by `model_folder.py`.

weights.safetensors        of all towers
network.json               what the network must be built like (`Shape`)
tokenizer.json
catalogue_numbers.txt      where the catalogue holds numbers that look like those of cards or telephones
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from smar_model.data.encoder_tokens import read_encoder_tokenizer
from smar_model.data.text_tokens import NUMBERS_FILE
from smar_model.errors import InputError
from smar_model.network.aligned_pair import aligned_dimension
from smar_model.network.model import RetrievalModel, Shape
from smar_model.network.pretrained_text import TextForm
from smar_model.network.variants import find_variant
from smar_model.settings import Network, Pictures
from smar_model.training.model_folder import WEIGHTS_FILE


def save_model(model: RetrievalModel, folder: Path, tokenizer_file: Path, numbers_file: Path | None = None) -> None:
    """Write weights.safetensors, network.json, tokenizer.json, catalogue_numbers.txt (if any): all that search needs."""
    folder.mkdir(parents=True, exist_ok=True)
    # Vectors of tokens that towers share are written once, being most of a small model. Of the rest each name keeps its own copy: the library's
    # own way of naming shared weights once is not the same at every saving, and equal weights must be equal files.
    state, shared = model.state_dict(), shared_tokens(model)
    weights = {name: weight.detach().clone().contiguous() for name, weight in state.items() if name not in shared}
    save_file(weights, folder / WEIGHTS_FILE)
    content = asdict(model.shape) | {"network": model.shape.network.model_dump(mode="json")}
    (folder / "network.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    (folder / "tokenizer.json").write_bytes(tokenizer_file.read_bytes())
    if numbers_file:
        (folder / NUMBERS_FILE).write_bytes(numbers_file.read_bytes())


def shared_tokens(model: RetrievalModel) -> dict[str, str]:
    """Names of token vectors in the item text tower → those of the same ones in the query tower; none where each has its own."""
    query, item = model.query_tower, model.item_text_tower
    if query.tokens is not item.tokens:
        return {}
    names = (name for name, module in model.named_modules(remove_duplicate=False) if module is query.tokens)
    of_query, of_item = sorted((f"{name}.weight" for name in names), key=lambda name: name.startswith("item_"))
    return {of_item: of_query}


def load_model(folder: Path) -> RetrievalModel:
    """Read a model that `save_model` wrote, in evaluation mode.

    Raises:
        InputError: a file is missing or does not fit the others.
    """
    try:
        content = json.loads((folder / "network.json").read_text(encoding="utf-8"))
        form, grid = content.get("text_form"), content.get("picture_grid")
        parts = {
            "network": Network.model_validate(content["network"]),
            "text_form": TextForm(**{name: tuple(tokens) for name, tokens in form.items()}) if form else None,
            "picture_grid": tuple(grid) if grid else None,
        }
        model = RetrievalModel(Shape(**content | parts))
        # A model from before there was a temperature has none.
        older = {"header_temperature": model.header_temperature}
        weights = load_file(folder / WEIGHTS_FILE)
        shared = {name: weights[of_query] for name, of_query in shared_tokens(model).items() if of_query in weights}
        model.load_state_dict(older | shared | weights)
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
    parts = _text_parts(network, text_encoder, query_length, item_length)
    if (config := parts.get("text_encoder")) and find_variant(network).fusion:
        parts["aligned"] = aligned_dimension(
            network,
            text_encoder=text_encoder,
            vision_encoder=vision_encoder,
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
        )
    shape = Shape(
        network=network,
        vocabulary=vocabulary,
        query_length=query_length,
        item_length=item_length,
        picture_width=pictures.width,
        picture_height=pictures.height,
        vision_came_with_weights=vision_encoder is not None,
        **parts,
    )
    return RetrievalModel(shape, is_new=True, text_encoder=text_encoder, vision_encoder=vision_encoder)


def _text_parts(network: Network, folder: Path | None, query_length: int, item_length: int) -> dict[str, Any]:
    """`text_encoder` and `text_form` of the shape: none where no text tower is cut from an encoder.

    Raises:
        InputError: it cannot be read, or texts are longer than it takes.
    """
    if folder is None or find_variant(network).text_tower == "words":
        return {}
    try:
        config = AutoConfig.from_pretrained(folder / "text", local_files_only=True).to_dict()
    except (OSError, ValueError) as error:
        raise InputError(f"network.text.pretrained {network.text.pretrained!r} ({folder}): {error}") from error
    around = read_encoder_tokenizer(folder)
    places = config.get("max_position_embeddings")
    for name, length in (("query_length", query_length), ("item_length", item_length)):
        longest = places - len(around.before) - len(around.after) if places else length
        if length > longest:
            raise InputError(
                f"tokenizer.{name} {length}: network.text.pretrained {network.text.pretrained!r} takes at most {longest} tokens"
            )
    return {"text_encoder": config, "text_form": TextForm(before=around.before, after=around.after)}
