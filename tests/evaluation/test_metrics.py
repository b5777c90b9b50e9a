"""Metrics against trec_eval itself, and what must hold for any ranking."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, P, R, SetF, nDCG

from smar_model.evaluation.metrics import (
    average_precision,
    f1,
    first_relevant_rank,
    ndcg,
    precision,
    recall,
    reciprocal_rank,
)
from smar_model.evaluation.relevance import JudgedRanking, Relevance, judge
from smar_model.retrieval.ranking import NO_ROW, Ranking, rank_scores
from smar_model.shop.importers.grades import SCALES


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


def all_metrics(judged: JudgedRanking, depths: tuple[int, ...]) -> dict[ir_measures.Measure, np.ndarray]:
    """Ours by trec_eval's measures."""
    values: dict[ir_measures.Measure, np.ndarray] = {RR: reciprocal_rank(judged)}
    for k in depths:
        values |= {R @ k: recall(judged, k), P @ k: precision(judged, k), nDCG @ k: ndcg(judged, k)}
        values[AP @ k] = average_precision(judged, k)
    return values


def assert_equal_to_trec_eval(
    ours: dict[ir_measures.Measure, np.ndarray], truth: dict[str, dict[str, int]], run: dict[str, dict[str, float]]
) -> None:
    """`truth` has one entry a query, in the order of our values."""
    place = {name: number for number, name in enumerate(truth)}
    compared = 0
    for value in ir_measures.iter_calc(list(ours), truth, run):
        assert ours[value.measure][place[value.query_id]] == pytest.approx(value.value, abs=1e-9), value
        compared += 1
    assert compared == len(ours) * len(truth)


def test_equal_to_trec_eval_on_1000_runs_with_ties_missing_queries_repeated_ids_and_grades() -> None:
    """trec_eval takes no run that repeats an item: there, what repeats one stands for an item that nobody judged."""
    queries, items, depth = 3, 12, 15
    truth: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, float]] = {}
    judged, repeats, missing, ties = [], 0, 0, 0
    # trec_eval puts the larger name first among ties; ours puts the lower row first.
    name = [f"d{items - row:02}" for row in range(items)]
    for seed in range(1_000):
        random = np.random.default_rng(seed)
        scores, grades = random_case(seed, queries=queries, items=items)
        ranking = rank_scores(scores, items)
        rows = np.full((queries, depth), NO_ROW, np.int32)
        found = (ranking.rows != NO_ROW).sum(axis=1)
        for q in range(queries):
            truth[f"{seed}/{q}"] = {name[i]: int(g) for i, g in enumerate(grades[q]) if g}
            answer = ranking.rows[q, : found[q]].tolist()
            for _ in range(int(random.integers(0, 4)) if answer else 0):
                earlier = int(random.integers(0, len(answer)))
                answer.insert(int(random.integers(earlier, len(answer))) + 1, answer[earlier])
            rows[q, : len(answer)] = answer
            repeats += len(answer) - found[q]
            missing += not answer
            # Ranks are kept by the scores where ids repeat; without repeats by the real scores, ties included.
            if len(answer) == found[q]:
                told = {name[i]: float(scores[q, i]) for i in answer}
                ties += len(set(told.values())) < len(told)
            else:
                told, seen = {}, set()
                for rank, i in enumerate(answer):
                    told[f"again{rank}" if i in seen else name[i]] = float(-rank)
                    seen.add(i)
            if told:
                run[f"{seed}/{q}"] = told
        scores_of_ranks = np.where(rows == NO_ROW, -np.inf, -np.arange(depth, dtype=np.float32))
        judged.append(judge(Ranking(rows=rows, scores=scores_of_ranks.astype(np.float32)), relevance_of(grades)))
    together = JudgedRanking(
        gains=np.concatenate([j.gains for j in judged]),
        relevant=np.concatenate([j.relevant for j in judged]),
        ideal=np.concatenate([j.ideal for j in judged]),
    )
    assert min(repeats, missing, ties) > 200
    assert_equal_to_trec_eval(all_metrics(together, (1, 5, depth)), truth, run)


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_trec_eval_on_longer_runs(seed: int) -> None:
    scores, grades = random_case(seed)
    items = grades.shape[1]
    name = [f"d{items - row:04}" for row in range(items)]
    truth = {f"q{q}": {name[i]: int(g) for i, g in enumerate(row) if g} for q, row in enumerate(grades)}
    run = {
        f"q{q}": {name[i]: float(s) for i, s in enumerate(row) if np.isfinite(s)}
        for q, row in enumerate(scores)
        if np.isfinite(row).any()
    }
    assert len(run) < len(truth)
    # Every item is ranked, as trec_eval's recip_rank has no cutoff.
    judged = judge(rank_scores(scores, items), relevance_of(grades))
    assert_equal_to_trec_eval(all_metrics(judged, (5, 10, 40)), truth, run)
    # Over all that was found, trec_eval's set_F is F1 with the results for k: equal where a query has k results.
    full = np.flatnonzero(np.isfinite(scores).sum(axis=1) >= 40)
    first = {f"q{q}": dict(sorted(run[f"q{q}"].items(), key=lambda e: (e[1], e[0]), reverse=True)[:40]) for q in full}
    for value in ir_measures.iter_calc([SetF], {q: truth[q] for q in first}, first):
        assert f1(judged, 40)[int(value.query_id[1:])] == pytest.approx(value.value, abs=1e-9)
    assert len(full) > 10


