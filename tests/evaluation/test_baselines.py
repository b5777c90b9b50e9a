from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from smar_model.evaluation.baselines import BM25, Popularity, fuse_by_rank, words
from smar_model.retrieval.ranking import NO_ROW, Ranking, rank_scores


@pytest.fixture
def catalogue() -> pd.DataFrame:
    rows = [
        ("a", "Plain shirts", "Clothing > Tops", "Acme", {"colour": "Red"}),
        ("b", "Plain shirts", "Clothing > Tops", "Acme", {"colour": "Blue"}),
        ("c", "Plain shirts", "Clothing > Tops", "Acme", {"colour": "Red"}),
        ("d", "Novel", "Books > Fiction", "", {}),
    ]
    return pd.DataFrame(rows, columns=["item_id", "title", "category", "brand", "attributes"])


def test_bm25_reads_every_field_and_settles_ties_by_id(catalogue: pd.DataFrame) -> None:
    ranking = BM25(catalogue).rank(["RED shirt", "books", "acme"], 4)
    assert ranking.rows.tolist() == [[0, 2, 1, NO_ROW], [3, NO_ROW, NO_ROW, NO_ROW], [0, 1, 2, NO_ROW]]


def test_given_rows_have_the_scores_that_they_are_ranked_by(catalogue: pd.DataFrame) -> None:
    clicks = pd.DataFrame({"item_id": ["c", "a", "c"], "clicks": [1, 2, 2]})
    rows = np.array([[3, 0, 1], [2, NO_ROW, 3], [1, 1, 0], [0, 1, 2]])
    queries = ["red shirt", "acme", "", "red shirt"]
    for ranker in (BM25(catalogue), Popularity(catalogue["item_id"].tolist(), clicks)):
        ranked = ranker.rank(queries, 4)
        expected = np.full(rows.shape, -np.inf)
        for query, place in np.ndindex(rows.shape):
            if rows[query, place] in ranked.rows[query]:
                expected[query, place] = ranked.scores[query, ranked.rows[query].tolist().index(rows[query, place])]
        expected[rows == NO_ROW] = -np.inf
        assert (ranker.score_rows(queries, rows) == expected).all()


@pytest.mark.parametrize("query", ["zebra", "", "  ", "!?"])
def test_bm25_finds_nothing_for_words_that_no_item_has(catalogue: pd.DataFrame, query: str) -> None:
    assert (BM25(catalogue).rank([query], 3).rows == NO_ROW).all()


def test_bm25_scores_follow_the_formula(catalogue: pd.DataFrame) -> None:
    """idf × tf / (tf + k1 (1 − b + b · length / mean length)), computed by hand for one word."""
    ranking = BM25(catalogue).rank(["novel"], 1)
    lengths = [6, 6, 6, 3]
    idf = np.log(1 + (4 - 1 + 0.5) / (1 + 0.5))
    expected = idf / (1 + 1.2 * (1 - 0.75 + 0.75 * 3 / np.mean(lengths)))
    assert ranking.scores[0, 0] == pytest.approx(expected, rel=1e-5)


def test_words_lose_their_plural_ending_only() -> None:
    text = "Dresses JEANS T-shirts accessories shoes glass bus gas Überröcke"
    assert words(text) == ["dresse", "jean", "t", "shirt", "accessory", "shoe", "glass", "bus", "gas", "überröcke"]


def test_popularity_gives_clicked_items_by_clicks_then_id() -> None:
    clicks = pd.DataFrame({"item_id": ["c", "a", "c", "b", "gone"], "clicks": [1, 2, 2, 2, 9]})
    ranking = Popularity(["a", "b", "c", "d"], clicks).rank(["x", "y"], 4)
    assert ranking.rows.tolist() == [[2, 0, 1, NO_ROW]] * 2


def test_popularity_of_a_log_without_clicks_is_empty() -> None:
    clicks = pd.DataFrame({"item_id": [], "clicks": []})
    assert (Popularity(["a"], clicks).rank(["x"], 2).rows == NO_ROW).all()


def test_reciprocal_rank_fusion_equals_its_definition() -> None:
    random = np.random.default_rng(0)
    queries, items, depth = 700, 30, 12  # more queries than are fused at once
    rankings = []
    for _ in range(2):
        scores = random.integers(0, 5, (queries, items)).astype(np.float32)
        scores[random.random(scores.shape) < 0.5] = -np.inf
        rankings.append(rank_scores(scores, depth))
    fused = fuse_by_rank(rankings, items=items)
    for q in range(queries):
        points: dict[int, float] = {}
        for ranking in rankings:
            for place, row in enumerate(ranking.rows[q].tolist(), start=1):
                if row != NO_ROW:
                    points[row] = points.get(row, 0.0) + 1 / (60 + place)
        expected = sorted(points, key=lambda row: (-points[row], row))[:depth]
        assert fused.rows[q].tolist() == expected + [NO_ROW] * (depth - len(expected))


def test_fusing_with_what_found_nothing_changes_no_order() -> None:
    found = rank_scores(np.array([[3.0, 1.0, 2.0]], np.float32), 3)
    nothing = Ranking(rows=np.full((1, 3), NO_ROW, np.int32), scores=np.full((1, 3), -np.inf, np.float32))
    assert fuse_by_rank([found, nothing], items=3).rows.tolist() == [[0, 2, 1]]
