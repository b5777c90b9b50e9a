"""extract-clicks: every event is counted or in quarantine, for the first rule that it breaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact
from tests.tiny_shop import DAYS, published, run_stages, tiny_run, write_rows, write_tiny_shop

BOT_REQUESTS = 30


def rows(artifact: Artifact, table: str) -> list[dict[str, Any]]:
    return [row for file in artifact.files(table) for row in pq.read_table(file).to_pylist()]


def log_file(root: Path, day: date, name: str = "part-0") -> Path:
    return root / "click_log" / f"dt={day}" / f"{name}.parquet"


def event(day: date, n: int, **changes: Any) -> dict[str, Any]:
    return {
        "event_time": datetime(day.year, day.month, day.day, 20, tzinfo=UTC) + timedelta(seconds=n),
        "event": "impression",
        "request_id": f"planted-{n}",
        "session_id": "planted",
        "user_id": f"planted-{n}",
        "query": "red shirt",
        "item_id": "item-000",
        "position": 1,
    } | changes


def planted_events() -> tuple[list[dict[str, Any]], Counter[str]]:
    """Faulty events of the first day, and how many of each reason are expected."""
    day = DAYS[0]
    names = list(event(day, 0))
    faulty = [event(day, n, **{name: None}) for n, name in enumerate(names)]
    faulty += [event(day, 20, event="view"), event(day, 21, event="Click")]
    faulty += [event(day, 30, position=0), event(day, 31, position=-3), event(day, 32, position=0, query=" ")]
    faulty += [event(day, 40, query=""), event(day, 41, query=" \t\u3000\n")]
    faulty += [event(day, 45, query="x" * 501)]
    faulty += [
        event(day, 50, event_time=datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(microseconds=1))
    ]
    faulty += [event(day, 60, item_id="item-999"), event(day, 61, item_id="ITEM-000")]
    faulty += [event(day, 21, event="Click")]  # a copy of a malformed event is malformed too
    sound = event(day, 70)
    faulty += [sound] * 3  # one is kept
    bot = [event(day, 100 + n, user_id="bot") for n in range(BOT_REQUESTS + 1)]
    bot += [bot[0], event(day, 100, user_id="bot", event="view")]
    busy = [event(day, 300 + n, user_id="busy") for n in range(BOT_REQUESTS)]
    busy += [busy[0] | {"position": 2}]  # a request more often, no request more
    expected = Counter(
        null_field=len(names),
        unknown_event=4,
        bad_position=3,
        empty_query=2,
        long_query=1,
        wrong_day=1,
        unknown_item=2,
        duplicate_event=3,
        bot=BOT_REQUESTS + 1,
    )
    return faulty + bot + busy, expected


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    home = tmp_path_factory.mktemp("clicks")
    root = write_tiny_shop(home / "shop")
    clean = pq.read_table(log_file(root, DAYS[0]))
    planted, expected = planted_events()
    write_rows(log_file(root, DAYS[0], "planted"), "click_log", planted)
    # The bot comes back on the next day as a normal shopper.
    write_rows(log_file(root, DAYS[1], "later"), "click_log", [event(DAYS[1], 0, user_id="bot", query="  RED\tShirt ")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(home))
        run = tiny_run(root, clicks={"bot_requests_per_day": BOT_REQUESTS})
        output = run_stages(run, "prepare-items", "extract-clicks")["extract-clicks"]
        yield {
            "root": root,
            "run": run,
            "output": output,
            "expected": expected,
            "clean": clean.num_rows,
            "planted": len(planted),
        }


def test_counts_add_up_for_every_planted_fault(faulty: dict[str, Any]) -> None:
    metrics, expected = faulty["output"].metrics, faulty["expected"]
    delivered = sum(pq.read_metadata(f).num_rows for f in (faulty["root"] / "click_log").rglob("*.parquet"))
    reasons = {name.removeprefix("quarantined_"): n for name, n in metrics.items() if name.startswith("quarantined_")}
    assert reasons == expected
    assert metrics["rows_in"] == delivered
    assert metrics["rows_quarantined"] == expected.total()
    assert metrics["rows_kept"] == delivered - expected.total()
    assert Counter(row["reason"] for row in rows(faulty["output"], "quarantine")) == expected


def test_quarantine_names_the_row_and_the_offending_value(faulty: dict[str, Any]) -> None:
    found = {(r["row_key"], r["reason"], r["detail"]) for r in rows(faulty["output"], "quarantine")}
    assert ("planted-6/?/impression", "null_field", "item_id") in found
    assert ("planted-20/item-000/view", "unknown_event", "view") in found
    assert ("planted-31/item-000/impression", "bad_position", "-3") in found
    assert ("planted-60/item-999/impression", "unknown_item", "item-999") in found
    assert ("planted-45/item-000/impression", "long_query", "x" * 200) in found


def test_clicks_are_counted_by_day_query_and_item(faulty: dict[str, Any]) -> None:
    counts = {(r["day"], r["query"], r["item_id"]): r for r in rows(faulty["output"], "clicks")}
    # The log is read here anew, by rules written down apart from the SQL.
    expected: Counter[tuple[date, str, str, str]] = Counter()
    for day in DAYS:
        for row in pq.read_table(log_file(faulty["root"], day)).to_pylist():
            expected[day, " ".join(row["query"].lower().split()), row["item_id"], row["event"]] += 1
    expected[DAYS[0], "red shirt", "item-000", "impression"] += 1 + BOT_REQUESTS + 1
    expected[DAYS[1], "red shirt", "item-000", "impression"] += 1
    found: Counter[tuple[date, str, str, str]] = Counter()
    for (day, query, item), row in counts.items():
        for kind, column in (
            ("impression", "impressions"),
            ("click", "clicks"),
            ("cart", "carts"),
            ("order", "orders"),
        ):
            found[day, query, item, kind] += row[column]
    assert +found == expected


def test_the_same_events_in_other_files_give_the_same_content(
    faulty: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    root = write_tiny_shop(tmp_path / "shop")
    for file in (root / "click_log").rglob("*.parquet"):
        file.unlink()
    for day in DAYS:
        source = pa.concat_tables(pq.read_table(f) for f in sorted(log_file(faulty["root"], day).parent.iterdir()))
        backwards = source.take(list(range(source.num_rows))[::-1])
        # An extra column is nobody's business, and pandas writes nanoseconds.
        times = backwards["event_time"].cast(pa.timestamp("ns", tz="UTC"))
        extended = backwards.set_column(0, "event_time", times).append_column("page", [["home"] * source.num_rows])
        pq.write_table(extended.slice(0, 50), log_file(root, day, "b"))
        pq.write_table(backwards.slice(50), log_file(root, day, "a"))
    run = tiny_run(root, clicks={"bot_requests_per_day": BOT_REQUESTS})
    output = run_stages(run, "prepare-items", "extract-clicks")["extract-clicks"]
    assert output.key != faulty["output"].key
    assert output.manifest["content"] == faulty["output"].manifest["content"]


@pytest.mark.parametrize("empty", ["no files", "no rows"])
def test_a_day_without_events_names_its_folder(empty: str, faulty: dict[str, Any], tmp_path: Path) -> None:
    root = write_tiny_shop(tmp_path / "shop")
    file = log_file(root, DAYS[1])
    if empty == "no files":
        file.unlink()
    else:
        write_rows(file, "click_log", [])
    run = tiny_run(root, name=f"empty-{empty.replace(' ', '-')}")
    before = published("extract-clicks")
    with pytest.raises(InputError, match=f"dt={DAYS[1]}: .*deliver the day's log"):
        run_stages(run, "prepare-items", "extract-clicks")
    assert published("extract-clicks") == before


def test_a_log_with_another_column_type_names_file_and_column(faulty: dict[str, Any], tmp_path: Path) -> None:
    root = write_tiny_shop(tmp_path / "shop")
    file = log_file(root, DAYS[2])
    table = pq.read_table(file)
    pq.write_table(table.set_column(7, "position", table["position"].cast(pa.string())), file)
    before = published("extract-clicks")
    with pytest.raises(InputError) as error:
        run_stages(tiny_run(root, name="retyped"), "prepare-items", "extract-clicks")
    assert f"{file}: does not fit schemas/click_log.yaml: column position is string, expected int32" in str(error.value)
    assert published("extract-clicks") == before
