"""Baselines that need no training: what any shop has."""

from __future__ import annotations

import re
from collections.abc import Sequence

import bm25s
import numpy as np
import pandas as pd

from smar_model.retrieval.ranking import NO_ROW, Ranking, concatenate_rankings, rank_scores

_WORD = re.compile(r"\w+")
_QUERIES_AT_ONCE = 512


class Popularity:
    """The same list for every query: items by clicks in the training days; items never clicked are no result.

    Args:
        clicks: rows with item_id and clicks.
    """

    def __init__(self, item_ids: list[str], clicks: pd.DataFrame) -> None:
        self.item_ids = item_ids
        total = clicks.groupby("item_id")["clicks"].sum().reindex(item_ids).fillna(0).to_numpy(np.float32)
        self._scores = np.where(total > 0, total, -np.inf)[None, :]

    def rank(self, queries: list[str], depth: int) -> Ranking:
        return rank_scores(self._scores, depth).take(np.zeros(len(queries), dtype=np.int64))

    def score_rows(self, queries: list[str], rows: np.ndarray) -> np.ndarray:
        return np.where(rows == NO_ROW, -np.inf, self._scores[0, rows])


class BM25:
    """BM25 over all text that the model reads: title, category, brand, values of the seller's attributes.

    Lucene's form (Robertson and Zaragoza 2009) with its usual k1 and b; words are runs of letters and digits in lower
    case without their plural ending. No word is left out. Items that share no word with the query are no result.

    Args:
        catalogue: sorted by item id, as `smar_model.data.catalogue.read_catalogue` gives it.
    """

    K1, B = 1.2, 0.75
    DESCRIPTION = (
        f"BM25 (Lucene's form, k1 = {K1}, b = {B}) over title, category, brand and attribute values; lower case, "
        "plural endings stripped (Harman's S-stemmer), no stop words"
    )

    def __init__(self, catalogue: pd.DataFrame) -> None:
        self.item_ids = catalogue["item_id"].tolist()
        texts = [
            " ".join([title, category, brand or "", *(attributes or {}).values()])
            for title, category, brand, attributes in zip(
                catalogue["title"], catalogue["category"], catalogue["brand"], catalogue["attributes"], strict=True
            )
        ]
        self._index = bm25s.BM25(method="lucene", k1=self.K1, b=self.B, backend="numpy")
        self._index.index([words(text) for text in texts], show_progress=False)

    def rank(self, queries: list[str], depth: int) -> Ranking:
        parts = [
            self._rank(queries[start : start + _QUERIES_AT_ONCE], depth)
            for start in range(0, max(1, len(queries)), _QUERIES_AT_ONCE)
        ]
        return concatenate_rankings(parts)

    def score_rows(self, queries: list[str], rows: np.ndarray) -> np.ndarray:
        scores = np.full(rows.shape, -np.inf, dtype=np.float32)
        distinct, place = np.unique(np.array(queries, dtype=str), return_inverse=True)
        order = np.argsort(place, kind="stable")
        for query, asked in zip(distinct.tolist(), np.split(order, np.cumsum(np.bincount(place))[:-1]), strict=True):
            scores[asked] = self._scores(query)[rows[asked]]
        return np.where((rows != NO_ROW) & (scores > 0), scores, -np.inf)

    def _rank(self, queries: list[str], depth: int) -> Ranking:
        scores = np.zeros((len(queries), len(self.item_ids)), dtype=np.float32)
        for row, query in enumerate(queries):
            scores[row] = self._scores(query)
        return rank_scores(np.where(scores > 0, scores, -np.inf), depth)

    def _scores(self, query: str) -> np.ndarray:
        """(N,) of all items, 0 where they share no word."""
        tokens = words(query)
        return self._index.get_scores(tokens) if tokens else np.zeros(len(self.item_ids), dtype=np.float32)


def fuse_by_rank(rankings: Sequence[Ranking], *, items: int, k: int = 60) -> Ranking:
    """Reciprocal rank fusion: score = Σ 1 / (k + rank) over the rankings that found the item (Cormack et al. 2009).

    Args:
        rankings: of the same queries to the same depth D, which is that of the result too.
        items: size of the catalogue.
    """
    queries, depth = rankings[0].rows.shape
    parts = []
    for start in range(0, max(1, queries), _QUERIES_AT_ONCE):
        scores = np.zeros((min(_QUERIES_AT_ONCE, queries - start), items))
        for ranking in rankings:
            query, place = np.nonzero(ranking.rows[start : start + _QUERIES_AT_ONCE] != NO_ROW)
            scores[query, ranking.rows[start + query, place]] += 1 / (k + 1 + place)
        parts.append(rank_scores(np.where(scores > 0, scores, -np.inf), depth))
    return concatenate_rankings(parts)


def words(text: str) -> list[str]:
    """Words of a text in lower case, plural endings stripped."""
    return [strip_plural(word) for word in _WORD.findall(text.lower())]


def strip_plural(word: str) -> str:
    """The S-stemmer (Harman 1991, "How effective is suffixing?"): on words over 3 letters.

    Its middle rule, "es" to "e", and its last, which takes "s" away, come to the same.
    """
    if len(word) <= 3:
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if word.endswith("s") and not word.endswith(("us", "ss")):
        return word[:-1]
    return word
