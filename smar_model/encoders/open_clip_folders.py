"""open_clip's folder layout of a CLIP (`open_clip_config.json`, `open_clip_model.safetensors`), read as `transformers` would have it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from smar_model.encoders.aligned_pairs import AlignedPair, write_pair
from smar_model.encoders.source_folders import read_config, require_safetensors
from smar_model.encoders.text_encoders import read_tokenizer, refuse_no_numbers
from smar_model.errors import InputError, first_line

OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def convert_open_clip(folder: Path, to: Path, *, words: bool, report: Callable[[str], None]) -> AlignedPair:
    """Read a pair and write both towers below `to`.

    Raises:
        InputError: weights are pickled, lack, or are of a form that transformers' CLIP cannot express, such as towers of timm or BERT.
    """
    described = read_config(folder / OPEN_CLIP_CONFIG).get("model_cfg", {})
    require_safetensors(folder, OPEN_CLIP_WEIGHTS)
    tokenizer = read_tokenizer(folder)
    try:
        tensors = load_file(folder / OPEN_CLIP_WEIGHTS)
        config = _config(described, end=tokenizer.encode("a").ids[-1])
        model = CLIPModel(config).eval()
        model.load_state_dict(_of_transformers(tensors, config))
    except Exception as error:  # what a configuration that makes no sense leads to
        raise InputError(
            f"{folder}: not a pair that transformers' CLIP can express (a ViT and a transformer of text): {first_line(error)}"
        ) from None
    refuse_no_numbers(folder, model)
    return write_pair(model, folder, to, words=words, report=report)


def _config(described: Mapping[str, Any], *, end: int) -> CLIPConfig:
    """`end`: id of the token at a text's end, whose state is projected."""
    vision, text = described["vision_cfg"], described["text_cfg"]
    activation = "quick_gelu" if described.get("quick_gelu") else "gelu"
    if unlike := {"timm_model_name", "hf_model_name"} & (vision.keys() | text.keys()):
        raise ValueError(f"it names {sorted(unlike)[0]}")
    if described.get("custom_text"):
        raise ValueError("it names custom_text")
    return CLIPConfig(
        projection_dim=described["embed_dim"],
        vision_config={
            "hidden_size": vision["width"],
            "intermediate_size": int(vision["width"] * vision.get("mlp_ratio", 4.0)),
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision.get("head_width", 64),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "hidden_act": activation,
        },
        text_config={
            "vocab_size": text["vocab_size"],
            "hidden_size": text["width"],
            "intermediate_size": int(text["width"] * text.get("mlp_ratio", 4.0)),
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "max_position_embeddings": text["context_length"],
            "hidden_act": activation,
            "bos_token_id": 0,
            "eos_token_id": end,
            "pad_token_id": 0,
        },
    )


def _of_transformers(tensors: Mapping[str, Tensor], config: CLIPConfig) -> dict[str, Tensor]:
    """The names that `transformers` has for a CLIP of open_clip."""
    vision, text = "vision_model", "text_model"
    renamed = {
        "logit_scale": tensors["logit_scale"],
        "text_projection.weight": tensors["text_projection"].T,
        "visual_projection.weight": tensors["visual.proj"].T,
        f"{text}.embeddings.token_embedding.weight": tensors["token_embedding.weight"],
        f"{text}.embeddings.position_embedding.weight": tensors["positional_embedding"],
        f"{vision}.embeddings.class_embedding": tensors["visual.class_embedding"],
        f"{vision}.embeddings.patch_embedding.weight": tensors["visual.conv1.weight"],
        f"{vision}.embeddings.position_embedding.weight": tensors["visual.positional_embedding"],
    }
    for end in ("weight", "bias"):
        renamed |= {
            f"{text}.final_layer_norm.{end}": tensors[f"ln_final.{end}"],
            f"{vision}.pre_layrnorm.{end}": tensors[f"visual.ln_pre.{end}"],
            f"{vision}.post_layernorm.{end}": tensors[f"visual.ln_post.{end}"],
        }
        sides: tuple[tuple[str, str, Any], ...] = (
            (text, "", config.text_config),
            (vision, "visual.", config.vision_config),
        )
        for tower, prefix, side in sides:
            for number in range(side.num_hidden_layers):
                theirs = f"{prefix}transformer.resblocks.{number}"
                ours = f"{tower}.encoder.layers.{number}"
                renamed |= {f"{ours}.{to}.{end}": tensors[f"{theirs}.{name}.{end}"] for name, to in _BLOCK.items()}
                parts = torch.chunk(tensors[f"{theirs}.attn.in_proj_{end}"], 3)
                names = ("q_proj", "k_proj", "v_proj")
                renamed |= {f"{ours}.self_attn.{n}.{end}": part for n, part in zip(names, parts, strict=True)}
    return renamed
