"""Search: one code path for evaluation, the command line and serving. It imports no PyTorch and no pandas.

Only the query tower and P(q) run online (`query_encoder.py`). A query of several heads (DPSR) asks once for each; what any of them finds
is ordered by the score over all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import pyarrow as pa

from smar_model.errors import InputError
from smar_model.retrieval.arrow_numbers import numbers
from smar_model.retrieval.index_files import IndexManifest, open_index
from smar_model.retrieval.item_filters import ItemFilters, ItemOffer
from smar_model.retrieval.parted_index import PartedIndex
from smar_model.retrieval.query_encoder import QueryEncoder, score_rows
from smar_model.retrieval.query_tower import TOWER_FILE
from smar_model.retrieval.ranking import NO_ROW, Ranking, order_candidates
from smar_model.retrieval.stock_offers import with_stock

MEASURED_DEPTH = 100
"""Depth at which the recall of an index is measured."""
SHOWN = ["item_id", "title", "department", "images"]
"""Columns of a hit."""
RoutedBy = Literal["soft", "hard", "text", "pictures"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    item_id: str
    title: str
    department: str
    images: list[str]
    """File names under the pictures' root, the main one first."""
    score: float
    offer: ItemOffer
    """By which filters go."""


class _Column(Sequence):
    """A column of a table as Python values, each made when it is looked at: as lists, a million items take half a gigabyte."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.values = column.combine_chunks()

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            start, stop, step = row.indices(len(self))
            return self.values.slice(start, max(0, stop - start)).to_pylist()[::step] if step > 0 else list(self)[row]
        return self.values[row].as_py()

    def __iter__(self) -> Iterator:
        return iter(self.values.to_pylist())


def items_by_column(table: pa.Table) -> dict[str, Sequence]:
    """Table index_items as `Searcher` takes it."""
    return {name: _Column(table[name]) for name in table.column_names}


class Searcher:
    """A model with the index that was built for it."""

    def __init__(
        self,
        encoder: QueryEncoder,
        index: faiss.Index | PartedIndex,
        items: Mapping[str, Sequence],
        manifest: IndexManifest | None = None,
    ) -> None:
        self.encoder = encoder
        self.index = index if isinstance(index, PartedIndex) else PartedIndex([index])
        self.items = items
        self.manifest = manifest
        self.filters = ItemFilters(items, currencies=manifest.currencies if manifest else ())
        """Replaced as a whole when stock and prices change."""
        self._own_offers = self.filters.offers
        self.stock_digest, self.stocked_items = "", 0
        """Of the stock table that counts, and of how many items of this index it says something."""
        if encoder.heads > 1:
            self.index.enable_lookup()

    @classmethod
    def load(
        cls, model_folder: Path, index_folder: Path, *, part: int | None = None, model_digest: str | None = None
    ) -> Searcher:
        """Open a released pair.

        Args:
            part: number of the only part of the index that is opened, from 0; None: all of it.
            model_digest: digest of the model, where all files of the pair have been verified already; None: they are verified here.

        Raises:
            InputError: the index is damaged, was built by another model, or has no such part.
        """
        manifest, parts, items = open_index(index_folder, model_folder, part=part, made_for=model_digest)
        index, encoder = PartedIndex(parts), QueryEncoder.load(model_folder, index_folder / TOWER_FILE)
        if index.d != 2 * encoder.side.dimension:
            raise InputError(
                f"{index_folder}: vectors of {index.d} dimensions, the model asks with {2 * encoder.side.dimension}; build it again"
            )
        return cls(encoder, index, items_by_column(items), manifest)

    @property
    def item_ids(self) -> Sequence[str]:
        return self.items["item_id"]

    def rank(self, queries: list[str], depth: int) -> Ranking:
        """Rows of the index, best first."""
        return self.rank_routed(self.encoder.encode(queries)[0], depth)

    def score_rows(self, queries: list[str], rows: np.ndarray) -> np.ndarray:
        """As the index stores the items, which may be in fewer bits."""
        self.index.enable_lookup()
        return score_rows(self.encoder, self.index.reconstruct_batch, queries, rows)

    def rank_routed(
        self,
        asked: np.ndarray,
        depth: int,
        departments: Collection[str] = (),
        filters: Sequence[str] = (),
        *,
        known: ItemFilters | None = None,
    ) -> Ranking:
        """Likewise for queries as `QueryEncoder.encode` gives them; with departments or filters, among their items alone.

        Args:
            known: prices and stock to filter by, of before a change; None: those of now.

        Raises:
            InputError: a department has no item in this index, a filter is none (`filter_language.py`), or an index of its kind cannot be
                searched in part.
        """
        asked = np.ascontiguousarray(asked, dtype=np.float32)
        # No shallower than what the index's recall was measured at: of fewer results it looks at fewer candidates.
        searched = max(depth, MEASURED_DEPTH)
        scores, rows = self.index.search(asked, searched, self._selected(departments, filters, known or self.filters))
        if self.encoder.heads > 1:
            scores, rows = self._over_heads(asked, rows.reshape(-1, self.encoder.heads * rows.shape[1]))
        ranking = order_candidates(rows.astype(np.int32), scores)
        return Ranking(rows=ranking.rows[:, :depth], scores=ranking.scores[:, :depth])

    def _over_heads(self, asked: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores over all heads of what any of them found, each item once: rows (B, C) → scores and rows (B, C)."""
        rows = np.sort(rows, axis=1)
        rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = NO_ROW
        scores = np.full(rows.shape, -np.inf, dtype=np.float32)
        for query, found in enumerate(rows):
            kept = found != NO_ROW
            heads = asked[query * self.encoder.heads : (query + 1) * self.encoder.heads]
            scores[query, kept] = self.score(heads, found[kept])
        return scores, rows

    def score(self, asked: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Scores of one routed query, of its K heads (K, 2D), with rows of the index (N,) → (N,)."""
        self.index.enable_lookup()
        return self.encoder.join_heads(asked @ self.index.reconstruct_batch(rows).T)[0]

    def search(
        self,
        queries: list[str],
        k: int = 10,
        *,
        departments: Collection[str] = (),
        filters: Sequence[str] = (),
        routing: RoutedBy | None = None,
    ) -> tuple[list[list[Hit]], np.ndarray]:
        """The k best items for each query, best first, and P(q) of each query (B,). Any number of threads may search.

        Args:
            departments: only their items; none: all.
            filters: only items that match all of them (`filter_language.py`).
            routing: what p of [Q ; p·Q] is in the place of what the model ships with: `text` 0, `pictures` 1, `hard` 0 or 1 by
                P(q) ≥ .5, `soft` the share that the model was trained to mix by, or P(q) itself where it was not.

        Raises:
            InputError: a department has no item in this index, or a filter is none.
        """
        asked, _, probabilities = self.encode(queries, routing)
        known = self.filters  # one for the whole search: what is shown is what was filtered by
        ranking = self.rank_routed(asked, k, departments, filters, known=known)
        return self._hits(ranking, known), probabilities

    def encode(
        self, queries: Sequence[str], routing: RoutedBy | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `QueryEncoder.encode`, by the routing that is asked for: what the index is asked with, shares of S_m, P(q)."""
        asked, shares, probabilities = self.encoder.encode(queries)
        if routing:
            shares = self._shares(routing, shares, probabilities)
            asked = self._routed(asked, shares)
        return asked, shares, probabilities

    def _shares(self, routing: RoutedBy, shares: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        if routing in {"text", "pictures"}:
            return np.full_like(shares, routing == "pictures")
        if routing == "hard":
            return (probabilities >= 0.5).astype(np.float32)
        return shares if self.encoder.side.variant.routing == "soft" else probabilities

    def _routed(self, asked: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Routed queries of K heads (B·K, 2D) with other shares (B,) of S_m."""
        heads = asked[:, : asked.shape[1] // 2]
        return np.hstack([heads, np.repeat(shares, self.encoder.heads)[:, None] * heads])

    @cached_property
    def _departments(self) -> dict[str, np.ndarray]:
        """Department → its rows as a bitmap, N bits; the largest department first."""
        column = self.items["department"]
        every = (
            column.values if isinstance(column, _Column) else pa.array(list(column), pa.string())
        ).dictionary_encode()
        places, names = numbers(every.indices), np.array(every.dictionary.to_pylist(), dtype=str)
        order = np.lexsort((names, -np.bincount(places, minlength=len(names))))
        return {str(names[n]): np.packbits(places == n, bitorder="little") for n in order.tolist()}

    @cached_property
    def department_sizes(self) -> dict[str, int]:
        """Items of each department, the largest first."""
        return {name: int(np.unpackbits(bitmap).sum()) for name, bitmap in self._departments.items()}

    def take_stock(self, rows: pa.Table, digest: str) -> None:
        """Filter by a stock table from now on; a search that has begun ends with what it began with."""
        ids = self.items["item_id"]
        array = ids.values if isinstance(ids, _Column) else pa.array(list(ids), pa.string())
        filters, self.stocked_items = with_stock(self.filters, self._own_offers, array, rows)
        self.filters, self.stock_digest = filters, digest

    def _selected(self, departments: Collection[str], filters: Sequence[str], known: ItemFilters) -> np.ndarray | None:
        """Rows of departments that match filters, as a bitmap; None: all."""
        chosen = self._rows_of(departments) if departments else None
        if not filters:
            return chosen
        matching = known.select(filters)
        return matching if chosen is None else chosen & matching

    def _rows_of(self, departments: Collection[str]) -> np.ndarray:
        """Rows of departments as a bitmap."""
        if unknown := sorted(set(departments) - set(self._departments)):
            raise InputError(
                f"department {unknown[0]!r}: this index has no item in it; there are {', '.join(self._departments)}"
            )
        return np.bitwise_or.reduce([self._departments[name] for name in departments])

    def _hits(self, ranking: Ranking, known: ItemFilters) -> list[list[Hit]]:
        """What is shown of each query's rows."""
        found = ranking.rows != NO_ROW
        rows = ranking.rows[found]
        offers = map(known.offer, rows.tolist())
        hits = map(self._hit, *self._shown(rows), ranking.scores[found].tolist(), offers)
        return [list(islice(hits, count)) for count in found.sum(axis=1).tolist()]

    def _shown(self, rows: np.ndarray) -> list[list[Any]]:
        """Ids, titles, departments and pictures of rows."""
        if self._shown_columns is not None:
            return list(self._shown_columns.take(pa.array(rows)).to_pydict().values())
        return [[self.items[name][row] for row in rows.tolist()] for name in SHOWN]

    @cached_property
    def _shown_columns(self) -> pa.RecordBatch | None:
        """From which rows are taken all at once; None where the items are no Arrow table."""
        columns = [column.values for name in SHOWN if isinstance(column := self.items[name], _Column)]
        return pa.RecordBatch.from_arrays(columns, SHOWN) if len(columns) == len(SHOWN) else None

    def _hit(self, item_id: str, title: str, department: str, images: list[str], score: float, offer: ItemOffer) -> Hit:
        return Hit(item_id=item_id, title=title, department=department, images=images, score=score, offer=offer)
