"""The tokenizer of a pretrained text encoder in this project's form: id 0 is padding, and what stands around a text is known apart.

Token tables, hidden tokens and masks take 0 for padding. In other vocabularies 0 can be any token, so the padding token and token 0 change
places, here in the tokenizer and in `swapped_rows` in whatever has a row a token.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tokenizers import Tokenizer

from smar_model.errors import InputError

Rows = TypeVar("Rows")
PROBE = "a"
"""A text of at least one token in any vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderTokenizer:
    tokenizer: Tokenizer
    """Adds nothing around a text, cuts and pads nothing."""
    padding: int
    """Id that the encoder itself has for the padding token; ours is 0."""
    before: tuple[int, ...]
    """Tokens that the encoder was trained with before each text, such as [CLS], by our ids."""
    after: tuple[int, ...]
    """Likewise after it, such as [SEP]."""

    def swapped_rows(self, rows: np.ndarray) -> np.ndarray:
        """A copy of rows (V, …) by the encoder's ids, in the order of ours."""
        swapped = rows.copy()
        swapped[[0, self.padding]] = rows[[self.padding, 0]]
        return swapped


def read_encoder_tokenizer(folder: Path) -> EncoderTokenizer:
    """Read `text/tokenizer.json` in an encoder's folder.

    Raises:
        InputError: it is missing or damaged, or none of its special tokens can stand for padding.
    """
    file = folder / "text" / "tokenizer.json"
    try:
        whole = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"network.text.pretrained: {file}: not a readable tokenizer: {error}") from None
    whole.no_padding()
    whole.no_truncation()
    content = json.loads(file.read_text(encoding="utf-8"))
    padding = _padding_id(content)
    if padding is None:
        raise InputError(
            f"network.text.pretrained: {file}: has no special token that can stand for padding; choose an encoder whose tokenizer has one"
        )
    if (last := max(whole.get_vocab().values())) >= whole.get_vocab_size():
        raise InputError(
            f"network.text.pretrained: {file}: its {whole.get_vocab_size()} tokens have ids up to {last}; choose an encoder whose ids have no gaps"
        )
    before, after = _around(whole)

    def ours(token: int) -> int:
        return {0: padding, padding: 0}.get(token, token)

    content |= {"padding": None, "truncation": None, "post_processor": None}
    _swap(content, padding)
    try:
        tokenizer = Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
    except Exception as error:
        raise InputError(f"network.text.pretrained: {file}: padding cannot be made token 0: {error}") from None
    return EncoderTokenizer(
        tokenizer=tokenizer, padding=padding, before=tuple(map(ours, before)), after=tuple(map(ours, after))
    )


def _padding_id(content: dict[str, Any]) -> int | None:
    """Of the token that pads; where none is called so, of a special token, which no text contains."""
    if content.get("padding"):
        return int(content["padding"]["pad_id"])
    special = [token for token in content["added_tokens"] if token["special"]]
    named = [token["id"] for token in special if "pad" in token["content"].lower()]
    return next(iter([*named, *(token["id"] for token in reversed(special))]), None)


def _around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Ids that the tokenizer puts before and after a text."""
    bare = tokenizer.encode(PROBE, add_special_tokens=False).ids
    whole = tokenizer.encode(PROBE).ids
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []


def _swap(content: dict[str, Any], padding: int) -> None:
    """Let token 0 and the padding token change places in a tokenizer's JSON."""
    if padding == 0:
        return
    model = content["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):  # Unigram: the place is the id
        vocabulary[0], vocabulary[padding] = vocabulary[padding], vocabulary[0]
        if model.get("unk_id") in (0, padding):
            model["unk_id"] = padding - model["unk_id"]
    else:
        names = {token: name for name, token in vocabulary.items() if token in (0, padding)}
        for token, name in names.items():
            vocabulary[name] = padding - token
    for token in content["added_tokens"]:
        if token["id"] in (0, padding):
            token["id"] = padding - token["id"]
    content["added_tokens"].sort(key=lambda token: token["id"])
