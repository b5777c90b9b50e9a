"""Hard negatives of clicked training pairs: arrays on disk that the stage mine-negatives makes and training memory-maps.

items (Q, W)    item rows for each distinct query, best first, −1 where there are no more
count (Q,)      how many each query has
queries (M,)    row in `items` of each clicked pair, in the order of train-tokenizer's clicked/
first (M,)      the first of the query's items that is bad enough to be a negative of the pair
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

NO_ITEM = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class HardNegatives:
    items: np.ndarray
    count: np.ndarray
    queries: np.ndarray
    first: np.ndarray

    def sample(self, pairs: np.ndarray, each: int, random: np.random.Generator) -> np.ndarray:
        """Items for each of the clicked pairs (B,), drawn alike from those it has: rows (B, each), NO_ITEM where it has none."""
        queries, first = self.queries[pairs][:, None], self.first[pairs][:, None]
        left = np.maximum(self.count[queries] - first, 0)
        place = np.minimum(first + (random.random((len(pairs), each)) * left).astype(np.int64), self.items.shape[1] - 1)
        return np.where(left > 0, self.items[queries, place], NO_ITEM)


def read_hard_negatives(folder: Path) -> HardNegatives:
    return HardNegatives(**{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in HardNegatives.__slots__})
