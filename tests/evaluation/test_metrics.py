"""Metrics against trec_eval itself, and what must hold for any ranking."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import RR, P, R, nDCG

from smar_model.evaluation.metrics import f1, first_relevant_rank, ndcg, precision, recall, reciprocal_rank
from smar_model.evaluation.relevance import Relevance, judge
from smar_model.retrieval.ranking import NO_ROW, Ranking, rank_scores


def random_case(seed: int, queries: int = 60, items: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, some items and some whole queries without results; grades 0–3."""
    random = np.random.default_rng(seed)
    scores = random.integers(0, 6, (queries, items)).astype(np.float32)
    scores[random.random(scores.shape) < 0.4] = -np.inf
    scores[random.random(queries) < 0.1] = -np.inf
    grades = random.choice(4, (queries, items), p=[0.9, 0.05, 0.03, 0.02])
    grades[np.arange(queries), random.integers(0, items, queries)] = 2
    return scores, grades


def relevance_of(grades: np.ndarray) -> Relevance:
    items = np.arange(grades.shape[1])
    sets = [(items, row) for row in grades]
    return Relevance.from_sets(sets, set_of_query=np.arange(len(grades)), items=grades.shape[1])


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_trec_eval_on_runs_with_ties_and_missing_queries(seed: int) -> None:
    scores, grades = random_case(seed)
    depth = 80  # every item, as trec_eval's recip_rank has no cutoff
    judged = judge(rank_scores(scores, depth), relevance_of(grades))
    items = grades.shape[1]
    # trec_eval puts the larger name first among ties; ours puts the lower row first.
    name = [f"d{items - row:04}" for row in range(items)]
    truth = {f"q{q}": {name[i]: int(g) for i, g in enumerate(row) if g} for q, row in enumerate(grades)}
    run = {
        f"q{q}": {name[i]: float(s) for i, s in enumerate(row) if np.isfinite(s)}
        for q, row in enumerate(scores)
        if np.isfinite(row).any()
    }
    ours = {
        R @ 5: recall(judged, 5),
        R @ 40: recall(judged, 40),
        P @ 10: precision(judged, 10),
        nDCG @ 10: ndcg(judged, 10),
        nDCG @ 40: ndcg(judged, 40),
        RR: reciprocal_rank(judged),
    }
    assert len(run) < len(truth)
    theirs = ir_measures.iter_calc(list(ours), truth, run)
    compared = 0
    for value in theirs:
        assert ours[value.measure][int(value.query_id[1:])] == pytest.approx(value.value, abs=1e-9), value
        compared += 1
    assert compared == len(ours) * len(truth)


@pytest.mark.parametrize(("k", "capped"), [(5, False), (40, False), (5, True)])
def test_f1_is_the_harmonic_mean_of_precision_and_recall(k: int, capped: bool) -> None:
    scores, grades = random_case(7)
    judged = judge(rank_scores(scores, 80), relevance_of(grades))
    for q, (row, grade) in enumerate(zip(scores, grades, strict=True)):
        first = [i for i in np.lexsort((np.arange(80), -row)) if np.isfinite(row[i])][:k]
        hits, relevant = int((grade[first] > 0).sum()), int((grade > 0).sum())
        # 2PR / (P + R) with P = hits / k and R = hits / possible.
        expected = 2 * hits / (k + (min(k, relevant) if capped else relevant))
        assert f1(judged, k, capped=capped)[q] == pytest.approx(expected)


def test_a_query_without_results_counts_as_zero() -> None:
    ranking = Ranking(rows=np.full((1, 5), NO_ROW, np.int32), scores=np.full((1, 5), -np.inf, np.float32))
    judged = judge(ranking, Relevance.from_targets(np.array([0]), items=3))
    values = [recall(judged, 5), precision(judged, 5), f1(judged, 5), ndcg(judged, 5), reciprocal_rank(judged)]
    assert np.concatenate(values).tolist() == [0, 0, 0, 0, 0]
    assert first_relevant_rank(judged).tolist() == [0]


def test_a_repeated_item_counts_once_and_ndcg_stays_within_one() -> None:
    ranking = Ranking(rows=np.array([[1, 1, 1, 2]], np.int32), scores=np.array([[4, 3, 2, 1]], np.float32))
    judged = judge(ranking, Relevance.from_targets(np.array([1]), items=3))
    assert ndcg(judged, 4).tolist() == [1.0]
    assert recall(judged, 4).tolist() == [1.0]
    assert precision(judged, 4).tolist() == [0.25]


def test_capped_recall_divides_by_what_fits() -> None:
    grades = np.ones((1, 10), dtype=int)
    judged = judge(rank_scores(np.arange(10, dtype=np.float32)[None], 10), relevance_of(grades))
    assert recall(judged, 5).tolist() == [0.5]
    assert recall(judged, 5, capped=True).tolist() == [1.0]


def test_looking_deeper_than_was_ranked_is_refused() -> None:
    judged = judge(rank_scores(np.zeros((1, 4), np.float32), 4), Relevance.from_targets(np.array([0]), items=4))
    with pytest.raises(ValueError, match="depth 4"):
        recall(judged, 5)


def test_queries_that_share_a_set_are_judged_by_it() -> None:
    sets = [(np.array([3, 1]), np.array([1, 2])), (np.array([0]), np.array([1]))]
    relevance = Relevance.from_sets(sets, set_of_query=np.array([0, 1, 0]), items=5)
    rows = np.array([[1, 0], [1, 0], [3, NO_ROW]])
    assert relevance.grades_of(rows).tolist() == [[2, 0], [0, 1], [1, 0]]
    assert relevance.counts().tolist() == [2, 1, 2]
    assert relevance.ideal(3).tolist() == [[2, 1, 0], [1, 0, 0], [2, 1, 0]]


@given(seed=st.integers(0, 2**32 - 1))
def test_recall_grows_with_depth_and_stays_within_one(seed: int) -> None:
    scores, grades = random_case(seed, queries=8, items=25)
    judged = judge(rank_scores(scores, 25), relevance_of(grades))
    values = np.stack([recall(judged, k) for k in range(1, 26)])
    assert (np.diff(values, axis=0) >= 0).all()
    assert ((values >= 0) & (values <= 1)).all()
    gains = np.stack([ndcg(judged, k) for k in range(1, 26)])
    assert ((gains >= 0) & (gains <= 1 + 1e-12)).all()


@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_queries_and_of_relevant_items_does_not_matter(seed: int) -> None:
    scores, grades = random_case(seed, queries=8, items=25)
    random = np.random.default_rng(seed)
    order = random.permutation(8)
    items = random.permutation(25)
    plain = judge(rank_scores(scores, 25), relevance_of(grades))
    sets = [(items, grades[q][items]) for q in order]
    mixed = judge(rank_scores(scores[order], 25), Relevance.from_sets(sets, set_of_query=np.arange(8), items=25))
    for metric in (recall, precision, ndcg):
        assert metric(mixed, 10).tolist() == metric(plain, 10)[order].tolist()
