"""Text to token ids. The tokenizer is one JSON file of Hugging Face tokenizers; id 0 is padding."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from smar_model.data.query_text import beginning, normalise_query
from smar_model.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

NUMBERS_FILE = "catalogue_numbers.txt"
"""Beside tokenizer.json where the catalogue holds numbers that look like those of cards or telephones: one a line."""
CHARACTERS_A_TOKEN = 32
"""Of a query so many are looked at for each token that the model reads, which has four or five on average, seldom more than fifteen."""


def load_tokenizer(file: Path) -> Tokenizer:
    """Read tokenizer.json.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{file}: not a readable tokenizer: {error}") from None


def pad(rows: Sequence[Sequence[int]], length: int) -> np.ndarray:
    """Rows of ids to (B, L) int64, cut at `length` and padded with 0 to the longest, at least one place."""
    longest = max(1, min(length, max((len(r) for r in rows), default=1)))
    ids = np.zeros((len(rows), longest), dtype=np.int64)
    for i, row in enumerate(rows):
        cut = row[:longest]
        ids[i, : len(cut)] = cut
    return ids


def load_numbers(tokenizer_file: Path) -> frozenset[str]:
    """Numbers that the catalogue held which a tokenizer's model was trained on; empty where it held none."""
    file = tokenizer_file.with_name(NUMBERS_FILE)
    return frozenset(file.read_text(encoding="ascii").split()) if file.is_file() else frozenset()


def encode_queries(
    tokenizer: Tokenizer, queries: Sequence[str], length: int, catalogue_numbers: Collection[str] = frozenset()
) -> np.ndarray:
    """Queries to ids (B, L) int64, normalised as the training data were. What lies far behind the last token is cut off first."""
    longest = length * CHARACTERS_A_TOKEN
    texts = [normalise_query(beginning(query, longest), catalogue_numbers)[:longest] for query in queries]
    encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
    return pad([e.ids for e in encoded], length)


def encode_items(tokenizer: Tokenizer, catalogue: pd.DataFrame, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokenise a catalogue (columns title, category, brand, attributes), whose texts are segments 0–3.

    Returns:
        Token ids (N, L) int32, 0 is padding, and their segments (N, L) int8.
    """
    parts = [
        catalogue["title"].str.lower().tolist(),
        catalogue["category"].str.lower().str.replace(">", " ").tolist(),
        catalogue["brand"].str.lower().tolist(),
        [" ".join(str(v).lower() for _, v in sorted(dict(a).items())) for a in catalogue["attributes"]],
    ]
    ids = np.zeros((len(catalogue), length), dtype=np.int32)
    segments = np.zeros((len(catalogue), length), dtype=np.int8)
    encoded = [[e.ids for e in tokenizer.encode_batch(p, add_special_tokens=False)] for p in parts]
    for row in range(len(catalogue)):
        # A long title must not push the short parts out: it gives way first.
        rest = sum(len(part[row]) for part in encoded[1:])
        title = encoded[0][row][: max(length - rest, length // 2)]
        pieces = [title, *(part[row] for part in encoded[1:])]
        flat = [i for piece in pieces for i in piece][:length]
        flat_segments = [s for s, piece in enumerate(pieces) for _ in piece][:length]
        ids[row, : len(flat)] = flat
        segments[row, : len(flat)] = flat_segments
    return ids, segments


def trim(ids: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    """Cut columns that are padding in every row: short batches cost little."""
    used = max(1, int((ids != 0).any(0).nonzero()[0].max(initial=0)) + 1)
    return tuple(a[:, :used] for a in (ids, *others))
