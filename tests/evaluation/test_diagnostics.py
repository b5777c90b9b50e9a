from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from smar_model.evaluation.diagnostics import (
    alignment,
    embedding_health,
    gap,
    hubness,
    near_duplicates,
)
from smar_model.evaluation.evaluation_record import Hub
from smar_model.evaluation.routing_quality import area_under_curve
from smar_model.evaluation.shown_queries import choose_shown_queries


def test_area_under_curve_equals_scikit_learn_with_ties() -> None:
    random = np.random.default_rng(0)
    scores, positive = random.integers(0, 10, 500) / 10, random.random(500) < 0.3
    assert area_under_curve(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    assert area_under_curve(scores, np.ones(500, dtype=bool)) is None


def test_collapsed_embeddings_show() -> None:
    random = np.random.default_rng(2)
    spread = random.normal(size=(500, 16))
    spread /= np.linalg.norm(spread, axis=1, keepdims=True)
    healthy = embedding_health(spread, seed=0)
    assert abs(healthy["mean_cosine"]) < 0.05
    assert healthy["effective_rank"] > 15
    collapsed = embedding_health(np.tile(spread[:1], (500, 1)), seed=0)
    assert collapsed["mean_cosine"] == pytest.approx(1)
    assert collapsed["effective_rank"] == pytest.approx(1, abs=0.01)
    assert collapsed["uniformity"] == pytest.approx(0, abs=1e-6)
    # Of directions that know nothing of each other in many dimensions: log E exp(−2(2 − 2 cos)) ≈ −4.
    assert healthy["uniformity"] == pytest.approx(-4 + 8 / 16, abs=0.1)
    # Lengths are told apart from directions.
    longer = embedding_health(3 * spread, seed=0)
    assert longer["norm"] == pytest.approx(3) and longer["smallest_norm"] == pytest.approx(3)
    assert longer["effective_rank"] == pytest.approx(healthy["effective_rank"])


def test_alignment_and_gap_of_constructed_clouds() -> None:
    random = np.random.default_rng(3)
    items = random.normal(size=(400, 32))
    assert alignment(items, 2 * items) == pytest.approx(0)
    assert alignment(items, -items) == pytest.approx(4)
    assert alignment(items, random.normal(size=(400, 32))) == pytest.approx(2, abs=0.1)
    assert gap(items, items) == 0
    assert gap(items, items + 5) > 0.9, "two clouds that lie apart"
    assert gap(items[:200], items[200:]) < 0.2, "two halves of one cloud"


def test_items_that_search_cannot_tell_apart_are_counted() -> None:
    random = np.random.default_rng(4)
    items = random.normal(size=(1_000, 32))
    assert near_duplicates(items, seed=0) == 0
    items[:100] = 2 * items[100:200]
    assert near_duplicates(items, seed=0) == pytest.approx(0.2)
    assert near_duplicates(items, seed=0, sample=300) == pytest.approx(0.2, abs=0.08)


def test_a_hub_is_named_with_the_queries_that_it_does_not_fit() -> None:
    """Nine items are found by one query each, one by all; a query with one result has no second."""
    rows = np.array([[n, 9] for n in range(9)] + [[9, -1]])
    relevant = np.zeros(rows.shape, dtype=bool)
    relevant[:9, 0], relevant[9, 0] = True, True
    ids = [f"item {n}" for n in range(20)]
    found = hubness(rows, relevant, item_ids=ids)
    assert found.worst == [Hub(item_id="item 9", found=10, fits=1)]
    assert found.never == 0.5
    assert found.expected == pytest.approx(19 / 20)
    counts = np.array([1] * 9 + [10] + [0] * 10)
    assert found.skewness == pytest.approx(((counts - counts.mean()) ** 3).mean() / counts.std() ** 3)
    even = hubness(np.arange(20).reshape(10, 2), np.ones((10, 2), dtype=bool), item_ids=ids)
    assert (even.skewness, even.never, even.worst) == (0, 0, [])


def test_shown_queries_are_a_mix_without_repeats() -> None:
    words = {0: "red ", 1: "striped "}
    queries = np.array([f"{words.get(n // 2 % 7, '')}thing {n // 2}" for n in range(200)])
    gain = np.linspace(-1, 1, 200)
    is_visual = np.arange(200) % 3 > 0
    shown = choose_shown_queries(queries=queries, is_visual=is_visual, gain=gain, count=20, seed=0)
    assert len({queries[entry.number] for entry in shown}) == len(shown) == 20
    reasons = [entry.reason for entry in shown]
    assert set(reasons) == {
        *("largest gain", "largest loss", "most frequent"),
        *("colour word", "pattern word", "not fashion"),
    }
    assert all(gain[e.number] > 0.9 for e in shown if e.reason == "largest gain")
    assert all(gain[e.number] < -0.9 for e in shown if e.reason == "largest loss")
    assert all("red" in queries[e.number] for e in shown if e.reason == "colour word")
    assert all("striped" in queries[e.number] for e in shown if e.reason == "pattern word")
    assert not any(is_visual[e.number] for e in shown if e.reason == "not fashion")


def test_few_queries_are_all_shown() -> None:
    queries = np.array(["a", "b", "a"])
    shown = choose_shown_queries(queries=queries, is_visual=np.ones(3, dtype=bool), gain=np.zeros(3), count=20, seed=0)
    assert {queries[entry.number] for entry in shown} == {"a", "b"}
    assert len(shown) == 2
