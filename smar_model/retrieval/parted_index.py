"""FAISS indexes of one training that hold one stretch of the rows after the other, asked as one.

Each part is asked for as many as all of them are, and the best of what they find are the best. Parts of one training look at the same
lists, so together they look at no fewer candidates than one index would.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import faiss
import numpy as np

from smar_model.retrieval.filtered_search import search_selected

_FAISS: Any = faiss
"""Whose type stubs know neither keyword arguments of what SWIG makes nor its vectors."""
BITS = 8
"""Parts begin at whole bytes of a bitmap of the rows."""


def cut_rows(rows: int, parts: int) -> list[tuple[int, int]]:
    """First row and the one after the last of each part; none is empty."""
    starts = sorted({rows * n // parts // BITS * BITS for n in range(parts)})
    return list(zip(starts, [*starts[1:], rows], strict=True))


class PartedIndex:
    """Any number of threads may search."""

    def __init__(self, parts: Sequence[faiss.Index]) -> None:
        self.parts = list(parts)
        self.starts = np.cumsum([0, *(part.ntotal for part in self.parts)])

    @property
    def d(self) -> int:
        return self.parts[0].d

    @property
    def ntotal(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(len(self.parts), "index-part", initializer=_FAISS.omp_set_num_threads, initargs=(1,))

    def search(self, asked: np.ndarray, depth: int, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows (Q, C) of the best for queries (Q, 2D), NO_ROW where there are no more: of one part best first, of several
        those of one after those of the other.

        Args:
            among: a bitmap of the rows that may be found.

        Raises:
            InputError: an index of this kind cannot be searched in part.
        """

        def search_part(number: int) -> tuple[np.ndarray, np.ndarray]:
            part, (start, stop) = self.parts[number], self.starts[number : number + 2]
            if among is None:
                scores, rows = part.search(asked, depth)
            else:
                scores, rows = search_selected(part, asked, depth, among[start // BITS : -(-stop // BITS)])
            return scores, np.where(rows < 0, rows, rows + start)

        if len(self.parts) == 1:
            return search_part(0)
        found = list(self._pool.map(search_part, range(len(self.parts))))
        scores, rows = zip(*found, strict=True)
        return np.concatenate(scores, axis=1), np.concatenate(rows, axis=1)

    def enable_lookup(self) -> None:
        """Inverted lists find a row's vector again by a table, which is made once: from then on threads only read it."""
        for part in self.parts:
            lists = faiss.try_extract_index_ivf(part)
            if lists is not None:
                lists.make_direct_map()

    def reconstruct_batch(self, rows: np.ndarray) -> np.ndarray:
        """Vectors (N, 2D) of rows (N,), after `enable_lookup`."""
        vectors = np.empty((len(rows), self.d), np.float32)
        for part, start, stop in zip(self.parts, self.starts[:-1], self.starts[1:], strict=True):
            inside = (rows >= start) & (rows < stop)
            if inside.any():
                vectors[inside] = part.reconstruct_batch(rows[inside] - start)
        return vectors
