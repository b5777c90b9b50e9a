"""Rows that belong together wherever they stand in a file: a first reading counts them, so that a second one knows the last."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


class RowGroups:
    """Says of each row whether it is the last one of its group.

    Memory holds eight bytes a row while they are counted, then an entry for each group of several rows. Keys are told
    apart by 64 bits: should two share them, the last of both counts for both.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        """Count the rows.

        Args:
            keys: the group of each row, in the order of the file.
        """
        hashes = np.fromiter(map(hash, keys), dtype=np.int64)
        groups, counts = np.unique(hashes, return_counts=True)
        several = counts > 1
        self._left: dict[int, int] = dict(zip(groups[several].tolist(), counts[several].tolist(), strict=True))

    def is_last(self, key: str) -> bool:
        """Whether this row, the next one of the file, is the last one of its group."""
        left = self._left.get(hash(key), 1)
        if left > 1:
            self._left[hash(key)] = left - 1
            return False
        self._left.pop(hash(key), None)
        return True
