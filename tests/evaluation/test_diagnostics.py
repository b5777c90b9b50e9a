from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from smar_model.evaluation.diagnostics import area_under_curve, embedding_health
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


def test_shown_queries_are_a_mix_without_repeats() -> None:
    queries = np.array([f"{'red ' if n % 7 == 0 else ''}thing {n // 2}" for n in range(200)])
    gain = np.linspace(-1, 1, 200)
    is_visual = np.arange(200) % 3 > 0
    shown = choose_shown_queries(queries=queries, is_visual=is_visual, gain=gain, count=20, seed=0)
    assert len({queries[entry.number] for entry in shown}) == len(shown) == 20
    reasons = [entry.reason for entry in shown]
    assert set(reasons) == {"largest gain", "largest loss", "colour word", "not fashion", "frequent"}
    assert all(gain[e.number] > 0.9 for e in shown if e.reason == "largest gain")
    assert all(gain[e.number] < -0.9 for e in shown if e.reason == "largest loss")
    assert all("red" in queries[e.number] for e in shown if e.reason == "colour word")
    assert not any(is_visual[e.number] for e in shown if e.reason == "not fashion")


def test_few_queries_are_all_shown() -> None:
    queries = np.array(["a", "b", "a"])
    shown = choose_shown_queries(queries=queries, is_visual=np.ones(3, dtype=bool), gain=np.zeros(3), count=20, seed=0)
    assert {queries[entry.number] for entry in shown} == {"a", "b"}
    assert len(shown) == 2
