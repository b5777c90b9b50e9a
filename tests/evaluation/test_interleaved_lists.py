"""Interleaved lists of a run's days: what evaluate judges, and what the report and the table of `make retrain` say of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from smar_model.data.query_text import normalise_query
from smar_model.evaluation import report
from smar_model.evaluation.evaluation_record import EvaluationRecord, Interleaving, parse_evaluation, read_evaluation
from smar_model.evaluation.interleaved_experiments import read_experiments
from smar_model.evaluation.interleaved_lists import judge_interleaved_lists
from smar_model.evaluation.terminal_table import format_table
from smar_model.lake.stage import run_stage
from smar_model.stages import STAGES
from tests.evaluation.published_run import PublishedRun, publish_run
from tests.evaluation.test_interleaving import click, impressions
from tests.tiny_shop import DAYS, tiny_settings, write_rows

DAY = date(2026, 11, 18)


def lists_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `shown_lists`, as extract-clicks makes them of such events."""
    clicks = Counter((e["request_id"], e["item_id"]) for e in events if e["event"] == "click")
    requests: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event["event"] == "impression":
            requests.setdefault(event["request_id"], []).append(event)
    return [
        {
            "day": shown[0]["event_time"].date(), "request_id": request, "shopper": shown[0]["user_id"],
            "query": normalise_query(shown[0]["query"]), "items": [e["item_id"] for e in shown], "positions": [e["position"] for e in shown],
            "clicks": [clicks[request, e["item_id"]] for e in shown], "orders": [0] * len(shown),
            "versions": [e["version"] or "" for e in shown], "teams": [e["team"] or "" for e in shown],
        }
        for request, shown in requests.items()
    ]  # fmt: skip


def judged(folder: Path, rows: list[dict[str, Any]]) -> Interleaving | None:
    file = folder / "shown_lists" / "part-0.parquet"
    write_rows(file, "shown_lists", rows)
    return judge_interleaved_lists([file])


def experiment(*, won: int, lost: int, tied: int = 0, day: date = DAY, prefix: str = "u") -> list[dict[str, Any]]:
    """Events of shoppers with a request each: the challenger, 5, is first and the champion, 3, second."""
    events = []
    for number in range(won + lost + tied):
        shown = impressions(f"{day}-{prefix}{number}", f"{prefix}{number}", "AB-", day=day, second=number)
        events += [*shown, click(shown, 1 if number < won else 2 if number < won + lost else 3)]
    return events


def test_the_table_says_what_the_log_says(tmp_path: Path) -> None:
    earlier = DAY - timedelta(days=1)
    events = {earlier: experiment(won=9, lost=4, tied=2, day=earlier), DAY: experiment(won=3, lost=12, tied=1)}
    for day, of_day in events.items():
        write_rows(tmp_path / "shop" / "click_log" / f"dt={day}" / "part-0.parquet", "click_log", of_day)
    (by_log,) = read_experiments(tiny_settings(tmp_path / "shop")).preferences
    found = judged(tmp_path, lists_of(events[DAY] + events[earlier]))
    assert found is not None
    assert found.preference == by_log
    assert [look.day for look in found.preference.looks] == [earlier, DAY]
    assert (found.champion.shown, found.champion.clicked, found.champion.requests) == (31, 16, 16)
    assert (found.challenger.shown, found.challenger.clicked, found.challenger.requests) == (31, 12, 12)


def test_the_newest_pair_is_judged_and_what_does_not_count_is_counted(tmp_path: Path) -> None:
    old = lists_of(experiment(won=9, lost=0, day=DAY - timedelta(days=1)))
    old = [row | {"versions": [v.replace("5", "4") for v in row["versions"]]} for row in old]
    new = lists_of(experiment(won=2, lost=1, prefix="n"))
    fine = new[0]
    faulty = [
        fine | {"request_id": "strange", "teams": ["tertium", "champion", ""]},
        fine | {"request_id": "nameless", "versions": ["", "3", ""]},
        fine | {"request_id": "worded", "versions": ["five", "3", ""]},
        fine | {"request_id": "several", "teams": ["champion"] * 2 + ["challenger"], "versions": ["3", "4", "5"]},
        fine | {"request_id": "one team", "teams": ["champion"] * 3, "versions": ["3"] * 3},
        fine | {"request_id": "both", "items": ["a", "a", "b"]},
        fine | {"request_id": "of one engine", "shopper": None, "teams": [""] * 3},
    ]
    found = judged(tmp_path, [*old, *new, *faulty])
    assert found is not None
    assert str(found.preference.pair) == "3:5"
    assert (found.preference.last.wins, found.preference.last.losses, found.preference.last.requests) == (2, 1, 3)
    assert found.counts == {
        "lists": 9 + 3 + 6,
        "a_team_is_neither_champion_nor_challenger": 1,
        "a_team_has_no_number_of_a_version": 2,
        "an_item_is_of_both_teams": 1,
        "a_team_has_several_versions": 1,
        "all_items_shown_are_of_one_team": 1,
        "of_other_versions": 9,
    }
    assert judged(tmp_path, faulty) is None, "none of them counts"
    assert judged(tmp_path, []) is None and judge_interleaved_lists([]) is None


