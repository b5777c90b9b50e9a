"""The lists that the shop's engine showed on the evaluation days, as its log has them: the table `shown_lists`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from smar_model.lake.contracts import load_contract
from smar_model.retrieval.ranking import NO_ROW

DEEPEST = 100
"""Places of a list that are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownLists:
    """R lists of at most L places; rows are of the catalogue sorted by item id."""

    request_ids: np.ndarray
    queries: np.ndarray
    """(R,) normalised texts."""
    rows: np.ndarray
    """(R, L) int32, from the top; NO_ROW below the end of a list, and where the catalogue lacks the item."""
    positions: np.ndarray
    """(R, L) int32 place of each, 1 is the top; 0 below the end."""
    clicked: np.ndarray
    """(R, L) bool"""
    versions: dict[str, int]
    """Model version that answered, as far as the log says → lists."""
    counts: dict[str, int]
    """What was read and left out."""

    def __len__(self) -> int:
        return len(self.request_ids)


def read_shown_lists(files: Sequence[Path], item_ids: Sequence[str], days: Collection[date]) -> ShownLists | None:
    """Lists of these days, of more than one place, that one engine made; None where there are none.

    Interleaved ones are left out: `interleaved_lists.py` judges them.
    """
    if not files:
        return None
    schema = load_contract("shown_lists").arrow_schema()
    table = (
        ds.dataset([str(f) for f in files], schema=schema)
        .to_table(filter=ds.field("day").isin(list(days)))
        .sort_by([("day", "ascending"), ("request_id", "ascending")])
    )
    lengths = pa.compute.list_value_length(table["items"]).to_numpy()
    owner = np.repeat(np.arange(len(lengths)), lengths)
    interleaved = np.bincount(owner, _flat(table, "teams") != "", len(lengths)) > 0
    kept = (lengths > 1) & ~interleaved
    if not kept.any():
        return None
    place = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    read = kept[owner] & (place < DEEPEST)
    number = np.cumsum(kept) - 1
    cells, shape = (number[owner[read]], place[read]), (int(kept.sum()), int(min(lengths[kept].max(), DEEPEST)))
    found = pd.Index(item_ids).get_indexer(_flat(table, "items")[read])
    rows, positions, clicked = np.full(shape, NO_ROW, np.int32), np.zeros(shape, np.int32), np.zeros(shape, bool)
    rows[cells], positions[cells] = found, _flat(table, "positions")[read]
    clicked[cells] = _flat(table, "clicks")[read] > 0
    first = _flat(table, "versions")[np.flatnonzero(place == 0)][kept[lengths > 0]]
    return ShownLists(
        request_ids=table["request_id"].to_numpy()[kept],
        queries=table["query"].to_numpy()[kept],
        rows=rows,
        positions=positions,
        clicked=clicked,
        versions=dict(sorted(Counter(str(version) for version in first if version).items())),
        counts={
            "lists_read": len(lengths),
            "lists_interleaved": int(interleaved.sum()),
            "lists_of_one_place": int(((lengths < 2) & ~interleaved).sum()),
            "places_beyond_the_depth_read": int((kept[owner] & (place >= DEEPEST)).sum()),
            "places_with_items_not_in_catalogue": int((found < 0).sum()),
        },
    )


def _flat(table: pa.Table, column: str) -> np.ndarray:
    """The entries of all lists of a column, one after the other."""
    return pa.compute.list_flatten(table[column]).to_numpy()


def read_propensities(files: Sequence[Path]) -> np.ndarray:
    """(K,) chance of a look at each place, from the top; the last stands for all further down."""
    if not files:
        return np.ones(1)
    schema = load_contract("propensities").arrow_schema()
    table = ds.dataset([str(f) for f in files], schema=schema).to_table().sort_by("position")
    return table["propensity"].to_numpy() if table.num_rows else np.ones(1)
