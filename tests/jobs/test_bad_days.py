"""Bad days through all data stages: a clear message, nothing published; a good day passes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from smar_model.errors import InputError
from smar_model.lake import checks
from smar_model.lake.contracts import Contract, load_contract
from tests.tiny_shop import (
    DATA_STAGES,
    DAYS,
    published,
    run_stages,
    tiny_events,
    tiny_items,
    tiny_run,
    write_pictures,
    write_rows,
    write_tiny_shop,
)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for all days, so that what they share is done once."""
    folder = tmp_path_factory.mktemp("days")
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
    assert all(check["passed"] for check in found)
    assert {check["table"] for check in found} == {f"{s}/{t}" for s, t in checks.TABLES} | {"run"}
    assert output.metrics["failed_warnings"] == 0
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
    assert metrics["rows_quarantined"] == pytest.approx(metrics["rows_in"] / 2, abs=3)
    assert f"null_field {metrics['quarantined_null_field']}: {DAYS[0]}-000/" in message
    assert f"bad_position {metrics['quarantined_bad_position']}: {DAYS[0]}-" in message
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
    assert "no_title 24: item-000, item-001" in message
    assert "prepare-items/catalogue: expect_table_row_count_to_be_between(min_value=1): 0" in message
    assert str(root / "items") in message
    assert published("check-data") == before


def test_pictures_mostly_broken(home: Path) -> None:
    root = write_tiny_shop(home / "broken")
    write_pictures(root, {name: b"not a picture" for item in tiny_items() for name in item["images"][:1]})
    with pytest.raises(InputError, match=r"(?s)1 of \d+ data checks failed.*undecodable 24: item-000/000\.jpg"):
        run_stages(tiny_run(root, name="broken"), *DATA_STAGES)


def test_too_few_synthetic_queries_warn_and_far_too_few_fail(home: Path) -> None:
    root = write_tiny_shop(home / "good")
    warned = tiny_run(root, name="few", synthetic_queries={"per_true_query": 30, "maximum_words": 1})
    output = run_stages(warned, *DATA_STAGES)["check-data"]
    failed = [c for c in json.loads(output.file("checks.json").read_text(encoding="utf-8")) if not c["passed"]]
    assert [check["severity"] for check in failed] == ["warning"]
    assert output.metrics["failed_warnings"] == 1
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
    for stage in DATA_STAGES[:4]:
        state = later.state(stage)
        assert state is not None
        earlier.write_state(stage, "finished", key=state["key"])
    with pytest.raises(InputError) as error:
        run_stages(earlier, "check-data")
    message = str(error.value)
    assert "synthetic queries come from items last changed before 2026-11-18" in message
    assert "['item-003']" in message
    assert "fashion labels count the clicks of the training days alone" in message


def test_a_check_that_cannot_be_carried_out_fails_the_stage(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tiny_shop(home / "good")
    run = tiny_run(root, name="library", checks={"minimum_training_clicks": 1})  # no finished output is found
    run_stages(run, *DATA_STAGES[:4])
    real = load_contract("clicks")
    wrong = {"expectation": "expect_column_values_to_be_unique", "kwargs": {"column": "no_such"}, "severity": "warning"}
    contract = Contract(
        table=real.table, owner=real.owner, description=real.description, columns=real.columns, checks=(wrong,)
    )
    monkeypatch.setattr(checks, "load_contract", lambda table: contract if table == "clicks" else load_contract(table))
    before = published("check-data")
    with pytest.raises(RuntimeError, match=r"extract-clicks/clicks: expect_column_values_to_be_unique.*no_such"):
        run_stages(run, "check-data")
    assert published("check-data") == before


def test_a_changed_table_fails_its_contract() -> None:
    contract = load_contract("clicks")
    frame = checks.read_columns([], contract)
    assert [c.check.split("(")[0] for c in checks.check_table(contract, frame, name="t") if not c.passed] == [
        "expect_table_row_count_to_be_between"
    ]
    row = {"day": DAYS[0], "query": "red", "item_id": "a", "impressions": 1, "clicks": -1, "carts": 0, "orders": None}
    for _ in range(2):
        frame.loc[len(frame)] = row
    failed = {c.check for c in checks.check_table(contract, frame, name="t") if not c.passed}
    assert failed == {
        "expect_column_values_to_not_be_null(column=orders)",
        "expect_compound_columns_to_be_unique(column_list=['day', 'query', 'item_id'])",
        "expect_column_values_to_be_between(column=clicks, min_value=0)",
    }


def test_values_outside_the_allowed_ones_fail() -> None:
    contract = load_contract("quarantine")
    frame = checks.read_columns([], contract)
    frame.loc[0] = {"source": "elsewhere", "row_key": "k", "reason": "r", "detail": ""}
    failed = [c for c in checks.check_table(contract, frame, name="t") if not c.passed]
    assert len(failed) == 1 and "value_set" in failed[0].check and "elsewhere" in failed[0].detail


def test_pages_show_what_shoppers_typed_as_text() -> None:
    check = checks.Check(
        table="t", check="c", severity="critical", passed=False, observed="1", detail="<script>alert(1)</script>"
    )
    page = checks.render_page([check], title="Checks")
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "1 checks: 1 failed" in page


def test_binary_columns_are_not_read(home: Path) -> None:
    contract = load_contract("pictures")
    output = run_stages(tiny_run(write_tiny_shop(home / "good"), name="good"), "prepare-items")["prepare-items"]
    frame = checks.read_columns(output.files("pictures"), contract)
    assert list(frame) == ["item_id", "frame", "picture_digest"]
    assert len(frame) == sum(pq.read_metadata(f).num_rows for f in output.files("pictures"))
