"""Embeddings of a catalogue's items: in memory, and as arrays that the stages embed and embed-release publish.

embeddings/item_ids.npy      (N,) UTF-8 bytes, sorted
           digests.npy       (N, 2) uint64, of all that an item's embedding depends on beside the model
           text.npy          (N, D) float32, S_t
           multimodal.npy    (N, D) float32, S_m; not there for a variant without pictures
           row_digests.npy   by which a stretch of the rows is verified without the others (`embedding_rows.py`)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smar_model.errors import InputError

KINDS = ("text", "multimodal")


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemEmbeddings:
    item_ids: list[str]
    """Sorted; row i of both arrays belongs to item_ids[i]."""
    text: np.ndarray
    """S_t, unit vectors (N, D) float32."""
    multimodal: np.ndarray
    """S_m (N, D) float32, as a query with P(q) = 1 meets it: unit vectors, or S_t + c(item)·(S_m − S_t) for a variant with
    item confidence; equal to S_t for a variant without pictures."""


def routed_items(embeddings: ItemEmbeddings) -> np.ndarray:
    """What an index stores, [S_t ; S_m − S_t], (N, 2D) float32."""
    return np.hstack([embeddings.text, embeddings.multimodal - embeddings.text]).astype(np.float32)


def load_embeddings(folder: Path) -> ItemEmbeddings:
    """What embed or embed-release published, memory-mapped.

    Raises:
        InputError: it is not there, or not whole.
    """
    item_ids, _, vectors = open_embeddings(folder)
    return ItemEmbeddings(item_ids=[i.decode() for i in item_ids.tolist()], text=vectors[0], multimodal=vectors[-1])


def open_embeddings(folder: Path) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Ids, digests, and S_t and S_m, or S_t alone.

    Raises:
        InputError: as `load_embeddings`.
    """
    folder = folder / "embeddings"
    try:
        ids, digests, text = (np.load(folder / f"{n}.npy", mmap_mode="r") for n in ("item_ids", "digests", KINDS[0]))
        both = folder / f"{KINDS[1]}.npy"
        return ids, digests, [text, np.load(both, mmap_mode="r")] if both.is_file() else [text]
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: not whole embeddings: {error}; run the stage embed again") from error


def create_embeddings(
    folder: Path, item_ids: np.ndarray, digests: np.ndarray, *, dimension: int, kinds: int
) -> list[np.memmap]:
    """Write ids and digests; returns S_t and S_m, or S_t alone, to be filled through memory-mapping, (N, D) each."""
    np.save(folder / "item_ids.npy", item_ids)
    np.save(folder / "digests.npy", digests)
    shape = (len(item_ids), dimension)
    return [
        np.lib.format.open_memmap(folder / f"{kind}.npy", mode="w+", dtype=np.float32, shape=shape)
        for kind in KINDS[:kinds]
    ]
