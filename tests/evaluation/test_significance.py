"""The cluster bootstrap: it finds a difference that is there, none that is not, and is not fooled by clusters."""

from __future__ import annotations

import time

import numpy as np
import pytest

from smar_model.evaluation.significance import ClusterBootstrap, compare, compare_by_segment, holm, permutation_p


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


def test_the_permutation_p_equals_the_exact_one() -> None:
    """Five clusters have 32 ways to turn signs: the share of totals as far from 0 as the real one can be counted."""
    random = np.random.default_rng(6)
    clusters = np.repeat(np.arange(5), 3)
    differences = random.normal(0.5, 1, 15)
    sums = differences.reshape(5, 3).sum(axis=1)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1).T
    exact = (np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9).mean()
    p = permutation_p(differences[:, None], clusters, samples=20_000, seed=0)
    assert p == pytest.approx([exact], abs=0.01)


def test_permutation_finds_what_is_there_and_nothing_else() -> None:
    random = np.random.default_rng(7)
    clusters = np.arange(2_000)
    better, same = random.normal(0.2, 1, 2_000), random.normal(0, 1, 2_000)
    p = permutation_p(np.stack([better, same - same.mean(), np.zeros(2_000)], axis=1), clusters, samples=1_000, seed=0)
    assert p[0] == pytest.approx(1 / 1_001)
    assert p[1] > 0.9
    assert p[2] == 1


def test_permutation_is_not_fooled_by_clusters() -> None:
    """Ten items of 200 requests each, that differ by chance alone: taken as 2,000 the difference would look certain."""
    by_item = np.random.default_rng(3).normal(0, 1, 10)
    differences = np.repeat(by_item, 200)[:, None]
    together = permutation_p(differences, np.repeat(np.arange(10), 200), samples=2_000, seed=0)
    alone = permutation_p(differences, np.arange(2_000), samples=2_000, seed=0)
    assert together[0] > 0.05 > alone[0]


def test_the_share_of_a_known_whole_is_found_with_its_interval() -> None:
    random = np.random.default_rng(9)
    whole = random.normal(0.2, 0.3, 4_000)
    part = 0.6 * whole + random.normal(0, 0.05, 4_000)
    bootstrap = ClusterBootstrap(np.arange(4_000), samples=500, seed=0)
    share = bootstrap.share(part, whole)
    assert share.low < 0.6 < share.high
    assert share.mean == pytest.approx(0.6, abs=0.02)
    assert bootstrap.share(part, random.normal(0, 1, 4_000)).mean is None, "a whole that may be 0 has no share"
    assert bootstrap.share(part, whole, np.zeros(4_000, dtype=bool)).mean is None


def test_holm_is_the_step_down_rule_and_keeps_the_level() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005])
    # By hand: .005 × 4, .01 × 3, .03 × 2, .04 × 1, none below the one before.
    assert holm(p).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).tolist() == [1, 1]
    assert holm(np.empty(0)).tolist() == []
    random = np.random.default_rng(11)
    alarms = np.mean([(holm(random.random(20)) < 0.05).any() for _ in range(2_000)])
    assert 0.03 < alarms < 0.07, "of twenty true hypotheses one in twenty families may alarm, not two in three"


def test_segments_are_compared_as_each_would_be_alone() -> None:
    random = np.random.default_rng(12)
    clusters = random.integers(0, 150, 600)
    first, second = random.random((2, 600, 2)).round(1)
    second[:200, 0] = first[:200, 0]
    first[300:, 1] += 0.3
    segments = {
        "all": np.ones(600, dtype=bool),
        "same": np.arange(600) < 200,
        "better": np.arange(600) >= 300,
        "none": np.zeros(600, dtype=bool),
    }
    bootstrap = ClusterBootstrap(clusters, samples=300, seed=0)
    found = compare_by_segment(bootstrap, first, second, segments, permutations=2_000, seed=3)
    for name, inside in segments.items():
        for metric in range(2):
            alone = compare(bootstrap, first[:, metric], second[:, metric], inside)
            value = found[name][metric]
            assert (value.wins, value.ties, value.losses) == (alone.wins, alone.ties, alone.losses)
            assert value.mean == pytest.approx(alone.difference.mean)
            assert value.low == pytest.approx(alone.difference.low)
            if name == "none":
                assert value.p is value.p_adjusted is None
                continue
            difference = np.where(inside, first[:, metric] - second[:, metric], 0)[:, None]
            p = permutation_p(difference, clusters, samples=2_000, seed=4)[0]
            assert value.p == pytest.approx(p, abs=0.03)
    assert found["same"][0].p == 1 and found["same"][0].ties == 200
    assert found["better"][1].p == pytest.approx(1 / 2_001)
    assert found["better"][1].p_adjusted == pytest.approx(2 / 2_001), "two parts have queries"
    assert found["all"][1].p_adjusted == found["all"][1].p, "the question asked beforehand is not corrected"