@pytest.fixture(scope="module")
def reported_once(tmp_path_factory: pytest.TempPathFactory) -> PublishedRun:
    """Two days with interleaved lists, the first before the evaluation day."""
    folder = tmp_path_factory.mktemp("interleaved")
    events = [*experiment(won=12, lost=2, day=DAYS[-2]), *experiment(won=33, lost=4, tied=3, day=DAYS[-1], prefix="v")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder / "shop" / "home"))
        published = publish_run(folder / "shop", with_truth=False, interleaved=lists_of(events))
        for stage in ("embed", "index", "evaluate", "gate", "report"):
            run_stage(STAGES[stage], published.run)
    return published


@pytest.fixture
def reported(reported_once: PublishedRun, monkeypatch: pytest.MonkeyPatch) -> PublishedRun:
    monkeypatch.setenv("SMAR_HOME", str(reported_once.root / "home"))
    return reported_once


def record_of(published: PublishedRun) -> EvaluationRecord:
    return read_evaluation(published.run.output("evaluate").file("evaluation.json"))


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_evaluate_judges_the_lists_of_all_days(reported: PublishedRun) -> None:
    found = record_of(reported).interleaving
    assert found is not None
    assert [(look.day, look.requests) for look in found.preference.looks] == [(DAYS[-2], 14), (DAYS[-1], 54)]
    assert (found.preference.verdict, found.preference.last.wins, found.preference.last.losses) == ("challenger", 45, 6)
    metrics = reported.run.output("evaluate").metrics
    assert metrics["interleaving_preference"] == pytest.approx((45 + 3 / 2) / 54, abs=1e-6)
    assert metrics["interleaving_p"] < 0.05
    assert record_of(reported).incumbent is not None, "lists of one engine are judged beside it"


def test_the_report_opens_with_it_and_has_its_figures(reported: PublishedRun) -> None:
    page = reported.run.output("report").file("report.html").read_text(encoding="utf-8")
    opening = words(page[page.index('<section id="incumbent">') : page.index('<section id="interleaving">')])
    assert "Version 5 against 3: 86.1" in opening and "shoppers prefer the challenger, shown on" in opening
    section = words(page[page.index('<section id="interleaving">') : page.index('<section id="finds">')])
    assert "champion 3 54 6 6 6 challenger 5 54 45 45 45 neither 3 3" in section
    assert f"{DAYS[-1]} 54 54 45 / 3 / 6 &lt; 0.0001 0.0018" in section
    assert "Shoppers prefer the challenger" in section
    assert "Version 5 interleaved with 3, 54 shoppers" in " ".join(format_table(record_of(reported)).split())


def test_the_row_stands_alone_where_no_engine_s_list_is_there_and_says_what_is_needed(
    reported: PublishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undecided = judged(tmp_path, lists_of(experiment(won=60, lost=45, tied=7)))
    assert undecided is not None and undecided.preference.needed is not None
    changed = replace(record_of(reported), incumbent=None, interleaving=undecided)
    monkeypatch.setattr(report, "read_evaluation", lambda file: changed)
    report.run(reported.context("report", tmp_path))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    opening = words(page[page.index('<section id="incumbent">') : page.index('<section id="interleaving">')])
    assert "Version 5 against 3" in opening and "Order within" not in opening
    assert f"about {undecided.preference.needed.about:,} more requests show it" in opening
    monkeypatch.setattr(report, "read_evaluation", lambda file: replace(changed, interleaving=None))
    report.run(reported.context("report", tmp_path))
    assert "Interleaving" not in words((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_files_of_before_say_nothing_of_it(reported: PublishedRun) -> None:
    content = json.loads(json.dumps(asdict(record_of(reported)), default=str))
    del content["interleaving"]
    assert parse_evaluation(content).interleaving is None
