"""Great Expectations as the judge of figures, the checks of a run, and their page."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from smar_model.checks import expectations
from smar_model.checks.checks_page import TableRows, render_page
from smar_model.checks.expectations import Check, Measure, judge
from smar_model.checks.run_checks import RunFigures, run_measures, stability_index
from smar_model.lake.artifacts import Artifact
from smar_model.lake.stage import StageContext
from smar_model.stages import STAGES
from tests.tiny_shop import DAYS, tiny_run


def measure(**changes: Any) -> Measure:
    return Measure(**{"table": "t", "check": "c", "severity": "critical", "value": 1.0, "most": 2} | changes)


def test_a_figure_passes_between_its_bounds_alone() -> None:
    bounds = [(None, 1), (1, None), (1, 1), (1.5, None), (None, 0.5), (None, 0)]
    found = judge([measure(least=least, most=most, detail="why") for least, most in bounds])
    assert [c.passed for c in found] == [True, True, True, False, False, False]
    assert [c.detail for c in found] == ["", "", "", "why", "why", "why"]


def test_details_are_asked_for_where_a_check_fails() -> None:
    asked: list[str] = []

    def detail(name: str) -> str:
        asked.append(name)
        return name

    found = judge([measure(detail=lambda: detail("passed")), measure(most=0, detail=lambda: detail("failed"))])
    assert asked == ["failed"] == [found[1].detail]


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_figure_that_is_not_there_is_an_error_not_a_pass(value: float | None) -> None:
    with pytest.raises(RuntimeError, match=r"t: c: could not be measured"):
        judge([measure(), measure(value=value)])


@pytest.mark.parametrize(
    ("impossible", "says"),
    [
        ({"least": 5, "most": 1}, "min_value cannot be greater than max_value"),
        ({"most": "many"}, "not a valid float"),
        ({"most": None}, "cannot both be None"),
        ({"severity": "grave"}, "not a valid FailureSeverity"),
    ],
)
def test_an_expectation_that_cannot_be_carried_out_is_an_error(impossible: dict[str, Any], says: str) -> None:
    with pytest.raises(RuntimeError, match=rf"(?s)t: odd: could not be carried out: .*{says}"):
        judge([measure(), measure(check="odd", **impossible)])


def test_a_library_that_leaves_a_check_out_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = expectations._batch
    for column, says in (([1.0], "t: c: could not be carried out"), ([None], "one figure expected")):
        batch = real(pd.DataFrame({"0": column}, dtype=float))
        monkeypatch.setattr(expectations, "_batch", lambda frame, batch=batch: batch)
        with pytest.raises(RuntimeError, match=says):
            judge([measure()] if column == [None] else [measure(), measure()])


# A run whose every check passes; each case below spoils one figure.
LAST = DAYS[-1]
GOOD: dict[tuple[str, date | None, str | None], float] = {
    **{
        (e, day, None): n
        for e, n in (("impressions", 1000), ("clicks", 200), ("carts", 60), ("orders", 3))
        for day in DAYS
    },
    **{("clicks_with_words", day, None): 200 for day in DAYS},
    **{("met", day, None): 300 for day in DAYS},
    **{("met_by_chance", day, None): 20_000 for day in DAYS},  # 100 meetings by chance: 3 times as often
    **{("department_before", None, d): 200 for d in ("Books", "Clothing")},
    **{("department_last", None, d): 100 for d in ("Books", "Clothing")},
    **{("quarantined", day, "click_log/null_field"): 10 for day in DAYS},
    **{("quarantined", day, "click_log/duplicate_event"): 10 for day in DAYS},
    ("quarantined", None, "items/no_title"): 2,
    ("quarantined", None, "pictures/missing"): 2,
    **{("shown_at", None, str(p)): 100 for p in range(1, 12)},
    **{("clicked_at", None, str(p)): 22 - p for p in range(1, 12)},
    ("labels", None, "visual"): 30,
    ("labels", None, "other"): 30,
    ("labels", None, "unsure"): 10,
    **{
        ("trainable", None, key): 100
        for key in ("items", "known_items", "items_with_queries", "clicks", "known_clicks")
    },
    **{("leak", None, view): 0 for view in ("late_items", "days_outside", "differing_labels")},
}


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The outcome of a run's checks, by their first words; figures of GOOD replaced as given."""
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    (tmp_path / "shop" / "pictures").mkdir(parents=True)
    metrics = {
        "prepare-items": {"items_in": 24, "pictures_in": 36},
        "extract-clicks": {},
        "generate-queries": {"per_true_query": 20.0},
    }

    def judge_run(changes: dict[Any, float], *, per_true_query: float = 20.0, **sections: Any) -> list[Check]:
        figures = GOOD | changes
        table = pd.DataFrame(
            [(*key, value) for key, value in figures.items()], columns=["figure", "day", "key", "value"]
        )
        inputs = {
            stage: Artifact(
                stage=stage,
                key="k",
                place=tmp_path,
                manifest={"metrics": found | ({"per_true_query": per_true_query} if "queries" in stage else {})},
            )
            for stage, found in metrics.items()
        }
        run = tiny_run(tmp_path / "shop", name=f"run{len(list(tmp_path.rglob('run.json')))}", **sections)
        context = StageContext(stage=STAGES["check-data"], run=run, inputs=inputs, folder=tmp_path, key="0" * 64)
        samples = {("click_log", "null_field"): ["r1/item-000/click"], ("items", "no_title"): ["item-001"]}
        return judge(
            run_measures(context, RunFigures(table=table, samples=samples, leaking_keys=lambda view: [f"a {view}"]))
        )

    return judge_run


