"""What the gate lets pass and stops, on simulated shops: fewer pairs than in benchmarks/gate.md, the same code."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks.gate import EQUAL, PAIR, SAMPLE_SHOP, SPREAD, SimulatedShop, decisions, lose_daily, lost_in_segments
from smar_model.settings import REPOSITORY, Gate, load_settings

PAIRS = 200


def surely_at_most(count: int, share: float) -> bool:
    """Whether so many of PAIRS would be nothing unusual if the true share were this one: not among the highest 1 % of outcomes."""
    return count <= binom.ppf(0.99, PAIRS, share)


@pytest.fixture(scope="module")
def sample() -> tuple[SimulatedShop, Gate]:
    """Like the sample shop."""
    settings = load_settings(REPOSITORY / "configs" / "sample_shop.yaml").gate
    return SimulatedShop.draw(**SAMPLE_SHOP), settings


def test_two_equal_models_differ_as_two_seeds_did_on_real_queries() -> None:
    shop, random = SimulatedShop.draw(SPREAD["queries"]), np.random.default_rng(0)
    found = [
        shop.judge(PAIR, random, permutations=1).differences["champion"]["overall"]["recall_at_50"] for _ in range(10)
    ]
    discordant = [(value.wins + value.losses) / SPREAD["queries"] for value in found]
    assert np.mean(discordant) == pytest.approx(SPREAD["discordant"], rel=0.1)
    assert np.mean([value.standard_error for value in found]) == pytest.approx(SPREAD["standard_error"], rel=0.1)


def test_equals_are_hardly_ever_called_better_or_refused_for_a_segment(sample: tuple[SimulatedShop, Gate]) -> None:
    found = [d for _, d in decisions(*sample, PAIR, pairs=PAIRS, seed=1)]
    assert surely_at_most(sum(bool(decision.better) for decision in found), 0.01)
    assert surely_at_most(sum(map(lost_in_segments, found)), 0.1)


def test_an_equal_of_champion_and_anchors_is_normally_promoted(sample: tuple[SimulatedShop, Gate]) -> None:
    found = [decision for _, decision in decisions(*sample, EQUAL, pairs=40, seed=6, permutations=1)]
    assert sum(decision.promote for decision in found) >= 36


def test_losses_of_just_the_margin_refuse_at_most_one_in_ten(sample: tuple[SimulatedShop, Gate]) -> None:
    shop, settings = sample
    lost = {segment: 0.005 for segment in ("fashion", "not_fashion")}
    even = settings.model_copy(update={"guarded_segments": dict.fromkeys(settings.guarded_segments, 0.005)})
    models = {"challenger": {segment: -loss for segment, loss in lost.items()}, "champion": 0.0}
    found = [
        lost_in_segments(decision) for _, decision in decisions(shop, even, models, pairs=PAIRS, seed=2, permutations=1)
    ]
    assert surely_at_most(sum(found), 0.1)
    assert any(found), "the margin is a margin: at it some are refused"


def test_two_points_are_promoted_and_called_better() -> None:
    shop = SimulatedShop.draw(6_000)
    settings = load_settings(REPOSITORY / "configs" / "real_products.yaml").gate
    found = [d for _, d in decisions(shop, settings, EQUAL | {"challenger": 0.02}, pairs=10, seed=3)]
    assert sum(decision.promote for decision in found) >= 9
    assert sum("overall" in decision.better for decision in found) >= 9


def test_a_loss_outside_fashion_is_refused_though_all_in_all_it_gains(sample: tuple[SimulatedShop, Gate]) -> None:
    models = EQUAL | {"challenger": {"fashion": 0.03, "not_fashion": -0.05}}
    found = [decision for _, decision in decisions(*sample, models, pairs=20, seed=4)]
    refused = [{r.rule for r in decision.reasons if not r.passed} for decision in found]
    assert sum("no_loss_in_not_fashion" in rules for rules in refused) >= 18


def test_small_losses_day_after_day_are_stopped_by_an_anchor_and_by_nothing_else() -> None:
    shop, settings = SimulatedShop.draw(10_000), Gate()
    freely = lose_daily(shop, settings, days=30, loss=0.003, anchors=(), seed=5, permutations=1)
    held = lose_daily(
        shop, settings, days=30, loss=0.003, anchors=("best_release", "cold_start"), seed=5, permutations=1
    )
    assert freely.lost[-1] > 0.04, "more than four points are lost"
    assert freely.first_anchored is None
    assert held.lost[-1] < 0.02
    assert held.first_anchored is not None and held.first_anchored <= 10
    assert freely.lost == sorted(freely.lost)
