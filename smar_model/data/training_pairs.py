"""Training pairs (query, item): synthetic queries, a fresh one at each visit, and clicked ones by their weight."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from smar_model.errors import InputError

CART_WEIGHT, ORDER_WEIGHT = 1.0, 2.0
"""What a cart and an order add to the weight of a click."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticPairs:
    """Queries grouped by item: those of item row i are `queries[first[i] : first[i] + count[i]]`."""

    queries: np.ndarray
    first: np.ndarray
    count: np.ndarray

    def sample(self, batch: int, random: np.random.Generator) -> tuple[list[str], np.ndarray]:
        """A batch of distinct items, each with one of its queries: texts and item rows (B,)."""
        usable = np.flatnonzero(self.count)
        rows = random.choice(usable, min(batch, len(usable)), replace=False)
        picks = self.first[rows] + random.integers(0, self.count[rows])
        return self.queries[picks].tolist(), rows


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickedPairs:
    queries: np.ndarray
    rows: np.ndarray
    """Item rows."""
    weight: np.ndarray
    """Probabilities, sum 1."""

    def sample(self, batch: int, random: np.random.Generator) -> tuple[list[str], np.ndarray]:
        """A batch of pairs by weight; an item or a query may occur twice (the loss masks duplicates)."""
        picks = random.choice(len(self.rows), batch, p=self.weight)
        return self.queries[picks].tolist(), self.rows[picks]


def in_novel_bucket(kind: Literal["query", "item"], keys: Sequence[str], share: float) -> np.ndarray:
    """Which queries or items a comparison run keeps out of training, (N,) bool: those whose hash lies in the first `share`
    of its range. The function of the same name in `sql/assign_segments.sql` is its twin."""
    if share == 0:
        return np.zeros(len(keys), dtype=bool)
    hashes = np.fromiter((zlib.crc32(f"{kind}:{key}".encode()) for key in keys), dtype=np.int64, count=len(keys))
    return hashes < share * 2**32


def _leave_out_novel(frame: pd.DataFrame, share: float) -> pd.DataFrame:
    novel = in_novel_bucket("query", frame["query"], share) | in_novel_bucket("item", frame["item_id"], share)
    return frame[~novel]


def read_synthetic_pairs(
    files: Sequence[Path], item_ids: Sequence[str], *, novel_bucket: float = 0.0
) -> SyntheticPairs:
    """Synthetic queries of the given items, without those in the novel bucket.

    Raises:
        InputError: there is none for any of them.
    """
    frame = ds.dataset([str(f) for f in files]).to_table(columns=["item_id", "query"]).to_pandas()
    frame = _leave_out_novel(frame, novel_bucket)
    rows = pd.Index(item_ids).get_indexer(frame["item_id"])
    frame = frame.assign(row=rows)[rows >= 0].sort_values(["row", "query"], ignore_index=True)
    if frame.empty:
        raise InputError("synthetic_queries: no row for any item of the catalogue; run generate-queries again")
    count = np.bincount(frame["row"], minlength=len(item_ids))
    return SyntheticPairs(queries=frame["query"].to_numpy(object), first=np.cumsum(count) - count, count=count)


def read_clicked_pairs(
    files: Sequence[Path], item_ids: Sequence[str], days: Sequence[date], *, novel_bucket: float = 0.0
) -> ClickedPairs:
    """Clicked pairs of the given days and items, by their clicks freed of position bias, carts and orders.

    Raises:
        InputError: there is none.
    """
    dataset = ds.dataset([str(f) for f in files])
    frame = dataset.to_table(filter=ds.field("day").isin(list(days)) & (ds.field("clicks") > 0)).to_pandas()
    frame = _leave_out_novel(frame, novel_bucket)
    frame = frame.groupby(["query", "item_id"], as_index=False)[["weight", "carts", "orders"]].sum()
    rows = pd.Index(item_ids).get_indexer(frame["item_id"])
    frame = frame.assign(row=rows)[rows >= 0]
    if frame.empty:
        raise InputError(f"clicks: no click on a known item from {days[0]} to {days[-1]}; check the log of these days")
    weight = (frame["weight"] + CART_WEIGHT * frame["carts"] + ORDER_WEIGHT * frame["orders"]).to_numpy(float)
    return ClickedPairs(
        queries=frame["query"].to_numpy(object), rows=frame["row"].to_numpy(), weight=weight / weight.sum()
    )
