"""What a ranker answers: for each query the catalogue's best rows, in one exact order.

Items are named by their row in the catalogue sorted by item id, so "row ascending" is "id ascending": ties in the
score are settled the same way for every ranker and on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

NO_ROW = -1
"""Stands in `Ranking.rows` where a query has fewer results than the depth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Results of Q queries to a depth D, best first."""

    rows: np.ndarray
    """(Q, D) int32: rows of the catalogue sorted by item id, NO_ROW where nothing was found."""
    scores: np.ndarray
    """(Q, D) float32; −inf where nothing was found."""

    @property
    def depth(self) -> int:
        return self.rows.shape[1]

    def take(self, queries: np.ndarray) -> Ranking:
        """The results of these queries, by their numbers (repeats allowed)."""
        return Ranking(rows=self.rows[queries], scores=self.scores[queries])


class Ranker(Protocol):
    @property
    def item_ids(self) -> Sequence[str]:
        """Ids of the catalogue, ascending: what the rows of its rankings stand for."""

    def rank(self, queries: list[str], depth: int) -> Ranking: ...

    def score_rows(self, queries: list[str], rows: np.ndarray) -> np.ndarray:
        """Scores of given rows, (Q, L) → (Q, L), by which `rank` orders; −inf for NO_ROW and what is no result for the query."""


def rank_scores(scores: np.ndarray, depth: int) -> Ranking:
    """The `depth` best of all N items for each query, by score descending, then row ascending.

    Args:
        scores: (Q, N), one column an item; −inf means that the item is no result for the query.

    Raises:
        ValueError: a score is NaN, which has no place in an order.
    """
    if np.isnan(scores).any():
        raise ValueError("a score is NaN; the model that made it is broken")
    queries, items = scores.shape
    kept = min(depth, items)
    rows = np.full((queries, depth), NO_ROW, dtype=np.int32)
    best = np.full((queries, depth), -np.inf, dtype=np.float32)
    if kept and queries:
        # A full sort costs N log N a query. Instead: everything above the kept-th largest value, and of the items
        # tied with it the lowest rows, as many as there is room for. That is exactly `kept` items a query.
        # Negated, as numpy's partition is many times slower at the far end of rows with many ties (BM25's non-results).
        last = -np.partition(-scores, kept - 1, axis=1)[:, kept - 1, None]
        above, tied = scores > last, scores == last
        room = kept - above.sum(axis=1, keepdims=True)
        chosen = np.nonzero(above | (tied & (np.cumsum(tied, axis=1, dtype=np.int32) <= room)))[1]
        candidates = chosen.reshape(queries, kept).astype(np.int32)
        ordered = order_candidates(candidates, np.take_along_axis(scores, candidates, axis=1))
        rows[:, :kept], best[:, :kept] = ordered.rows, ordered.scores
    return Ranking(rows=rows, scores=best)


def order_candidates(rows: np.ndarray, scores: np.ndarray) -> Ranking:
    """Order each query's candidates, (Q, C) rows and scores, by score descending, then row ascending.

    A candidate without a row (NO_ROW) or with score −inf is no result and goes last.
    """
    scores = np.where(rows == NO_ROW, -np.inf, scores).astype(np.float32)
    order = np.lexsort((rows, -scores), axis=1)
    scores = np.take_along_axis(scores, order, axis=1)
    rows = np.where(np.isneginf(scores), NO_ROW, np.take_along_axis(rows, order, axis=1)).astype(np.int32)
    return Ranking(rows=rows, scores=scores)


def concatenate_rankings(parts: Sequence[Ranking]) -> Ranking:
    """One ranking of the queries of all parts, in their order."""
    return Ranking(
        rows=np.concatenate([part.rows for part in parts]), scores=np.concatenate([part.scores for part in parts])
    )
