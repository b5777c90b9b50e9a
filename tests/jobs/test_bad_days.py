"""Bad days through all data stages: a clear message, nothing published; a good day passes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs import check_data, table_summaries
from smar_model.checks.expectations import Measure
from smar_model.errors import InputError
from smar_model.lake.contracts import SCHEMAS, Demand
from smar_model.lake.runs import create_run
from smar_model.release.starting_points import find_earlier_catalogue
from tests.tiny_shop import (
    DATA_STAGES,
    DAYS,
    published,
    run_stages,
    take_over,
    tiny_events,
    tiny_items,
    tiny_run,
    write_pictures,
    write_rows,
    write_tiny_shop,
)

DRIFT = ("measure-drift/query_drift", "warning")


@pytest.fixture(scope="module", autouse=True)
def home(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for all days, so that what they share is done once; the tables of the good day are those of the fixture."""
    folder = tmp_path_factory.mktemp("days")
    take_over(tiny_data, folder, *DATA_STAGES[:5], "extract-clicks-day")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder))
        yield folder


def write_log(root: Path, change: Any) -> None:
    for day in DAYS:
        events = [change(n, dict(event)) for n, event in enumerate(tiny_events(day, tiny_items())[0])]
        write_rows(root / "click_log" / f"dt={day}" / "part-0.parquet", "click_log", events)


def test_a_good_day_passes(home: Path) -> None:
    run = tiny_run(write_tiny_shop(home / "good"), name="good")
    output = run_stages(run, *DATA_STAGES)["check-data"]
    found = json.loads(output.file("checks.json").read_text(encoding="utf-8"))
    assert len(found) == output.metrics["checks"] > 40
    # Queries of two words about 24 titles: the words differ more than in a real shop.
    assert {(c["table"], c["severity"]) for c in found if not c["passed"]} <= {DRIFT}
    tables = [(s, t) for s in DATA_STAGES[:5] for t in run.output(s).manifest["content"]]
    with_contract = {f"{stage}/{table}" for stage, table in tables if (SCHEMAS / f"{table}.yaml").is_file()}
    assert {check["table"] for check in found} == with_contract | {"run", "measure-drift/query_drift"}
    assert {"extract-clicks/clicks", "extract-clicks/quarantine_counts", "prepare-items/pictures"} < with_contract
    assert output.metrics["agreement"] > 3 and output.metrics["silent_days"] == 0
    assert output.metrics["training_clicks"] == 80
    page = output.file("checks.html").read_text(encoding="utf-8")
    assert page == (run.folder / "checks.html").read_text(encoding="utf-8")
    assert f"{len(found)} checks: 0 failed" in page
    assert "http" not in page and str(home) not in page


def test_half_the_rows_malformed(home: Path) -> None:
    root = write_tiny_shop(home / "malformed")

    def spoil(n: int, event: dict[str, Any]) -> dict[str, Any]:
        if n % 4 == 0:
            return event | {"query": None}
        return event | {"position": 0} if n % 4 == 1 else event

    write_log(root, spoil)
    run = tiny_run(root, name="malformed")
    before = published("check-data")
    with pytest.raises(InputError) as error:
        run_stages(run, *DATA_STAGES)
    message = str(error.value)
    metrics = run.output("extract-clicks").metrics
    # What was done to an item whose impression is malformed goes with it.
    alone = metrics["quarantined_null_field"] + metrics["quarantined_bad_position"]
    assert alone == pytest.approx(metrics["rows_in"] / 2, abs=3)
    assert metrics["rows_quarantined"] == alone + metrics["quarantined_action_without_impression"]
    assert f"null_field {metrics['quarantined_null_field']}: {DAYS[0]}-0" in message
    assert f"bad_position {metrics['quarantined_bad_position']}: {DAYS[0]}-0" in message
    assert "share of a day's events without a field at most 0.05 (settings.checks.maximum_nulls)" in message
    assert "settings.checks.maximum_quarantined" in message
    assert str(root / "click_log") in message
    line = next(line for line in message.splitlines() if "null_field" in line)
    assert line.count("/impression") + line.count("/click") + line.count("/cart") + line.count("/order") == 20
    assert published("check-data") == before
    page = (run.folder / "checks.html").read_text(encoding="utf-8")
    assert '<tr class="critical">' in page and "bad_position" in page


