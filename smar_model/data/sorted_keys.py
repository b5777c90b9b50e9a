"""Keys (ids, digests) as sorted bytes, and their rows found by a binary search of many at once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa


def as_bytes(texts: pa.Array | Iterable[str]) -> np.ndarray:
    """UTF-8 bytes of texts, (N,) of the width of the longest: what ids are sorted and found by."""
    column = texts if isinstance(texts, pa.Array) else pa.array(list(texts), pa.string())
    return np.array(column.cast(pa.binary()).to_numpy(zero_copy_only=False), dtype=np.bytes_)


def find_rows(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Row of each wanted key in the sorted `keys`, −1 for one that is not there. (N,) and (M,) bytes → (M,) int64"""
    # Searched with the keys' own width: with another one the library would copy all keys.
    found = np.minimum(np.searchsorted(keys, wanted.astype(keys.dtype)), len(keys) - 1)
    return np.where(keys[found] == wanted, found, -1)
