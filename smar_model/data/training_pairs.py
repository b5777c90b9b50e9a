"""Training pairs (query, item): synthetic queries, a fresh one at each visit, and clicked ones by their weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

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


def read_synthetic_pairs(files: Sequence[Path], item_ids: Sequence[str]) -> SyntheticPairs:
    """Synthetic queries of the given items.

    Raises:
        InputError: there is none for any of them.
    """
    frame = ds.dataset([str(f) for f in files]).to_table(columns=["item_id", "query"]).to_pandas()
    rows = pd.Index(item_ids).get_indexer(frame["item_id"])
    frame = frame.assign(row=rows)[rows >= 0].sort_values(["row", "query"], ignore_index=True)
    if frame.empty:
        raise InputError("synthetic_queries: no row for any item of the catalogue; run generate-queries again")
    count = np.bincount(frame["row"], minlength=len(item_ids))
    return SyntheticPairs(queries=frame["query"].to_numpy(object), first=np.cumsum(count) - count, count=count)


def read_clicked_pairs(files: Sequence[Path], item_ids: Sequence[str], days: Sequence[date]) -> ClickedPairs:
    """Clicked pairs of the given days and items, weighted by clicks, carts and orders.

    Raises:
        InputError: there is none.
    """
    dataset = ds.dataset([str(f) for f in files])
    frame = dataset.to_table(filter=ds.field("day").isin(list(days)) & (ds.field("clicks") > 0)).to_pandas()
    frame = frame.groupby(["query", "item_id"], as_index=False)[["clicks", "carts", "orders"]].sum()
    rows = pd.Index(item_ids).get_indexer(frame["item_id"])
    frame = frame.assign(row=rows)[rows >= 0]
    if frame.empty:
        raise InputError(f"clicks: no click on a known item from {days[0]} to {days[-1]}; check the log of these days")
    weight = (frame["clicks"] + CART_WEIGHT * frame["carts"] + ORDER_WEIGHT * frame["orders"]).to_numpy(float)
    return ClickedPairs(
        queries=frame["query"].to_numpy(object), rows=frame["row"].to_numpy(), weight=weight / weight.sum()
    )
