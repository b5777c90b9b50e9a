"""A pair of encoders that put texts and pictures into one space (CLIP, SigLIP, SigLIP 2, as `transformers` keeps them) into the store's form.

    text/      the text tower; the projection of its last state into the space is in projection.safetensors
    vision/    the vision tower as timm's ViT, so that all that works with timm's encoders works with it; likewise its projection

SigLIP's text projection is its head; its vision tower ends with its pooling, so the projection is the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models._hub import save_config_for_hf
from torch import Tensor

from smar_model.encoders.source_folders import CONFIG, INDEX, WEIGHTS, read_config, require_safetensors
from smar_model.encoders.text_encoders import (
    load_weights,
    read_tokenizer,
    save_tensors,
    write_text_side,
    write_words,
)
from smar_model.encoders.writing_systems import known_scripts
from smar_model.errors import InputError, first_line

PAIRS = ("clip", "siglip", "siglip2")
"""By `model_type`."""
PROJECTION = "projection.safetensors"
TOLERANCE = 1e-4
"""Between the source's embedding of a picture and the converted one's, of length 1."""
_MEANS = {"clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))}
"""Mean and standard deviation of the colours where preprocessor_config.json does not say; of all others .5."""
_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
"""Name in `transformers` → in timm."""
_BLOCK = {
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "self_attn.out_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_POOL = {"out_proj": "proj", "layernorm": "norm", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedPair:
    parameters: dict[str, int]
    scripts: list[str]
    dimension: int
    """Of the space that both are in."""


def convert_aligned_pair(folder: Path, to: Path, *, words: bool, report: Callable[[str], None]) -> AlignedPair:
    """Read a pair, compare the converted vision tower with the source's, and write both below `to`.

    Raises:
        InputError: weights are pickled, lack, or are of a form that has no equal in timm.
    """
    read_config(folder / CONFIG)
    require_safetensors(folder, WEIGHTS, INDEX)
    return write_pair(load_weights(folder), folder, to, words=words, report=report)


def write_pair(model: Any, folder: Path, to: Path, *, words: bool, report: Callable[[str], None]) -> AlignedPair:
    """Write a pair that has been read; `folder` has its tokenizer and preprocessing.

    Raises:
        InputError: as `convert_aligned_pair`.
    """
    tokenizer = read_tokenizer(folder)
    projection = text_projection(model)
    vision, image_projection = timm_vision_tower(model, folder)
    text = model.text_model
    table = text.get_input_embeddings()
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if largest >= table.num_embeddings:
        raise InputError(f"{folder}: its tokenizer has token {largest}, its weights {table.num_embeddings} tokens")
    text_parameters = sum(p.numel() for p in text.parameters())
    if words:
        write_words(to, text, tokenizer, report=report)
    if hasattr(text, "head"):
        text.head = torch.nn.Identity()
    write_text_side(to, text, tokenizer)
    save_tensors(projection, to / "text" / PROJECTION)
    side = to / "vision"
    side.mkdir()
    save_tensors(vision.state_dict(), side / WEIGHTS)
    save_config_for_hf(vision, str(side / CONFIG))
    save_tensors({"weight": image_projection}, side / PROJECTION)
    return AlignedPair(
        parameters={"text": text_parameters, "vision": sum(p.numel() for p in vision.parameters())},
        scripts=known_scripts(tokenizer),
        dimension=len(image_projection),
    )


def text_projection(model: Any) -> dict[str, Tensor]:
    """`weight` (D, W), and `bias` (D,) where there is one, from the last state of a text into the space."""
    linear = getattr(model, "text_projection", None) or model.text_model.head
    return {name: tensor for name, tensor in linear.state_dict().items()}


def timm_vision_tower(model: Any, folder: Path) -> tuple[Any, Tensor]:
    """The vision tower as timm's ViT, and its projection (D, W).

    Raises:
        InputError: it embeds a picture otherwise than its source.
    """
    config, kind = model.vision_model.config, model.config.model_type
    grid = _grid(config)
    is_clip = kind == "clip"
    mean, std = _colours(folder, kind)
    vision: Any
    try:
        vision = timm.create_model(
            "vit_base_patch16_clip_224" if is_clip else "vit_base_patch16_siglip_224",
            pretrained=False,
            num_classes=0,
            img_size=grid * config.patch_size,
            patch_size=config.patch_size,
            embed_dim=config.hidden_size,
            depth=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            mlp_ratio=config.intermediate_size / config.hidden_size,
            act_layer=_ACTIVATIONS[config.hidden_act],
        )
        vision.pretrained_cfg |= {"mean": mean, "std": std, "input_size": (3, *[grid * config.patch_size] * 2)}
        vision.load_state_dict(_of_timm(model.vision_model.state_dict(), config))
    except (KeyError, RuntimeError, ValueError, AssertionError) as error:
        raise InputError(f"{folder}: its vision tower has no equal in timm: {first_line(error)}") from None
    projection: Tensor = model.visual_projection.weight if is_clip else torch.eye(config.hidden_size)
    vision = vision.eval()
    _compare(model, vision, projection, grid, folder)
    return vision, projection.detach()


def _grid(config: Any) -> int:
    """Patches in a row."""
    if hasattr(config, "num_patches"):
        return int(config.num_patches**0.5)
    return int(config.image_size) // int(config.patch_size)


def _colours(folder: Path, kind: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each colour.

    Raises:
        InputError: preprocessor_config.json says something else there.
    """
    half = (0.5, 0.5, 0.5)
    file = folder / "preprocessor_config.json"
    content = read_config(file) if file.is_file() else {}
    defaults = dict(zip(("image_mean", "image_std"), _MEANS.get(kind, (half, half)), strict=True))
    found = []
    for name, default in defaults.items():
        value = content.get(name, default)
        # A picture is divided by the second.
        least = 0 if name == "image_mean" else 1e-6
        if (
            not isinstance(value, list | tuple)
            or len(value) != 3
            or not all(_is_share(share, least) for share in value)
        ):
            raise InputError(f"{file}: {name} is {value!r}; three numbers from 0 to 1 belong there, one a colour")
        found.append(tuple(map(float, value)))
    return found[0], found[1]


