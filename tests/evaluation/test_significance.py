"""The cluster bootstrap: it finds a difference that is there, none that is not, and is not fooled by clusters."""

from __future__ import annotations

import time

import numpy as np
import pytest

from smar_model.evaluation.significance import ClusterBootstrap, compare


def test_the_interval_of_a_known_difference_covers_it_and_excludes_zero() -> None:
    random = np.random.default_rng(0)
    clusters = random.integers(0, 800, 4_000)
    worse = random.random(4_000) < 0.5
    better = worse | (random.random(4_000) < 0.1)  # wins a tenth of the half that was lost: 0.05
    result = compare(ClusterBootstrap(clusters, samples=500, seed=1), better, worse)
    assert result.difference.low < 0.05 < result.difference.high
    assert result.difference.low > 0
    assert result.losses == 0
    assert result.wins == int((better & ~worse).sum())
    assert result.wins + result.ties == 4_000


def test_about_one_in_twenty_comparisons_of_equals_excludes_zero() -> None:
    random = np.random.default_rng(2)
    excluded = 0
    for seed in range(200):
        first, second = random.random((2, 300)) < 0.5
        bound = compare(ClusterBootstrap(np.arange(300), samples=200, seed=seed), first, second).difference
        excluded += not bound.low <= 0 <= bound.high
    assert 2 <= excluded <= 24


def test_a_model_against_itself_is_all_ties() -> None:
    values = np.random.default_rng(3).random(100)
    result = compare(ClusterBootstrap(np.arange(100), samples=100, seed=0), values, values)
    assert (result.difference.mean, result.difference.low, result.difference.high) == (0, 0, 0)
    assert (result.wins, result.ties, result.losses) == (0, 100, 0)


def test_queries_of_one_cluster_are_not_taken_for_independent() -> None:
    random = np.random.default_rng(4)
    by_cluster = random.random(40)
    clusters = np.repeat(np.arange(40), 50)
    values = by_cluster[clusters][:, None]
    together = ClusterBootstrap(clusters, samples=500, seed=0).estimate(values)[0]
    alone = ClusterBootstrap(np.arange(2_000), samples=500, seed=0).estimate(values)[0]
    assert together.high - together.low > 4 * (alone.high - alone.low)
    # The width that theory gives: 2 × 1.96 standard errors over 40 independent values.
    expected = 2 * 1.96 * by_cluster.std() / np.sqrt(40)
    assert together.high - together.low == pytest.approx(expected, rel=0.2)


def test_segments_are_judged_apart_and_an_empty_one_has_no_figure() -> None:
    values = np.array([[1.0], [1.0], [0.0], [0.0]])
    bootstrap = ClusterBootstrap(np.array(["a", "b", "c", "d"]), samples=100, seed=0)
    assert bootstrap.estimate(values, np.array([True, True, False, False]))[0].mean == 1
    assert bootstrap.estimate(values, np.zeros(4, dtype=bool))[0].mean is None
    assert bootstrap.estimate(values)[0].mean == 0.5


def test_a_thousand_draws_over_ten_thousand_queries_are_quick() -> None:
    random = np.random.default_rng(5)
    values = random.random((10_000, 9))
    started = time.process_time()
    ClusterBootstrap(np.arange(10_000), samples=1_000, seed=0).estimate(values)
    assert time.process_time() - started < 5