def test_titles_that_are_all_null(home: Path) -> None:
    root = write_tiny_shop(home / "untitled")
    write_rows(root / "items.parquet", "items", [item | {"title": None} for item in tiny_items()])
    before = published("check-data")
    with pytest.raises(InputError) as error:
        run_stages(tiny_run(root, name="untitled"), *DATA_STAGES)
    message = str(error.value)
    assert "no_title 24: item-0" in message
    assert "prepare-items/catalogue: expect_table_row_count_to_be_between(min_value=1): 0" in message
    assert str(root / "items") in message
    assert published("check-data") == before


def test_pictures_mostly_broken(home: Path) -> None:
    root = write_tiny_shop(home / "broken")
    write_pictures(root, {name: b"not a picture" for item in tiny_items() for name in item["images"][:1]})
    with pytest.raises(InputError, match=r"(?s)1 of \d+ data checks failed.*undecodable 24: item-0\d\d/0\d\d\.jpg"):
        run_stages(tiny_run(root, name="broken"), *DATA_STAGES)


def test_too_few_synthetic_queries_warn_and_far_too_few_fail(home: Path) -> None:
    root = write_tiny_shop(home / "good")
    warned = tiny_run(root, name="few", synthetic_queries={"per_true_query": 30, "maximum_words": 1})
    output = run_stages(warned, *DATA_STAGES)["check-data"]
    failed = [c for c in json.loads(output.file("checks.json").read_text(encoding="utf-8")) if not c["passed"]]
    assert {check["severity"] for check in failed} == {"warning"}
    assert output.metrics["failed_warnings"] == len(failed)
    assert any(check["check"] == "synthetic queries for each true one at least 30" for check in failed)
    page = output.file("checks.html").read_text(encoding="utf-8")
    assert '<tr class="warning">' in page and "settings.synthetic_queries.maximum_words" in page
    fewer = tiny_run(root, name="fewer", synthetic_queries={"per_true_query": 300, "maximum_words": 1})
    with pytest.raises(InputError, match="synthetic queries for each true one at least 30"):
        run_stages(fewer, *DATA_STAGES)


def test_too_few_clicks_and_a_day_without_any(home: Path) -> None:
    root = write_tiny_shop(home / "quiet")
    write_log(
        root, lambda n, event: event | {"event": "impression"} if event["event_time"].date() == DAYS[1] else event
    )
    with pytest.raises(InputError) as error:
        run_stages(tiny_run(root, name="quiet", checks={"minimum_training_clicks": 50}), *DATA_STAGES)
    message = str(error.value)
    assert "clicks in the training days at least 50 (settings.checks.minimum_training_clicks): 40." in message
    assert f"every day of the window has clicks: 2 of 3 days. None in {DAYS[1]}" in message