def _is_share(value: object, least: float) -> bool:
    return isinstance(value, int | float) and least <= value <= 1


def _of_timm(source: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """timm's names for the weights of a vision tower of `transformers`."""
    tensors = {
        "patch_embed.proj.weight": _convolution(source["embeddings.patch_embedding.weight"], config),
        "norm.weight": source["post_layernorm.weight"],
        "norm.bias": source["post_layernorm.bias"],
        "pos_embed": source["embeddings.position_embedding.weight"][None],
    }
    if "embeddings.class_embedding" in source:
        tensors["cls_token"] = source["embeddings.class_embedding"][None, None]
    if "embeddings.patch_embedding.bias" in source:
        tensors["patch_embed.proj.bias"] = source["embeddings.patch_embedding.bias"]
    for end in ("weight", "bias"):
        if f"pre_layrnorm.{end}" in source:  # spelled so there
            tensors[f"norm_pre.{end}"] = source[f"pre_layrnorm.{end}"]
        for number in range(config.num_hidden_layers):
            theirs, ours = f"encoder.layers.{number}", f"blocks.{number}"
            parts = [source[f"{theirs}.self_attn.{name}_proj.{end}"] for name in ("q", "k", "v")]
            tensors[f"{ours}.attn.qkv.{end}"] = torch.cat(parts)
            tensors |= {f"{ours}.{to}.{end}": source[f"{theirs}.{name}.{end}"] for name, to in _BLOCK.items()}
        if "head.probe" in source:
            tensors |= _pooling(source, end)
    return tensors


def _convolution(weight: Tensor, config: Any) -> Tensor:
    """Weights of the patches' convolution; SigLIP 2 has them as those of a linear layer over (row, column, colour)."""
    if weight.ndim == 4:
        return weight
    return weight.unflatten(1, (config.patch_size, config.patch_size, config.num_channels)).permute(0, 3, 1, 2)


def _pooling(source: Mapping[str, Tensor], end: str) -> dict[str, Tensor]:
    width = source["head.probe"].shape[-1]
    joined = source[f"head.attention.in_proj_{end}"]
    tensors = {
        "attn_pool.latent": source["head.probe"],
        f"attn_pool.q.{end}": joined[:width],
        f"attn_pool.kv.{end}": joined[width:],
    }
    for name, to in _POOL.items():
        inside = "head.attention." if name == "out_proj" else "head."
        tensors[f"attn_pool.{to}.{end}"] = source[f"{inside}{name}.{end}"]
    return tensors


@torch.inference_mode()
def _compare(model: Any, vision: Any, projection: Tensor, grid: int, folder: Path) -> None:
    config = model.vision_model.config
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(2, 3, *[grid * config.patch_size] * 2, generator=generator)
    wanted = model.vision_model(**vision_inputs(model, pictures)).pooler_output
    if hasattr(model, "visual_projection"):
        wanted = model.visual_projection(wanted)
    found = vision.forward_head(vision.forward_features(pictures), pre_logits=True) @ projection.T
    apart = (torch.nn.functional.normalize(wanted) - torch.nn.functional.normalize(found)).abs().max()
    if not apart <= TOLERANCE:
        raise InputError(
            f"{folder}: its vision tower, as timm has it, embeds a picture otherwise by {apart:.1e}; it is not taken"
        )


def vision_inputs(model: Any, pictures: Tensor) -> dict[str, Tensor]:
    """What a vision tower takes for pictures (B, 3, H, W) of its own size, normalised: SigLIP 2 patches with their places, others the pictures."""
    if model.config.model_type != "siglip2":
        return {"pixel_values": pictures}
    side = model.vision_model.config.patch_size
    count, colours, height, width = pictures.shape
    rows, columns = height // side, width // side
    patches = pictures.reshape(count, colours, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
    return {
        "pixel_values": patches.reshape(count, rows * columns, -1),
        "pixel_attention_mask": torch.ones(count, rows * columns, dtype=torch.long),
        "spatial_shapes": torch.tensor([[rows, columns]] * count),
    }
