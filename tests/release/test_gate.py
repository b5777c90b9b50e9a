"""Every rule of the gate: passes at its threshold, fails beyond it with a line of its own, and alone keeps the champion; and what whole
sets of constructed answers come to."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smar_model.checks.outcomes import Check, read_checks
from smar_model.evaluation.decision import Decision, read_decision
from smar_model.evaluation.evaluation_record import Rival, parse_evaluation
from smar_model.evaluation.judged_models import COMPARED_METRICS, summarise
from smar_model.evaluation.significance import ClusterBootstrap
from smar_model.release.gate import decide
from smar_model.settings import REPOSITORY, Gate, load_settings

CUTOFF = datetime(2026, 11, 19, tzinfo=UTC)
CHAMPION = Rival(version="4", run="d18", cutoff="2026-11-18T00:00:00+00:00")
BEST = Rival(version="2", run="d10", cutoff="2026-11-10T00:00:00+00:00")
COLD = Rival(version=None, run="d12", cutoff="2026-11-12T00:00:00+00:00")
SETTINGS = Gate(
    over_popularity=2.0,
    over_bm25=1.25,
    champion_margin=0.01,
    anchor_margin=0.02,
    guarded_segments={"fashion": 0.005, "not_fashion": 0.005},
    maximum_search_p99_ms=20,
)


def difference(mean: float, *, error: float = 1e-9, p: float = 1.0) -> dict[str, Any]:
    return {"mean": mean, "low": mean - 2 * error, "high": mean + 2 * error, "standard_error": error} | {
        "wins": 1,
        "ties": 1,
        "losses": 1,
        "p": p,
        "p_adjusted": p,
    }


def figure(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean, "high": mean}


UNREAD: dict[str, Any] = {
    **{
        "basis": "truth",
        "measures": {},
        "distinct_queries": 90,
        "counts": {},
        "mean_relevant_items": 1.0,
        "permutations": 10,
    },
    **{"interval": {"level": 0.95, "method": "bootstrap", "samples": 10}, "recovered": None, "baselines": {}},
    "shown": {"beside": None, "queries": []},
}
"""What the gate does not look at."""
AREAS = {"queries": 100, "others": 40, "auc": 0.9, "bag_of_words_auc": None}
POPULATION = AREAS | {
    "accuracy": 0.9,
    "calibration_error_before": 0.1,
    "auc_of_help": None,
    "against": {},
    "segments": {},
}


def good() -> dict[str, Any]:
    """On every threshold at once."""
    recall = {"challenger": 0.5, "popularity": 0.25, "bm25": 0.4, "champion": 0.5}
    return {
        "evaluation": UNREAD
        | {
            "queries": 100,
            "clusters": 80,
            "segments": {"fashion": 60, "not_fashion": 40},
            "segment_clusters": {"fashion": 50, "not_fashion": 30},
            "models": {
                name: {
                    "overall": {"recall_at_50": figure(mean)},
                    "not_fashion": {"precision_at_50": figure(0.2)},
                }
                for name, mean in recall.items()
            },
            "differences": {
                "champion": {
                    "overall": {"recall_at_50": difference(-0.01)},
                    "fashion": {"recall_at_50": difference(-0.005)},
                    "not_fashion": {"recall_at_50": difference(-0.005), "precision_at_50": difference(-0.01)},
                },
                "best_release": {"overall": {"recall_at_50": difference(-0.02)}},
                "cold_start": {"overall": {"recall_at_50": difference(-0.02)}},
            },
            "routing": {
                **{"routing": "hard", "temperature": 1.0, "bins": 15, "margin": 0.01, "minimum_clicks": 5},
                **{"bag_of_words": None, "reliability": {"before": [], "after": []}},
                "populations": {"all": POPULATION | {"calibration_error": 0.05}},
            },
            "embeddings": {
                "text": {"effective_rank": 10.0, "near_duplicates": 0.9},
                "multimodal": {"effective_rank": 11.0, "near_duplicates": 0.5},
                "queries": {"effective_rank": 12.0},
            },
            "hubness": {"challenger": {"k": 10, "skewness": 5.5, "never": 0.1, "expected": 4.0, "worst": []}},
        },
        "checks": [
            {"table": "clicks", "check": "rows", "severity": "critical", "passed": True},
            {"table": "items", "check": "brand", "severity": "warning", "passed": False},
            {"table": "measure-drift/query_drift", "check": "AUC", "severity": "warning", "passed": False}
            | {"kind": "drift"},
        ],
        "index": {"recall_at_100": 0.95, "search_p99_ms": 20.0},
        "minimum_index_recall": 0.95,
        "settings": SETTINGS,
        "cutoff": CUTOFF,
        "rivals": {"champion": CHAMPION, "best_release": BEST, "cold_start": COLD},
    }


def decided(case: dict[str, Any]) -> Decision:
    checks = [Check(**{"observed": "7"} | check) for check in case["checks"]]
    return decide(**case | {"evaluation": parse_evaluation(case["evaluation"]), "checks": checks})


def failed(decision: Decision) -> list[str]:
    return [reason.rule for reason in decision.reasons if not reason.passed]


def test_on_every_threshold_at_once_it_passes(tmp_path: Path) -> None:
    # A spread of 1e-9 leaves the bounds of the differences that much below their means.
    case = good()
    for segments in case["evaluation"]["differences"].values():
        for values in segments.values():
            for value in values.values():
                value["mean"] += 1e-6
    decision = decided(case)
    assert failed(decision) == []
    assert decision.promote
    assert decision.verdict == "promote: every rule passed"
    written = json.loads(json.dumps(asdict(decision)))
    assert written["compared_with"]["best_release"]["version"] == "2"
    for reason in written["reasons"]:
        del reason["judged"]  # as older versions wrote them
    (tmp_path / "decision.json").write_text(json.dumps(written), encoding="utf-8")
    assert (
        read_decision(tmp_path / "decision.json").count
        == f"{len(written['reasons'])} of {len(written['reasons'])} rules passed"
    )


def test_a_first_release_is_for_the_floors_to_decide() -> None:
    case = good() | {"rivals": {}}
    case["evaluation"]["routing"]["populations"]["all"]["calibration_error"] = 0.098
    case["index"]["search_p99_ms"] = 90.0
    decision = decided(case)
    assert decision.promote and decision.verdict == "promote: every rule passed"
    told = {reason.rule for reason in decision.reasons if "told, not refused" in reason.text}
    assert told == {"calibration", "latency"}
    judged = {reason.rule for reason in decision.reasons if reason.judged}
    assert {"data_checks", "over_bm25", "index_recall"} <= judged
    assert not judged & {
        "not_worse_than_champion",
        "no_loss_in_fashion",
        "no_backfill",
        "not_worse_than_incumbent",
        *told,
    }
    assert (
        decision.count
        == f"{len(judged)} of {len(judged)} rules passed; {len(decision.reasons) - len(judged)} not judged"
    )
    assert {reason.mark for reason in decision.reasons} == {"✓", "–"}
    case["evaluation"]["models"]["challenger"]["overall"]["recall_at_50"]["mean"] = 0.3
    assert failed(decided(case)) == ["over_popularity", "over_bm25"]


def beside_the_incumbent(case: dict[str, Any], mean: float | None) -> None:
    within = {"requests": 90, "clusters": 80, "clicks": 99, "effective_clicks": 70.0, "maximum_weight": 10.0}
    within |= {"clicks_at_maximum": 0, "left_out": {}, "models": {"incumbent": figure(0.6)}}
    within |= {"differences": {} if mean is None else {"challenger": difference(mean)}}
    case["evaluation"]["incumbent"] = {"lists": 90, "versions": {}, "counts": {}, "graded": None, "shown": []} | {
        "within_list": within
    }


@pytest.mark.parametrize(
    ("mean", "margin", "passed", "says"),
    [
        (None, None, True, "not measured"),
        (None, 0.02, False, "not measured"),
        (-0.5, None, True, "-50.00 points, with 95% confidence above -50.00; told, not judged"),
        (-0.019, 0.02, True, "that must be above -2.00 (gate.incumbent_margin)"),
        (-0.021, 0.02, False, "order within the 90 clicked lists"),
    ],
)
def test_the_incumbent_is_told_and_judged_where_a_margin_is_set(
    mean: float | None, margin: float | None, passed: bool, says: str
) -> None:
    case = good()
    change_settings(incumbent_margin=margin)(case)
    beside_the_incumbent(case, mean)
    reason = next(r for r in decided(case).reasons if r.rule == "not_worse_than_incumbent")
    assert reason.passed == passed
    assert says in reason.text


def test_a_log_without_lists_breaks_no_rule_but_one_that_asks_for_them() -> None:
    case = good()
    assert "not_worse_than_incumbent" not in failed(decided(case))
    change_settings(incumbent_margin=0.02)(case)
    assert "not_worse_than_incumbent" in failed(decided(case))


def put(value: Any, *path: str) -> Callable[[dict[str, Any]], None]:
    """Sets what lies at a path in the evaluation; None takes it away."""

    def spoil(case: dict[str, Any]) -> None:
        inner = case["evaluation"]
        for name in path[:-1]:
            inner = inner[name]
        if value is None:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value

    return spoil


def change(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda case: case.update(values)


def change_settings(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda case: case.update(settings=case["settings"].model_copy(update=values))


RECALL = "recall_at_50"
AGAINST = ("differences", "champion")


@pytest.mark.parametrize(
    ("rule", "spoil", "says"),
    [
        ("data_checks", lambda case: case.update(checks=case["checks"][2:]), "0 of 0"),
        ("data_checks", lambda case: case["checks"][0].update(passed=False), "clicks: rows"),
        ("drift", lambda case: case["checks"][2].update(severity="critical"), "AUC"),
        ("drift", change_settings(drift="warning"), "AUC"),
        ("drift", lambda case: case["checks"].pop(), "not measured"),
        ("minimum_queries", put(99, "queries"), "at least 100"),
        ("over_popularity", put(0.2501, "models", "popularity", "overall", RECALL, "mean"), "popularity"),
        ("over_popularity", put(float("nan"), "models", "popularity", "overall", RECALL, "mean"), "popularity"),
        ("over_bm25", put(0.4001, "models", "bm25", "overall", RECALL, "mean"), "bm25"),
        ("over_bm25", put(None, "models", "bm25"), "not measured"),
        ("not_worse_than_champion", put(difference(-0.0101), *AGAINST, "overall", RECALL), "version 4"),
        ("not_worse_than_champion", put(difference(0.0, error=0.0061), *AGAINST, "overall", RECALL), "confidence"),
        ("not_worse_than_champion", put(None, *AGAINST, "overall"), "not measured"),
        (
            "not_worse_than_best_release",
            put(difference(-0.0201), "differences", "best_release", "overall", RECALL),
            "28 days, version 2",
        ),
        ("not_worse_than_best_release", put(None, "differences", "best_release"), "not measured"),
        (
            "not_worse_than_cold_start",
            put(difference(-0.0201), "differences", "cold_start", "overall", RECALL),
            "cold start of run d12",
        ),
        (
            "no_loss_in_not_fashion",
            put(difference(-0.03, error=0.008), *AGAINST, "not_fashion", RECALL),
            "not fashion: Recall@50 -3.00",
        ),
        ("no_loss_in_not_fashion", put(None, *AGAINST, "not_fashion", RECALL), "not measured"),
        ("no_loss_in_fashion", put(None, "segments", "fashion"), "not measured"),
        ("no_loss_in_nowhere", change_settings(guarded_segments={"nowhere": 0.01}), "nowhere: not measured"),
        ("better_in_fashion", change_settings(better_in=("fashion",)), "fashion: not shown to be better"),
        (
            "precision_outside_fashion",
            put(difference(-0.0101), *AGAINST, "not_fashion", "precision_at_50"),
            "-1.01 points",
        ),
        ("precision_outside_fashion", put(None, *AGAINST, "not_fashion", "precision_at_50"), "not measured"),
        ("calibration", put(0.0501, "routing", "populations", "all", "calibration_error"), "at most 5.0%"),
        ("calibration", put(None, "routing"), "not measured"),
        ("effective_rank", put(9.9, "embeddings", "text", "effective_rank"), "9.9 directions (text)"),
        ("effective_rank", put(float("nan"), "embeddings", "text", "effective_rank"), "directions"),
        ("near_duplicates", put(0.501, "embeddings", "multimodal", "near_duplicates"), "twin"),
        ("near_duplicates", put(None, "embeddings", "multimodal", "near_duplicates"), "not measured"),
        ("hubness", put(5.51, "hubness", "challenger", "skewness"), "5.01 beyond chance"),
        ("hubness", put(None, "hubness", "challenger"), "not measured"),
        ("index_recall", change(index={"recall_at_100": 0.949, "search_p99_ms": 1.0}), "94.9%"),
        ("index_recall", change(index={"search_p99_ms": 1.0}), "not measured"),
        ("latency", change(index={"recall_at_100": 1.0, "search_p99_ms": 20.1}), "20.1 ms"),
        ("latency", change(index={"recall_at_100": 1.0}), "not measured"),
        ("no_backfill", change(cutoff=datetime(2026, 11, 17, tzinfo=UTC)), "older days"),
    ],
)
def test_each_rule_fails_alone_and_says_why(rule: str, spoil: Callable[[dict[str, Any]], Any], says: str) -> None:
    case = copy.deepcopy(good())
    for segments in case["evaluation"]["differences"].values():
        for values in segments.values():
            for value in values.values():
                value["mean"] += 1e-6
    spoil(case)
    decision = decided(case)
    assert failed(decision) == [rule]
    assert not decision.promote
    broken = next(reason for reason in decision.reasons if not reason.passed)
    assert says in broken.text
    assert decision.verdict == f"keep the champion: {broken.text}"
    assert "\n" not in decision.verdict


def test_the_first_release_is_decided_by_floors_and_health_alone() -> None:
    case = good() | {"rivals": {}}
    case["evaluation"]["differences"] = {}
    case["settings"] = SETTINGS.model_copy(update={"better_in": ("fashion",)})
    decision = decided(case)
    assert failed(decision) == [] and decision.better == [] and decision.compared_with == {}
    case["evaluation"]["queries"] = 1
    assert failed(decided(case)) == ["minimum_queries"]


def test_what_is_too_small_to_tell_or_not_limited_passes_and_says_so() -> None:
    case = good() | {"index": {"recall_at_100": 1.0}}
    case["settings"] = SETTINGS.model_copy(
        update={"maximum_search_p99_ms": None, "guarded_segments": {"not_fashion": 0.0, "department: Gone": 0.0}}
    )
    case["evaluation"] |= {"segment_clusters": {"not_fashion": 19}, "routing": None}
    for name in ("overall", "fashion"):
        case["evaluation"]["differences"]["champion"][name]["recall_at_50"] = difference(0.0)
    case["evaluation"]["differences"]["champion"]["not_fashion"] = {
        metric: difference(-0.2) | {"standard_error": None} for metric in ("recall_at_50", "precision_at_50")
    }
    case["rivals"] = {"champion": CHAMPION}
    decision = decided(case)
    assert failed(decision) == []
    text = {reason.rule: reason.text for reason in decision.reasons}
    assert "19 items or texts, under 20: too few to tell" in text["no_loss_in_not_fashion"]
    assert "0 queries" in text["no_loss_in_department: Gone"]
    assert "too few to tell" in text["precision_outside_fashion"]
    assert text["latency"] == "search latency: not measured, no limit is set (gate.maximum_search_p99_ms)"
    assert "does not route" in text["calibration"]
    assert "none but the champion" in text["not_worse_than_best_release"]


QUERIES, FASHION = 4_000, 3_000


def answers(**flips: tuple[int, int]) -> Decision:
    """The gate on 4,000 constructed requests for 2,000 items, of which 1,000 are outside fashion.

    Args:
        flips: fashion or not_fashion → requests that the challenger finds and the champion does not, and the other way round.
    """
    number = np.arange(QUERIES)
    is_visual = number < FASHION
    champion = np.where(is_visual, number % 10 < 7, number % 20 < 19)
    challenger = champion.copy()
    # One request of each item, far apart.
    for segment, (won, lost) in flips.items():
        inside = is_visual if segment == "fashion" else ~is_visual
        challenger[np.flatnonzero(inside & ~champion & (number % 2 == 1))[:won]] = True
        challenger[np.flatnonzero(inside & champion & (number % 2 == 0))[:lost]] = False
    values = {
        name: dict.fromkeys(COMPARED_METRICS, found.astype(float))
        for name, found in {
            "challenger": challenger,
            "champion": champion,
            "bm25": number % 2 == 0,
            "popularity": number % 9 == 0,
        }.items()
    }
    for of_model in values.values():
        of_model["precision_at_50"] = np.full(QUERIES, 0.2)
    segments = {"overall": np.ones(QUERIES, dtype=bool), "fashion": is_visual, "not_fashion": ~is_visual}
    bootstrap = ClusterBootstrap(number // 2, samples=200, seed=0)
    case = good()
    case["evaluation"] |= {"queries": QUERIES, **summarise(values, bootstrap, segments, permutations=2_000, seed=0)}
    case["rivals"] = {"champion": CHAMPION}
    return decided(case)


def test_a_challenger_that_gains_overall_but_loses_outside_fashion_is_refused() -> None:
    decision = answers(fashion=(200, 0), not_fashion=(0, 40))
    assert decision.better == ["overall", "fashion"], "four points more in all"
    assert failed(decision) == ["no_loss_in_not_fashion"]
    assert "keep the champion: not fashion: Recall@50 -4.00 points" in decision.verdict
    assert "a loss beyond 0.50 points is shown" in decision.verdict


def test_a_loss_within_the_margin_passes() -> None:
    decision = answers(fashion=(30, 36), not_fashion=(3, 8))
    assert decision.promote, decision.verdict
    assert decision.better == []


def test_one_better_by_noise_alone_is_not_called_better_and_one_that_is_is() -> None:
    assert answers(fashion=(100, 85), not_fashion=(5, 3)).better == []
    decision = answers(fashion=(150, 85), not_fashion=(5, 3))
    assert decision.better == ["overall", "fashion"]
    assert decision.verdict == "promote: every rule passed; better than the champion: all queries, fashion"


def test_the_same_answers_are_no_loss_and_not_better() -> None:
    decision = answers()
    assert decision.promote and decision.better == []


def test_a_check_of_drift_is_what_says_so_of_itself() -> None:
    case = good() | {"rivals": {"champion": CHAMPION}}
    case["evaluation"]["differences"]["champion"] = {
        segment: {metric: difference(0.0) for metric in ("recall_at_50", "precision_at_50")}
        for segment in ("overall", "fashion", "not_fashion")
    }
    assert failed(decided(case)) == []
    case["checks"][0]["check"] = "shift of nothing"
    case["checks"][0]["passed"] = False
    assert failed(decided(case)) == ["data_checks"], "its words make no check one of drift"
    case["checks"][0]["kind"] = "drift"
    case["checks"].append(case["checks"][0] | {"passed": True, "kind": "data"})
    assert failed(decided(case)) == ["drift"]


def test_older_checks_without_a_kind_are_told_by_their_names(tmp_path: Path) -> None:
    row = {"severity": "critical", "passed": True, "observed": "0.1", "detail": "", "a later key": 1}
    rows = [
        {"table": "run", "check": "shift of the departments clicked on 2026-11-19 against the days before"} | row,
        {"table": "measure-drift/query_drift", "check": "AUC at most 0.98"} | row,
        {"table": "run", "check": "clicks lie in the window"} | row,
    ]
    file = tmp_path / "checks.json"
    file.write_text(json.dumps(rows))
    assert [check.kind for check in read_checks(file)] == ["drift", "drift", "data"]
    file.write_text(json.dumps([rows[2] | {"kind": "drift"}]))
    assert [check.kind for check in read_checks(file)] == ["drift"]


@pytest.mark.parametrize("file", sorted((REPOSITORY / "configs").glob("[sr]*.yaml")), ids=lambda file: file.stem)
def test_the_settings_that_ship_guard_segments_that_there_are(file: Path) -> None:
    from smar_model.evaluation.segments import GROUPS

    if "simulation" not in file.read_text(encoding="utf-8"):
        return
    known = {name for group in GROUPS for name in group}
    gate = load_settings(file).gate
    assert set(gate.guarded_segments) <= known
    assert "not_fashion" in gate.guarded_segments
