"""Every rule of the gate, at its threshold: passes on it, fails below it, and a single failed rule keeps the champion."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from smar_model.release.gate import Reason, decide
from smar_model.settings import Gate

CUTOFF = datetime(2026, 11, 19, tzinfo=UTC)
CHAMPION = {"version": "4", "cutoff": "2026-11-18T00:00:00+00:00"}


def recall(mean: float) -> dict[str, Any]:
    return {"overall": {"recall_at_50": {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}}}


def good() -> dict[str, Any]:
    return {
        "evaluation": {
            "queries": 100,
            "models": {"challenger": recall(0.5), "popularity": recall(0.25), "bm25": recall(0.4)},
            "differences": {"champion": {"overall": {"recall_at_50": {"mean": 0.0, "low": -0.01, "high": 0.01}}}},
        },
        "checks": [
            {"table": "clicks", "check": "rows", "severity": "critical", "passed": True},
            {"table": "items", "check": "brand", "severity": "warning", "passed": False},
        ],
        "index_recall": 0.95,
        "minimum_index_recall": 0.95,
        "settings": Gate(over_popularity=2.0, over_bm25=1.25, champion_margin=0.01, minimum_queries=100),
        "cutoff": CUTOFF,
        "champion": CHAMPION,
    }


def failed(case: dict[str, Any]) -> list[Reason]:
    return [reason for reason in decide(**case) if not reason.passed]


def test_on_every_threshold_at_once_it_passes() -> None:
    assert failed(good()) == []


def change(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda case: case.update(values)


def change_recall(model: str, mean: float) -> Callable[[dict[str, Any]], None]:
    return lambda case: case["evaluation"]["models"].update({model: recall(mean)})


def change_lower_bound(low: float | None) -> Callable[[dict[str, Any]], None]:
    return lambda case: case["evaluation"]["differences"]["champion"]["overall"]["recall_at_50"].update(low=low)


@pytest.mark.parametrize(
    ("rule", "spoil", "says"),
    [
        ("data_checks", lambda case: case["checks"][0].update(passed=False), "clicks: rows"),
        ("data_checks", change(checks=[]), "0 of 0"),
        ("minimum_queries", lambda case: case["evaluation"].update(queries=99), "at least 100"),
        ("index_recall", change(index_recall=0.949), "94.9%"),
        ("over_popularity", change_recall("popularity", 0.2501), "popularity"),
        ("over_bm25", change_recall("bm25", 0.4001), "bm25"),
        ("over_bm25", lambda case: case["evaluation"]["models"].pop("bm25"), "not measured"),
        ("over_popularity", change_recall("popularity", float("nan")), "popularity"),
        ("not_worse_than_champion", change_lower_bound(-0.0101), "version 4"),
        ("not_worse_than_champion", change_lower_bound(None), "not measured"),
        ("not_worse_than_champion", lambda case: case["evaluation"].update(differences={}), "not measured"),
        ("no_backfill", change(cutoff=datetime(2026, 11, 17, tzinfo=UTC)), "older days"),
    ],
)
def test_each_rule_fails_alone_and_says_why(rule: str, spoil: Callable[[dict[str, Any]], Any], says: str) -> None:
    case = copy.deepcopy(good())
    spoil(case)
    broken = failed(case)
    assert [reason.rule for reason in broken] == [rule]
    assert says in broken[0].text


def test_the_first_release_is_decided_by_floors_alone() -> None:
    case = good() | {"champion": None}
    case["evaluation"]["differences"] = {}
    assert failed(case) == []
    case["evaluation"]["queries"] = 1
    assert [reason.rule for reason in failed(case)] == ["minimum_queries"]
