"""Small aligned pairs in the layouts of CLIP, SigLIP, SigLIP 2 and open_clip, with weights drawn at random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    PreTrainedModel,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
)

WORDS = ("red", "blue", "shirt", "dress", "shoe", "a", "b", "striped")
LAYERS = 3
SIDE = {"intermediate_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
TEXT_WIDTH, VISION_WIDTH, SPACE, PATCH, PICTURE = 16, 24, 12, 8, 32


def write_pair_tokenizer(folder: Path, *, starts: bool) -> Tokenizer:
    """Word by word; pads with the token that ends a text, as those of CLIP and SigLIP do, so padding is not token 0."""
    special = [*(["<start>"] if starts else []), "<end>"]
    vocabulary = {token: number for number, token in enumerate([*WORDS, "<unk>", *special])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<unk>", *special])
    around = [(token, vocabulary[token]) for token in special]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=("<start> $A <end>" if starts else "$A <end>"), special_tokens=around
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names | {"pad_token": "<end>"}), encoding="utf-8")
    return tokenizer


def write_gemma_tokenizer(folder: Path) -> Tokenizer:
    """Letter by letter, with the special tokens of SigLIP 2's tokenizer, whose class `transformers` knows."""
    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    vocabulary = {token: number for number, token in enumerate([*special, "▁", *"abcdefghijklmnopqrstuvwxyz"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens(list(special))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "Siglip2Tokenizer", "add_eos_token": True, "add_bos_token": False, "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names | {"eos_token": "<eos>"}), encoding="utf-8")
    return tokenizer


def write_pair(folder: Path, kind: str) -> PreTrainedModel:
    """`clip`, `siglip` or `siglip2`, as `save_pretrained` and the hub lay them out."""
    torch.manual_seed(5)
    if kind == "siglip2":
        tokenizer, end, padding = write_gemma_tokenizer(folder), 1, 0
    else:
        tokenizer = write_pair_tokenizer(folder, starts=kind == "clip")
        end = padding = tokenizer.token_to_id("<end>")
    vocabulary = tokenizer.get_vocab_size()
    text = {"vocab_size": vocabulary, "hidden_size": TEXT_WIDTH, "max_position_embeddings": 16, **SIDE}
    text |= {"bos_token_id": 0, "eos_token_id": end, "pad_token_id": padding}
    vision: dict[str, Any] = {"hidden_size": VISION_WIDTH, "patch_size": PATCH, **SIDE}
    model: PreTrainedModel
    if kind == "clip":
        vision["image_size"] = PICTURE
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=SPACE))
    elif kind == "siglip":
        vision["image_size"] = PICTURE
        model = SiglipModel(SiglipConfig(text_config=text | {"projection_size": VISION_WIDTH}, vision_config=vision))
    else:
        vision["num_patches"] = (PICTURE // PATCH) ** 2
        model = Siglip2Model(Siglip2Config(text_config=text | {"projection_size": VISION_WIDTH}, vision_config=vision))
    with torch.no_grad():  # biases and norms begin at 0 and 1, where a swapped one would not show
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.eval().save_pretrained(folder)
    return model


def write_open_clip(folder: Path) -> CLIPModel:
    """A CLIP as open_clip saves it for the hub; returns the same one of `transformers`."""
    model = write_pair(folder, "clip")
    assert isinstance(model, CLIPModel)
    source, tensors = model.state_dict(), dict[str, torch.Tensor]()
    straight = {
        "logit_scale": "logit_scale",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    }
    norms = {"ln_final": "text_model.final_layer_norm"}
    norms |= {"visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm"}
    parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
    parts |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    tensors |= {ours: source[name] for ours, name in straight.items()}
    tensors["text_projection"] = source["text_projection.weight"].T.contiguous()
    tensors["visual.proj"] = source["visual_projection.weight"].T.contiguous()
    for end in ("weight", "bias"):
        tensors |= {f"{ours}.{end}": source[f"{name}.{end}"] for ours, name in norms.items()}
        for prefix, tower in (("", "text_model"), ("visual.", "vision_model")):
            for number in range(LAYERS):
                block, layer = f"{prefix}transformer.resblocks.{number}", f"{tower}.encoder.layers.{number}"
                tensors |= {f"{block}.{ours}.{end}": source[f"{layer}.{name}.{end}"] for ours, name in parts.items()}
                joined = torch.cat([source[f"{layer}.self_attn.{n}_proj.{end}"] for n in "qkv"])
                tensors[f"{block}.attn.in_proj_{end}"] = joined
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "open_clip_model.safetensors")
    text = {"context_length": 16, "vocab_size": model.config.text_config.vocab_size, "width": TEXT_WIDTH}
    config = {
        "model_cfg": {
            "embed_dim": SPACE,
            "quick_gelu": True,
            "vision_cfg": {"image_size": PICTURE, "layers": LAYERS, "width": VISION_WIDTH, "patch_size": PATCH}
            | {"head_width": VISION_WIDTH // 2, "mlp_ratio": 2.0},
            "text_cfg": text | {"heads": 2, "layers": LAYERS, "mlp_ratio": 3.0},
        },
        "preprocess_cfg": {},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "config.json").unlink()
    (folder / "model.safetensors").unlink()
    return model
