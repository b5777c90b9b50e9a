"""A text encoder that is small enough for tests, in the layout of the store (`smar_model/lake/encoder_store.py`)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from smar_model.lake.encoder_store import EncoderDescription, prepare_place, publish_encoder
from smar_model.lake.process_identity import temporary_beside

WORDS = ("red", "blue", "shirt", "dress", "shoes", "sneakers", "for", "men", "women", "kids", "cotton", "novel")
LAYERS, WIDTH = 5, 24


def write_text_encoder(folder: Path, *, padding: int = 0, **config: int) -> Path:
    """Write an encoder of BERT's kind with weights drawn by a fixed seed; returns the folder.

    Args:
        padding: id of its padding token; the token before and after texts have others.
        config: what differs from a BERT of `LAYERS` layers.
    """
    special = ["[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    special.insert(padding, "[PAD]")
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
    vocabulary = {token: number for number, token in enumerate([*special, *WORDS, *letters])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(special)
    around = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    # As sentence encoders come: every text would be cut and padded to one length.
    tokenizer.enable_padding(length=20, pad_id=padding, pad_token="[PAD]")
    tokenizer.enable_truncation(20)
    (folder / "text").mkdir(parents=True)
    tokenizer.save(str(folder / "text" / "tokenizer.json"))
    torch.manual_seed(7)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"max_position_embeddings": 40, "pad_token_id": padding, **config}
    sizes.setdefault("vocab_size", len(vocabulary))
    BertModel(BertConfig(**sizes)).save_pretrained(folder / "text")
    save_file({"vectors": torch.randn(sizes["vocab_size"], 32)}, folder / "words.safetensors")
    return folder


def add_text_encoder(name: str) -> Path:
    """Publish the small encoder in SMAR_HOME; returns its folder."""
    described: EncoderDescription = {
        "source": "tests",
        "licence": "",
        "languages": [],
        "scripts": ["Latin"],
        "parameters": {"text": 1},
    }
    return publish_encoder(name, write_text_encoder(temporary_beside(prepare_place(name))), described).place