def test_a_good_run_passes_every_check(judged: Any) -> None:
    found = judged({})
    assert [c for c in found if not c.passed] == []
    assert len(found) > 20
    assert not any("orders" in c.check and "mean" in c.check for c in found), "three orders a day are not compared"


@pytest.mark.parametrize(
    ("changes", "severities", "says"),
    [
        (
            {("quarantined", LAST, "click_log/bot_rate"): 900},
            {"critical"},
            ["a day's events in quarantine", f"0.4214 on {LAST}", "bot_rate 900", "settings.checks.maximum_quarantined", "click_log"],
        ),
        ({("quarantined", None, "items/no_title"): 6}, {"critical"}, ["share of items in quarantine", "no_title 6: item-001, …"]),
        ({("quarantined", None, "pictures/missing"): 8}, {"critical"}, ["share of pictures", "maximum_broken_pictures"]),
        (
            {("quarantined", DAYS[0], "click_log/null_field"): 90},
            {"critical"},
            ["without a field", f"on {DAYS[0]}", "null_field 110: r1/item-000/click, …", "maximum_nulls"],
        ),
        (
            {("quarantined", LAST, "click_log/replayed_event"): 90},
            {"warning"},
            ["that repeat another", "replayed_event 90", "maximum_repeated"],
        ),
        ({("impressions", LAST, None): 450}, {"warning"}, ["impressions of 2026-11-19", "usual_volume", f"dt={LAST}"]),
        ({("carts", LAST, None): 10}, {"warning", "critical"}, ["carts of 2026-11-19", "possible_volume"]),
        ({("carts", LAST, None): 130}, {"warning"}, ["carts of 2026-11-19", "130 carts", "60 a day before"]),
        ({("impressions", LAST, None): 6000}, {"warning", "critical"}, ["impressions", "possible_volume"]),
        ({("clicks", DAYS[1], None): 0}, {"critical"}, ["every day of the window has clicks", f"None in {DAYS[1]}"]),
        (
            {("department_last", None, "Books"): 30, ("department_last", None, "Clothing"): 170},
            {"warning"},
            ["shift of the departments", "Books 50% → 15%", "usual_shift"],
        ),
        (
            {("department_last", None, "Books"): 1, ("department_last", None, "Toys"): 199, ("department_last", None, "Clothing"): 0},
            {"warning", "critical"},
            ["possible_shift", "Toys 0% → 100%"],
        ),
        (
            {("met", DAYS[1], None): 103},
            {"critical"},
            ["words of clicked queries", f"1.03 times on {DAYS[1]}, 3.00 on the median day", "minimum_agreement", "mixed up"],
        ),
        ({("met", LAST, None): 0, ("met_by_chance", LAST, None): 0}, {"critical"}, [f"0.00 times on {LAST}"]),
        (
            {("clicked_at", None, str(p)): 10 + p for p in range(1, 12)},
            {"warning"},
            ["click-through of places 7 to 11", "`position`", "maximum_lower_half"],
        ),
        ({("clicked_at", None, str(p)): 10 for p in range(1, 12)}, {"warning"}, ["click-through", "1.000"]),
        ({("labels", None, "visual"): 0}, {"warning"}, ["that are visual", "settings.shop.visual_departments"]),
        ({("labels", None, "other"): 0}, {"warning"}, ["that are visual", "30 of 30 queries"]),
        ({("labels", None, "unsure"): 100}, {"warning"}, ["that are unsure", "settings.labels"]),
        (
            {("trainable", None, "known_items"): 40, ("trainable", None, "items_with_queries"): 40},
            {"critical"},
            ["items that may be trained on at least 0.5", "0.4 (40 of 100)", "no run of an earlier day", "updated_at of every row"],
        ),
        ({("trainable", None, "known_clicks"): 0}, {"critical"}, ["clicks of the training days on items", "0 (0 of 100)"]),
        ({("trainable", None, "items_with_queries"): 9}, {"critical"}, ["with synthetic queries at least 0.5", "is words"]),
        ({("leak", None, "late_items"): 3}, {"critical"}, ["whose text stood before 2026-11-19", "['a late_items']", "generate-queries"]),
        ({("leak", None, "days_outside"): 1}, {"critical"}, ["clicks lie in the window", "extract-clicks"]),
        ({("leak", None, "differing_labels"): 1}, {"critical"}, ["training days alone", "label-fashion"]),
        ({("shown_at", None, "11"): 1001}, {"critical"}, ["propensities count impressions", "2,001 counted, 2,000 in the training"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place_and_remedy(
    changes: dict[Any, float], severities: set[str], says: list[str], judged: Any
) -> None:
    failed = [c for c in judged(changes) if not c.passed]
    assert {c.severity for c in failed} == severities
    text = "\n".join(f"{c.check}: {c.observed}. {c.detail}" for c in failed)
    for words in says:
        assert words in text
    assert all(len(c.detail) > 40 for c in failed)


def test_too_few_clicks_and_synthetic_queries_fail(judged: Any) -> None:
    failed = [c.check for c in judged({}, checks={"minimum_training_clicks": 401}) if not c.passed]
    assert failed == ["clicks in the training days at least 401 (settings.checks.minimum_training_clicks)"]
    assert [c.severity for c in judged({}, per_true_query=19.0) if not c.passed] == ["warning"]
    assert [c.severity for c in judged({}, per_true_query=1.9) if not c.passed] == ["warning", "critical"]


def test_bounds_can_be_set(judged: Any) -> None:
    spoilt = {("met", DAYS[1], None): 103, ("carts", LAST, None): 10}
    bounds = {
        "minimum_agreement": 1.01,
        "usual_volume": (0.1, 9),
        "possible_volume": (0.05, 20),
        "minimum_training_clicks": 1,
    }
    assert all(c.passed for c in judged(spoilt, checks=bounds))


def test_the_stability_index_forgives_chance_and_sees_shifts() -> None:
    before = pd.Series({"a": 500.0, "b": 300.0, "c": 200.0})
    assert stability_index(before / 10, before) == 0.0
    assert stability_index(pd.Series({"a": 22.0, "b": 15.0, "c": 12.0}), before) < 0.05
    # Without chance: Σ (p − q) ln(p / q) with p = (.2, .3, .5), q = (.5, .3, .2) is 0.6 · ln 2.5 = 0.550.
    swapped = pd.Series({"a": 20_000.0, "b": 30_000.0, "c": 50_000.0})
    assert stability_index(swapped, before * 100) == pytest.approx(0.5498, abs=1e-3)
    assert stability_index(pd.Series({"d": 900.0}), before) > 1


def test_the_page_shows_what_failed_first_and_needs_no_network() -> None:
    found = [
        Check(table="a/b", check="fine", severity="critical", passed=True, observed="0"),
        Check(table="run", check="doubtful", severity="warning", passed=False, observed="3", detail="look there"),
        Check(
            table="run",
            check="wrong",
            severity="critical",
            passed=False,
            observed="1",
            detail="<script>alert(1)</script>",
        ),
    ]
    rows = TableRows(name="a/b", rows=1234, columns=[("query", 0, 3, 17), ("tags", 2, None, None)])
    page = render_page(found, title="Checks", unused=[("click_log", "null_field", 418, "r1/i1/click")], tables=[rows])
    assert "3 checks: 1 failed, 1 warnings" in page
    assert page.index("wrong") < page.index("doubtful") < page.index("1 checks passed") < page.index("fine")
    assert "<script>" not in page and "&lt;script&gt;" in page
    for shown in ("look there", "null_field", "418", "r1/i1/click", "a/b: 1,234 rows", '<tr class="warning">'):
        assert shown in page
    assert "http" not in page and "src=" not in page and "<link" not in page
    assert "Nothing is trained" not in render_page(found[:2], title="Checks")