def test_a_table_that_knows_the_evaluation_day_is_caught(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables made for a later cutoff are handed to a run with an earlier one."""
    root = write_tiny_shop(home / "good")
    items = [i | {"updated_at": i["updated_at"].replace(day=18)} if n == 3 else i for n, i in enumerate(tiny_items())]
    write_rows(root / "items.parquet", "items", items)
    later = tiny_run(root, name="later")
    run_stages(later, *DATA_STAGES)
    earlier = tiny_run(root, name="earlier", window={"days": len(DAYS), "evaluation_days": 2})
    for stage in DATA_STAGES[:5]:
        state = later.state(stage)
        assert state is not None
        earlier.write_state(stage, "finished", key=state["key"])
    with pytest.raises(InputError) as error:
        run_stages(earlier, "check-data")
    message = str(error.value)
    assert "synthetic queries come from items whose text stood before 2026-11-18" in message
    assert "['item-003']" in message
    assert "fashion labels count the clicks of the training days alone" in message


def test_an_export_that_touches_every_row_empties_training_once(home: Path) -> None:
    """Without an earlier day there is updated_at alone, and the run ends red; with one an item is as old as its text."""
    root = write_tiny_shop(home / "touched")
    before = create_run(replace(tiny_run(root, name="touched-before"), name="touched-earlier", date=DAYS[-2]))
    run_stages(before, "prepare-items")
    touched = [item | {"updated_at": datetime(2026, 11, 19, 2, tzinfo=UTC)} for item in tiny_items()]
    touched[7]["title"] = "Another dress"
    write_rows(root / "items.parquet", "items", touched)
    with pytest.raises(InputError) as error:
        run_stages(tiny_run(root, name="touched-first"), *DATA_STAGES)
    message = str(error.value)
    assert (
        "share of items that may be trained on at least 0.5 (settings.checks.minimum_trainable_items): 0 (0 of 24)."
        in message
    )
    assert "clicks of the training days on items that may be trained on at least 0.5" in message
    assert f"by updated_at in {root / 'items*'} (this shop has no run of an earlier day)" in message

    planned = replace(tiny_run(root, name="touched-plan"), name="touched-second")
    run = create_run(replace(planned, earlier_catalogue=find_earlier_catalogue(planned)))
    assert run.earlier_catalogue and run.earlier_catalogue.run == "touched-earlier"
    output = run_stages(run, *DATA_STAGES)
    ages = {
        row["item_id"]: row["updated_at"]
        for file in output["prepare-items"].files("catalogue")
        for row in pq.read_table(file).to_pylist()
    }
    assert ages == {
        item["item_id"]: touched[n]["updated_at"] if n == 7 else item["updated_at"]
        for n, item in enumerate(tiny_items())
    }
    assert output["check-data"].metrics["trainable_items"] == pytest.approx(23 / 24, abs=1e-4)
    assert output["check-data"].metrics["items_with_queries"] == 1
    again = create_run(replace(run, name="touched-again"))
    assert run_stages(again, "prepare-items")["prepare-items"].key == output["prepare-items"].key
    assert find_earlier_catalogue(replace(planned, date=DAYS[0])) is None


def test_clicks_shuffled_among_items_are_refused(home: Path) -> None:
    root = write_tiny_shop(home / "shuffled")
    for day in DAYS:
        events = tiny_events(day, tiny_items())[0]
        # Every list keeps its length and places; what was in it is dealt out anew.
        items = sorted({event["item_id"] for event in events})
        dealt = dict(zip(items, random.Random(str(day)).sample(items, len(items)), strict=True))
        shuffled = [event | {"item_id": dealt[event["item_id"]]} for event in events]
        write_rows(root / "click_log" / f"dt={day}" / "part-0.parquet", "click_log", shuffled)
    before = published("check-data")
    with pytest.raises(InputError) as error:
        run_stages(tiny_run(root, name="shuffled"), *DATA_STAGES)
    message = str(error.value)
    assert "words of clicked queries stand in the clicked item's text" in message
    assert "settings.checks.minimum_agreement" in message and f"{root}/click_log/dt=" in message
    assert published("check-data") == before


def test_a_library_that_breaks_fails_the_stage(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tiny_shop(home / "good")
    run = tiny_run(root, name="library", checks={"minimum_training_clicks": 1})  # no finished output is found
    run_stages(run, *DATA_STAGES[:5])
    before = published("check-data")

    def impossible(context: Any, figures: Any) -> list[Measure]:
        return [Measure(table="run", check="odd", severity="warning", value=1, least=2, most=1)]

    monkeypatch.setattr(check_data, "run_measures", impossible)
    with pytest.raises(RuntimeError, match="run: odd: could not be carried out: min_value cannot be greater"):
        run_stages(run, "check-data")
    assert published("check-data") == before


def test_a_demand_that_spark_cannot_count_fails_the_stage(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tiny_shop(home / "good")
    run = tiny_run(root, name="uncounted", checks={"minimum_training_clicks": 2})
    run_stages(run, *DATA_STAGES[:5])
    kwargs = {"column": "query", "regex": "["}
    odd = Demand(expectation="expect_column_values_to_match_regex", kwargs=kwargs, severity="warning")
    real = table_summaries.load_contract

    def with_odd(table: str) -> Any:
        return real(table).model_copy(update={"checks": (odd,)}) if table == "clicks" else real(table)

    monkeypatch.setattr(table_summaries, "load_contract", with_odd)
    before = published("check-data")
    with pytest.raises(Exception, match=r"(?i)regex"):
        run_stages(run, "check-data")
    state = run.state("check-data")
    assert state is not None and state["state"] == "failed"
    assert published("check-data") == before
