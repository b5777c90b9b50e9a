"""Which items are relevant to which queries, sparsely, and what that makes of a ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smar_model.retrieval.ranking import NO_ROW, Ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class Relevance:
    """Grades of items for Q queries; queries that ask for the same share one of S sets.

    Set s holds `rows[starts[s] : starts[s + 1]]`, ascending, with `grades` alike; items outside have grade 0.
    """

    items: int
    """Size of the catalogue."""
    set_of_query: np.ndarray
    """(Q,) int64"""
    starts: np.ndarray
    """(S + 1,) int64"""
    rows: np.ndarray
    """(R,) int64: rows of the catalogue sorted by item id."""
    grades: np.ndarray
    """(R,) float64, all above 0."""

    @classmethod
    def from_sets(
        cls, sets: Sequence[tuple[np.ndarray, np.ndarray]], *, set_of_query: np.ndarray, items: int
    ) -> Relevance:
        """From (rows, grades) of each set, in any order; rows of grade 0 are dropped."""
        kept = []
        for rows, grades in sets:
            order = np.argsort(rows, kind="stable")
            order = order[np.asarray(grades)[order] > 0]
            kept.append((np.asarray(rows)[order], np.asarray(grades)[order]))
        return cls(
            items=items,
            set_of_query=np.asarray(set_of_query, dtype=np.int64),
            starts=np.cumsum([0] + [len(rows) for rows, _ in kept], dtype=np.int64),
            rows=np.concatenate([rows for rows, _ in kept]).astype(np.int64),
            grades=np.concatenate([grades for _, grades in kept]).astype(np.float64),
        )

    def followed_by(self, other: Relevance) -> Relevance:
        """These queries, then the other's."""
        return Relevance(
            items=self.items,
            set_of_query=np.concatenate([self.set_of_query, other.set_of_query + len(self.starts) - 1]),
            starts=np.concatenate([self.starts, self.starts[-1] + other.starts[1:]]),
            rows=np.concatenate([self.rows, other.rows]),
            grades=np.concatenate([self.grades, other.grades]),
        )

    @classmethod
    def from_targets(cls, targets: np.ndarray, *, items: int) -> Relevance:
        """One relevant item a query: (Q,) rows."""
        queries = len(targets)
        return cls(
            items=items,
            set_of_query=np.arange(queries),
            starts=np.arange(queries + 1),
            rows=np.asarray(targets, dtype=np.int64),
            grades=np.ones(queries),
        )

    def counts(self) -> np.ndarray:
        """(Q,) how many items are relevant."""
        return np.diff(self.starts)[self.set_of_query]

    def grades_of(self, rows: np.ndarray) -> np.ndarray:
        """(Q, D) grades of the items ranked, for (Q, D) rows; 0 where there is no row or it is not relevant."""
        if not len(self.rows):
            return np.zeros(rows.shape)
        # One sorted key for each pair (set, row) turns all look-ups into one binary search.
        keys = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts)) * self.items + self.rows
        wanted = self.set_of_query[:, None] * self.items + rows
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where((keys[place] == wanted) & (rows != NO_ROW), self.grades[place], 0.0)

    def ideal(self, depth: int) -> np.ndarray:
        """(Q, depth) the highest grades of each query, descending, filled up with 0."""
        sizes = np.diff(self.starts)
        sets = np.repeat(np.arange(len(sizes)), sizes)
        grades = self.grades[np.lexsort((-self.grades, sets))]
        place = np.arange(len(grades)) - self.starts[sets]
        ideal = np.zeros((len(sizes), depth))
        inside = place < depth
        ideal[sets[inside], place[inside]] = grades[inside]
        return ideal[self.set_of_query]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedRanking:
    """A ranking as the metrics see it."""

    gains: np.ndarray
    """(Q, D) grade of the item at each rank; 0 where nothing was found."""
    relevant: np.ndarray
    """(Q,) how many items of the catalogue are relevant."""
    ideal: np.ndarray
    """(Q, D) gains of the best ranking possible."""


def judge(ranking: Ranking, relevance: Relevance) -> JudgedRanking:
    """Look up each ranked item's grade. An item that a ranking repeats counts at its first place only."""
    gains = relevance.grades_of(ranking.rows)
    gains[_repeats(ranking.rows)] = 0.0
    return JudgedRanking(gains=gains, relevant=relevance.counts(), ideal=relevance.ideal(ranking.depth))


def _repeats(rows: np.ndarray) -> np.ndarray:
    """(Q, D) whether the same row stands at an earlier place of the same query."""
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    later = np.zeros(rows.shape, dtype=bool)
    later[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    repeats = np.empty_like(later)
    np.put_along_axis(repeats, order, later, axis=1)
    return repeats
