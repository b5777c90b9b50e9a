"""FAISS indexes over a catalogue's embeddings: which kind, trained on a sample, filled block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

import faiss
import numpy as np

from smar_model.errors import InputError
from smar_model.retrieval.item_embeddings import ItemEmbeddings

EXACT_LIMIT = 50_000
"""Up to here exact search answers one query in about 5 ms on one core."""
HIGHEST_APPROXIMATE = 0.999
"""A floor above this is for exact search alone."""
POINTS_A_LIST = 64
"""Training vectors for each list; FAISS asks for 39 and uses at most 256."""
LEAST_SAMPLE = 1 << 16
BLOCK = 1 << 16
"""Vectors in memory at a time."""


class RoutedItems:
    """[S_t ; S_m − S_t] of items, (N, 2D) float32, made of embeddings on disk for the rows that are asked for."""

    def __init__(self, embeddings: ItemEmbeddings) -> None:
        self.embeddings = embeddings
        self.shape = (len(embeddings.item_ids), 2 * embeddings.text.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        text, multimodal = np.asarray(self.embeddings.text[rows]), np.asarray(self.embeddings.multimodal[rows])
        return np.hstack([text, multimodal - text])


class Vectors(Protocol):
    """Vectors (N, 2D), in memory or on disk, for the rows that are asked for: an array, `RoutedItems`, `RoutedStretch`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> np.ndarray: ...


def choose_factory(items: int, dimension: int, minimum_recall: float) -> str:
    """FAISS factory string for so many vectors of 2D dimensions, of which at least this share of the best must be found."""
    if items <= EXACT_LIMIT or minimum_recall > HIGHEST_APPROXIMATE:
        return "Flat"
    lists = 1 << round(math.log2(math.sqrt(items)))
    # Two dimensions a code: codes of four lose too many of the best, however many are scored again (benchmarks/search.md).
    return f"IVF{lists},PQ{dimension // 2}x4fs,Refine(SQfp16)"


def train_index(vectors: Vectors, factory: str) -> faiss.Index:
    """An empty inner-product index over (N, 2D) vectors, trained on a sample of them.

    Raises:
        InputError: FAISS does not know the factory string, or has too few vectors to train it.
    """
    try:
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            lists = faiss.try_extract_index_ivf(index)
            sample = min(len(vectors), max(LEAST_SAMPLE, POINTS_A_LIST * lists.nlist if lists else 0))
            index.train(vectors[np.sort(np.random.default_rng(0).choice(len(vectors), sample, replace=False))])
    except RuntimeError as error:
        raise InputError(f"index.factory {factory!r} for {len(vectors)} items: {str(error).splitlines()[0]}") from error
    return index


def fill_index(index: faiss.Index, vectors: Vectors) -> faiss.Index:
    """Add vectors to a trained index, in place of those that it holds."""
    index.reset()
    for _, block in iterate_blocks(vectors):
        index.add(block)
    return index


def iterate_blocks(
    vectors: Vectors, rows: tuple[int, int] | None = None, *, together: int = BLOCK
) -> Iterator[tuple[int, np.ndarray]]:
    first, stop = rows or (0, len(vectors))
    for start in range(first, stop, together):
        yield start, np.ascontiguousarray(vectors[start : min(start + together, stop)], dtype=np.float32)