def test_equal_to_trec_eval_on_real_judgements() -> None:
    folder = os.environ.get("SMAR_REAL_DATA")
    if not folder:
        pytest.skip("SMAR_REAL_DATA is not set: name the folder that holds real-queries/esci_sample_judgments.csv")
    with (Path(folder) / "real-queries" / "esci_sample_judgments.csv").open(encoding="utf-8", newline="") as file:
        judgements = list(csv.DictReader(file))
    products = sorted({row["product_id"] for row in judgements}, reverse=True)  # trec_eval: the larger name first
    row_of = {product: row for row, product in enumerate(products)}
    truth: dict[str, dict[str, int]] = {}
    for row in judgements:
        truth.setdefault(row["query"], {})[row["product_id"]] = SCALES["esci"][row["esci_label"]]
    random = np.random.default_rng(0)
    scores = np.full((len(truth), len(products)), -np.inf, np.float32)
    for q, grades in enumerate(truth.values()):
        if q % 10 == 9:
            continue  # a query without results
        judged_rows = [row_of[product] for product in grades]
        others = random.permutation(len(products))[:60]
        scores[q, others] = random.integers(-3, 2, 60)
        # Better than chance, in steps, so that there are many ties.
        scores[q, judged_rows] = np.round(np.array(list(grades.values())) / 2 + random.normal(0, 1.5, len(judged_rows)))
    sets = [(np.array([row_of[p] for p in grades]), np.array(list(grades.values()))) for grades in truth.values()]
    relevance = Relevance.from_sets(sets, set_of_query=np.arange(len(truth)), items=len(products))
    judged = judge(rank_scores(scores, 200), relevance)
    run = {
        query: {products[i]: float(scores[q, i]) for i in np.flatnonzero(np.isfinite(scores[q]))}
        for q, query in enumerate(truth)
        if np.isfinite(scores[q]).any()
    }
    assert len(truth) >= 100 and len(judgements) > 5_000
    assert_equal_to_trec_eval(all_metrics(judged, (1, 10, 50, 100)), truth, run)


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
    values = [metric(judged, 5) for metric in (recall, precision, f1, ndcg, average_precision)]
    assert np.concatenate([*values, reciprocal_rank(judged)]).tolist() == [0] * 6
    assert first_relevant_rank(judged).tolist() == [0]


def test_a_repeated_item_counts_once_and_ndcg_stays_within_one() -> None:
    ranking = Ranking(rows=np.array([[1, 1, 1, 2]], np.int32), scores=np.array([[4, 3, 2, 1]], np.float32))
    judged = judge(ranking, Relevance.from_targets(np.array([1]), items=3))
    assert ndcg(judged, 4).tolist() == [1.0]
    assert recall(judged, 4).tolist() == [1.0]
    assert precision(judged, 4).tolist() == [0.25]


def test_what_is_capped_divides_by_what_fits() -> None:
    grades = np.ones((1, 10), dtype=int)
    judged = judge(rank_scores(np.arange(10, dtype=np.float32)[None], 10), relevance_of(grades))
    for metric in (recall, average_precision):
        assert metric(judged, 5).tolist() == [0.5]
        assert metric(judged, 5, capped=True).tolist() == [1.0]


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


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_recall_and_map_grow_with_depth_and_everything_stays_within_one(seed: int) -> None:
    scores, grades = random_case(seed, queries=8, items=25)
    judged = judge(rank_scores(scores, 25), relevance_of(grades))
    depths = range(1, 26)
    hits = np.stack([precision(judged, k) * k for k in depths])
    for growing in (hits, *(np.stack([metric(judged, k) for k in depths]) for metric in (recall, average_precision))):
        assert (np.diff(growing, axis=0) >= -1e-12).all()
    for metric in (recall, precision, f1, ndcg, average_precision):
        values = np.stack([metric(judged, k) for k in depths])
        assert ((values >= 0) & (values <= 1 + 1e-12)).all()
    # Average precision cannot exceed recall, nor F1 the larger of precision and recall.
    for k in depths:
        assert (average_precision(judged, k) <= recall(judged, k) + 1e-12).all()
        assert (f1(judged, k) <= np.maximum(precision(judged, k), recall(judged, k)) + 1e-12).all()


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_queries_and_of_relevant_items_does_not_matter(seed: int) -> None:
    scores, grades = random_case(seed, queries=8, items=25)
    random = np.random.default_rng(seed)
    order = random.permutation(8)
    items = random.permutation(25)
    plain = judge(rank_scores(scores, 25), relevance_of(grades))
    sets = [(items, grades[q][items]) for q in order]
    mixed = judge(rank_scores(scores[order], 25), Relevance.from_sets(sets, set_of_query=np.arange(8), items=25))
    for metric in (recall, precision, f1, ndcg, average_precision):
        assert metric(mixed, 10).tolist() == metric(plain, 10)[order].tolist()
