"""extract-clicks: every event is counted or in quarantine, for the first rule that it breaks; a day stands for itself."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from smar_model.data.query_text import normalise_query
from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact, lake, load_artifact
from smar_model.lake.contracts import load_contract
from smar_model.lake.runs import Run, create_run
from smar_model.lake.sweeping import sweep_orphans
from smar_model.settings import REPOSITORY, Simulation
from smar_model.shop.catalogue import write_catalogue
from smar_model.shop.faults import KEPT, add_log_faults
from smar_model.shop.sample_shop import draw_sample_shop
from smar_model.shop.shoppers import Shoppers
from tests.patience import PATIENCE_SECONDS
from tests.tiny_shop import (
    DAYS,
    LAST_DAY,
    published,
    run_stages,
    take_over,
    tiny_run,
    tiny_settings,
    write_rows,
    write_tiny_shop,
)

BOT_REQUESTS = 35
CLICKS = {"bot_requests_per_day": BOT_REQUESTS, "bot_requests_per_minute": 8}
EVENTS = int(os.environ.get("SMAR_TEST_EVENTS", "20000"))
"""Of the log with every fault; 1000000 takes about a minute."""
KINDS = {"impression": "impressions", "click": "clicks", "cart": "carts", "order": "orders"}


def rows(artifact: Artifact, table: str) -> list[dict[str, Any]]:
    return [row for file in artifact.files(table) for row in pq.read_table(file).to_pylist()]


def log_file(root: Path, day: date, name: str = "part-0") -> Path:
    return root / "click_log" / f"dt={day}" / f"{name}.parquet"


def moment(day: date, **since_midnight: float) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(**since_midnight)


def event(day: date, n: int, **changes: Any) -> dict[str, Any]:
    return {
        "event_time": moment(day, hours=10, seconds=n),
        "event": "impression",
        "request_id": f"planted-{n}",
        "session_id": f"planted-{n}",
        "user_id": f"planted-{n}",
        "query": "red shirt",
        "item_id": "item-000",
        "position": 1,
    } | changes


def planted_events() -> tuple[list[dict[str, Any]], Counter[str], Counter[str]]:
    """Events of the first day: all of them, the faulty ones by reason, the sound ones by kind."""
    day = DAYS[0]
    names = list(event(day, 0))
    events = [event(day, n, **{name: None}) for n, name in enumerate(names)]
    events += [event(day, 20, event="view"), event(day, 21, event="Click")]
    events += [event(day, 30, position=0), event(day, 31, position=-3), event(day, 32, position=0, query=" ")]
    events += [event(day, 40, query=""), event(day, 41, query=" \t\u3000\n")]
    events += [event(day, 45, query="x" * 501)]
    events += [event(day, 50, event_time=moment(day, minutes=-15, microseconds=-1))]
    events += [event(day, 51, event_time=moment(day, days=1, minutes=15))]
    events += [event(day, 52, event_time=moment(day, minutes=-15))]  # as far as clocks differ
    events += [event(day, 60, item_id="item-999"), event(day, 61, item_id="ITEM-000")]
    events += [event(day, 21, event="Click")]  # a copy of a malformed event is malformed too
    events += [event(day, 70)] * 3  # one is kept
    shown = event(day, 80)
    events += [shown, shown | {"event_time": moment(day, hours=20)}]
    events += [shown | {"position": 2}]  # twice in one list is no replay
    events += [event(day, 85, event="click"), event(day, 86, event="order")]
    events += [event(day, 84, event="click", event_time=moment(day, minutes=14))]  # its list: the day before
    events += [event(day, 87), event(day, 87, event="click", event_time=moment(day, hours=9))]
    bot = [event(day, 61 * n, request_id=f"bot-{n}", user_id="bot") for n in range(BOT_REQUESTS + 1)]
    events += [*bot, bot[0], bot[0] | {"event": "view"}]
    busy = [event(day, 61 * n, request_id=f"busy-{n}", user_id="busy") for n in range(BOT_REQUESTS)]
    events += [*busy, busy[0] | {"position": 2}]  # a request more often, no request more
    events += [event(day, n, request_id=f"quick-{n}", user_id="quick") for n in range(9)]  # in one minute
    events += [event(day, n, request_id=f"brisk-{n}", user_id="brisk") for n in range(8)]
    expected = Counter(
        null_field=len(names),
        unknown_event=4,
        bad_position=3,
        empty_query=2,
        long_query=1,
        wrong_day=2,
        unknown_item=2,
        duplicate_event=3,
        replayed_event=1,
        action_without_impression=2,
        action_before_impression=1,
        bot_rate=BOT_REQUESTS + 1 + 9,
    )
    kept = Counter(impression=1 + 1 + 2 + 1 + BOT_REQUESTS + 1 + 8, click=1)
    for session, count, dwell, reason in (
        ("hasty", 5, 0.999, "bot_no_dwell"),
        ("patient", 5, 1.0, None),
        ("few", 4, 0.1, None),
        ("impossible", 5, -1.0, "bot_impossible"),
        ("nearly", 4, -1.0, "action_before_impression"),
    ):
        for n in range(count):
            seen = event(day, 60 * n, request_id=f"{session}-{n}", session_id=session, user_id=session)
            click = seen | {"event": "click", "event_time": seen["event_time"] + timedelta(seconds=dwell)}
            events += [seen, click]
        whole = bool(reason and reason.startswith("bot"))
        if reason:
            expected[reason] += count * (1 + whole)
        kept += Counter(impression=count * (not whole), click=count * (not reason))
    return events, expected, kept


def days_made() -> dict[str, Artifact]:
    found = [load_artifact("extract-clicks-day", f.stem) for f in (lake() / "extract-clicks-day").glob("*.json")]
    return {artifact.metrics["day"]: artifact for artifact in found}


@pytest.fixture
def other_home(faulty: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home but for the prepared items, which all tests here share."""
    shutil.copytree(faulty["home"] / "lake" / "prepare-items", tmp_path / "lake" / "prepare-items")
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def faulty(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    home = tmp_path_factory.mktemp("clicks")
    take_over(tiny_data, home, "prepare-items")
    root = write_tiny_shop(home / "shop")
    planted, expected, kept = planted_events()
    write_rows(log_file(root, DAYS[0], "planted"), "click_log", planted)
    # The bot comes back on the next day as a normal shopper.
    write_rows(log_file(root, DAYS[1], "later"), "click_log", [event(DAYS[1], 0, user_id="bot", query="  RED\tShirt ")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(home))
        output = run_stages(tiny_run(root, clicks=CLICKS), "prepare-items", "extract-clicks")["extract-clicks"]
        yield {"home": home, "root": root, "output": output, "expected": expected, "kept": kept, "days": days_made()}


def test_counts_add_up_for_every_planted_fault(faulty: dict[str, Any]) -> None:
    metrics, expected = faulty["output"].metrics, faulty["expected"]
    delivered = sum(pq.read_metadata(f).num_rows for f in (faulty["root"] / "click_log").rglob("*.parquet"))
    reasons = {name.removeprefix("quarantined_"): n for name, n in metrics.items() if name.startswith("quarantined_")}
    assert reasons == expected
    assert metrics["rows_in"] == delivered
    assert metrics["rows_quarantined"] == expected.total()
    assert metrics["rows_kept"] == delivered - expected.total()
    counted = rows(faulty["output"], "quarantine_counts")
    assert {(row["source"], row["day"]) for row in counted} == {("click_log", DAYS[0])}
    assert {row["reason"]: row["rows"] for row in counted} == expected
    samples = Counter(row["reason"] for row in rows(faulty["output"], "quarantine"))
    assert samples == {reason: min(count, 20) for reason, count in expected.items()}


def test_quarantine_names_the_row_and_the_offending_value(faulty: dict[str, Any]) -> None:
    found = {(r["row_key"], r["reason"], r["detail"]) for r in rows(faulty["output"], "quarantine")}
    assert ("planted-6/?/impression", "null_field", "item_id") in found
    assert ("planted-20/item-000/view", "unknown_event", "view") in found
    assert ("planted-31/item-000/impression", "bad_position", "-3") in found
    assert ("item-999", "unknown_item", f"1 events on {DAYS[0]}") in found
    assert ("planted-45/item-000/impression", "long_query", "x" * 200) in found
    seen = f"event_time {DAYS[0]} 09:00:00, shown {DAYS[0]} 10:01:27"
    assert ("planted-87/item-000/click", "action_before_impression", seen) in found


def test_propensities_count_what_the_training_days_hold(faulty: dict[str, Any]) -> None:
    """Unknown items, planted on every day, are in neither."""
    training = [c for c in rows(faulty["output"], "clicks") if c["day"] != LAST_DAY]
    for count in ("impressions", "clicks"):
        assert sum(p[count] for p in rows(faulty["output"], "propensities")) == sum(c[count] for c in training) > 0


def test_clicks_are_counted_and_weighed_by_day_query_and_item(faulty: dict[str, Any]) -> None:
    places = rows(faulty["output"], "propensities")
    assert [p["position"] for p in places] == [1, 2, 3, 4, 5]
    assert (places[0]["propensity"], places[0]["standard_error"]) == (1.0, 0.0)
    assert all(p["standard_error"] > 0 for p in places[1:])
    weight = {p["position"]: min(1 / p["propensity"], 10) for p in places}
    # The log is read here anew, by rules written down apart from the SQL.
    expected: Counter[tuple[date, str, str, str]] = Counter()
    weights: Counter[tuple[date, str, str]] = Counter()
    for day in DAYS:
        for row in pq.read_table(log_file(faulty["root"], day)).to_pylist():
            key = (day, normalise_query(row["query"]), row["item_id"])
            expected[*key, row["event"]] += 1
            weights[key] += weight[row["position"]] if row["event"] == "click" else 0
    for kind, count in faulty["kept"].items():
        expected[DAYS[0], "red shirt", "item-000", kind] += count
    weights[DAYS[0], "red shirt", "item-000"] += faulty["kept"]["click"]
    expected[DAYS[1], "red shirt", "item-000", "impression"] += 1
    found: Counter[tuple[date, str, str, str]] = Counter()
    for row in rows(faulty["output"], "clicks"):
        for kind, column in KINDS.items():
            found[row["day"], row["query"], row["item_id"], kind] += row[column]
        assert row["weight"] == pytest.approx(weights[row["day"], row["query"], row["item_id"]], abs=1e-4)
    assert +found == expected


def test_the_same_events_in_other_files_give_the_same_content(
    faulty: dict[str, Any], other_home: Path, spark: SparkSession
) -> None:
    root = write_tiny_shop(other_home / "shop")
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
    partitions = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", "5")
    try:
        output = run_stages(tiny_run(root, clicks=CLICKS), "prepare-items", "extract-clicks")["extract-clicks"]
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", partitions)
    assert output.key != faulty["output"].key
    assert output.manifest["content"] == faulty["output"].manifest["content"]


def test_lists_are_kept_as_they_were_shown_with_what_was_clicked_at_each_place(
    other_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many requests some are drawn, those with a click first, and every interleaved one."""
    monkeypatch.setattr("jobs.extract_click_days.LISTS_PER_DAY", 3)
    root = write_tiny_shop(other_home / "shop")
    day, before = LAST_DAY, DAYS[-2]
    planted = [
        event(day, 1, request_id="mixed", user_id="kept", position=place, item_id=f"item-00{place}")
        | {"version": version, "routing": "shipped", "team": team}
        for place, version, team in ((1, "4", "challenger"), (2, "3", "champion"), (3, "3", "champion"))
    ]
    # An action may repeat neither team nor version, and names the place as its sender sees it.
    planted.append(planted[1] | {"event": "click", "event_time": moment(day, hours=11), "position": 1})
    planted[-1] |= {"version": None, "routing": None, "team": None}
    again = [row | {"event_time": moment(before, hours=10), "request_id": "earlier"} for row in planted[:1]]
    bot = [event(day, 61 * n, request_id=f"bot-{n}", user_id="bot", team="champion") for n in range(BOT_REQUESTS + 1)]
    write_rows(log_file(root, day, "planted"), "click_log", planted + bot)
    write_rows(log_file(root, before, "planted"), "click_log", again)

    output = run_stages(tiny_run(root, clicks=CLICKS), "prepare-items", "extract-clicks")["extract-clicks"]

    lists = {row["request_id"]: row for row in rows(output, "shown_lists")}
    passed_on = lists.pop("earlier")
    assert {row["day"] for row in lists.values()} == {LAST_DAY}, "of the other days only interleaved lists"
    assert output.metrics["lists_of_evaluation_days"] == len(lists) == 3 + 1
    assert output.metrics["interleaved_lists_of_other_days"] == 1
    mixed = lists.pop("mixed")
    assert (mixed["items"], mixed["positions"]) == (["item-001", "item-002", "item-003"], [1, 2, 3])
    assert (mixed["clicks"], mixed["orders"]) == ([0, 1, 0], [0, 0, 0])
    assert (mixed["versions"], mixed["teams"]) == (["4", "3", "3"], ["challenger", "champion", "champion"])
    assert (mixed["routing"], mixed["query"]) == ("shipped", "red shirt")
    earlier = {row["request_id"]: row for row in rows(days_made()[str(before)], "shown_lists")}["earlier"]
    assert passed_on == earlier
    assert mixed["shopper"] == earlier["shopper"] and "kept" not in mixed["shopper"]
    for request, row in lists.items():
        log = [r for r in pq.read_table(log_file(root, day)).to_pylist() if r["request_id"] == request]
        shown = {r["position"]: r["item_id"] for r in log if r["event"] == "impression"}
        assert dict(zip(row["positions"], row["items"], strict=True)) == shown
        clicks = Counter(r["position"] for r in log if r["event"] == "click")
        assert row["clicks"] == [clicks[place] for place in row["positions"]] and clicks
        assert (row["shopper"], row["routing"], set(row["teams"] + row["versions"])) == (None, None, {""})


def run_until(root: Path, day: date, days: int) -> Run:
    settings = tiny_settings(root, window={"days": days, "evaluation_days": 1}, clicks=CLICKS)
    run = replace(tiny_run(root, name="whole", clicks=CLICKS), name=f"until-{day}-{days}", date=day, settings=settings)
    return create_run(run)


def test_a_day_is_made_once_whatever_it_is_read_with(faulty: dict[str, Any], other_home: Path) -> None:
    whole = {day: artifact.digest for day, artifact in faulty["days"].items()}
    assert set(whole) == set(map(str, DAYS))
    root = faulty["root"]
    run_stages(run_until(root, DAYS[2], 2), "prepare-items", "extract-clicks")  # the last two days first
    before = days_made()
    assert set(before) == {str(day) for day in DAYS[1:]}
    output = run_stages(run_until(root, DAYS[2], 3), "prepare-items", "extract-clicks")["extract-clicks"]
    after = days_made()
    assert {day: artifact.digest for day, artifact in after.items()} == whole
    assert all(after[day].manifest == before[day].manifest for day in before), "days that were there are not redone"
    assert output.manifest["content"] == faulty["output"].manifest["content"]


def test_a_number_that_the_catalogue_holds_is_not_masked(other_home: Path) -> None:
    """And a day is extracted again where shoppers typed a number that came to the catalogue since, no other day."""
    root = write_tiny_shop(other_home / "shop")
    typed = ["bosch 0986494524", "call 0986494525", "0 986 494 524"]
    write_rows(log_file(root, DAYS[0], "typed"), "click_log", [event(DAYS[0], n, query=q) for n, q in enumerate(typed)])

    def queries(name: str) -> set[str]:
        output = run_stages(tiny_run(root, name=name), "prepare-items", "extract-clicks")["extract-clicks"]
        return {row["query"] for row in rows(output, "clicks")}

    assert {"bosch <phone>", "call <phone>", "0 986 494 524"} <= queries("without")
    without = {artifact.key for artifact in days_made().values()}
    items = pq.read_table(root / "items.parquet").to_pylist()
    items[1] |= {"title": f"{items[1]['title']} 0 986 494 524"}
    write_rows(root / "items.parquet", "items", items)
    found = queries("with")
    assert {"bosch 0986494524", "call <phone>", "0 986 494 524"} <= found
    assert "bosch <phone>" not in found
    keys = {path.stem for path in (lake() / "extract-clicks-day").glob("*.json")}
    assert len(keys - without) == 1


def test_a_share_of_the_shoppers_is_read_whole(faulty: dict[str, Any], other_home: Path) -> None:
    run = tiny_run(faulty["root"], name="sampled", clicks=CLICKS | {"sample_share": 0.5})
    output = run_stages(run, "prepare-items", "extract-clicks")["extract-clicks"]
    quarantined = sum(n for name, n in output.metrics.items() if name.startswith("quarantined_"))
    assert 0 < output.metrics["rows_in"] < faulty["output"].metrics["rows_in"]
    assert output.metrics["rows_in"] == sum(a.metrics["rows_in"] for a in days_made().values())
    assert quarantined < sum(faulty["expected"].values())
    whole = {(r["day"], r["query"], r["item_id"]): r for r in rows(faulty["output"], "clicks")}
    sampled = {(r["day"], r["query"], r["item_id"]): r for r in rows(output, "clicks")}
    assert set(sampled) < set(whole)
    assert all(row["impressions"] <= whole[pair]["impressions"] for pair, row in sampled.items())


KILLED = """
import os, signal, sys
from pathlib import Path
from smar_model.lake.publishing import Attempt
from smar_model.lake.runs import load_run
from smar_model.lake.stage import run_stage
from smar_model.stages import STAGES

publish, published = Attempt.publish, []

def publish_once(self, **arguments):
    if self.stage == "extract-clicks-day" and published:
        os.kill(os.getpid(), signal.SIGKILL)
    published.append(self.stage)
    return publish(self, **arguments)

Attempt.publish = publish_once
run_stage(STAGES["extract-clicks"], load_run("tiny"))
"""


def test_a_process_killed_between_two_days_leaves_whole_days(faulty: dict[str, Any], other_home: Path) -> None:
    run = tiny_run(faulty["root"], clicks=CLICKS)
    run_stages(run, "prepare-items")
    command = [sys.executable, "-c", KILLED]
    killed = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(days_made()) == 1
    assert published("extract-clicks")[0] == set()
    assert sweep_orphans() == 3  # the stage's own attempt, and the two days that it had written and not published
    output = run_stages(run, "extract-clicks")["extract-clicks"]
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
    before = published("extract-clicks"), published("extract-clicks-day")
    with pytest.raises(InputError) as error:
        run_stages(tiny_run(root, name="retyped"), "prepare-items", "extract-clicks")
    assert f"{file}: does not fit schemas/click_log.yaml: column position is string, expected int32" in str(error.value)
    assert (published("extract-clicks"), published("extract-clicks-day")) == before


def test_a_log_file_that_was_cut_off_is_named(faulty: dict[str, Any], tmp_path: Path) -> None:
    root = write_tiny_shop(tmp_path / "shop")
    file = log_file(root, DAYS[2])
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError) as error:
        run_stages(tiny_run(root, name="cut-off"), "prepare-items", "extract-clicks")
    assert f"{file}: not a readable Parquet file" in str(error.value)


def test_days_without_one_sound_event_give_empty_tables(other_home: Path) -> None:
    root = write_tiny_shop(other_home / "shop")
    for day in DAYS:
        write_rows(log_file(root, day), "click_log", [event(day, 0, position=0)])
    output = run_stages(tiny_run(root), "prepare-items", "extract-clicks")["extract-clicks"]
    assert rows(output, "clicks") == []
    assert output.metrics["quarantined_bad_position"] == output.metrics["rows_in"] == len(DAYS)
    assert [p["propensity"] for p in rows(output, "propensities")] == [1.0]


@pytest.fixture(scope="module")
def shoppers_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[pd.DataFrame, Artifact, Path]]:
    """A log of EVENTS by simulated shoppers over three days, with every fault; the test knows each one."""
    home = tmp_path_factory.mktemp("shoppers")
    root = home / "shop"
    simulation = Simulation(seed=3, items=120, requests_per_day=round(EVENTS / 1.08 / 12.95 / len(DAYS)))
    write_catalogue(root, draw_sample_shop(simulation))
    shoppers = Shoppers.load(root, simulation=simulation, visual_departments=["Clothing"])
    # As a shop delivers it, without the columns that a server adds.
    columns = [field.with_nullable(True) for field in load_contract("click_log").arrow_schema()]
    schema = pa.schema([field for field in columns if field.name not in {"version", "routing", "team"}])
    logs = []
    for number, day in enumerate(DAYS):
        good = shoppers.simulate_day(day)[1].to_pandas()
        good["event_time"] = good["event_time"].astype("int64")
        log = add_log_faults(good, share=0.08, day=day, rng=np.random.default_rng(number)).assign(day=day)
        log["user_id"] = "person-" + log["user_id"]
        log_file(root, day).parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pandas(log, schema=schema, preserve_index=False), log_file(root, day))
        logs.append(log)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(home))
        settings = {"shop": {"root": str(root), "visual_departments": ["Clothing"]}}
        output = run_stages(tiny_run(root, **settings), "prepare-items", "extract-clicks")["extract-clicks"]
        yield pd.concat(logs, ignore_index=True), output, home


def test_every_fault_of_a_large_log_is_caught_and_no_good_row_is_lost(
    shoppers_log: tuple[pd.DataFrame, Artifact, Path],
) -> None:
    log, output, _ = shoppers_log
    assert len(log) == pytest.approx(EVENTS, rel=0.02)
    faults = log[log["fault"].notna() & ~log["fault"].isin(KEPT)]
    assert set(log["fault"].dropna()) == {
        *KEPT,
        *("null_field", "unknown_event", "bad_position", "empty_query", "long_query", "wrong_day", "unknown_item"),
        *("duplicate_event", "replayed_event", "action_without_impression", "action_before_impression"),
        *("bot_rate", "bot_no_dwell", "bot_impossible"),
    }
    counted = {(row["day"], row["reason"]): row["rows"] for row in rows(output, "quarantine_counts")}
    assert counted == faults.groupby(["day", "fault"]).size().to_dict()
    assert output.metrics["rows_in"] == len(log)
    assert output.metrics["rows_kept"] == len(log) - len(faults)
    sound = log.drop(index=faults.index)
    forms = {query: normalise_query(query) for query in sound["query"].unique()}
    expected = sound.assign(query=sound["query"].map(forms)).groupby(["day", "query", "item_id", "event"]).size()
    assert expected.index.get_level_values("query").str.contains("<email>").any()
    found = {
        (row["day"], row["query"], row["item_id"], kind): row[column]
        for row in rows(output, "clicks")
        for kind, column in KINDS.items()
        if row[column]
    }
    assert found == expected.to_dict()


def test_no_byte_that_the_stage_leaves_names_a_shopper_or_an_email(
    shoppers_log: tuple[pd.DataFrame, Artifact, Path],
) -> None:
    log, _, home = shoppers_log
    assert log["user_id"].str.startswith("person-").any() and log["query"].str.contains("meier@").any()
    files = [f for f in home.rglob("*") if f.is_file() and "shop" not in f.relative_to(home).parts]
    assert sum(f.suffix == ".parquet" for f in files) > 10
    for file in files:
        content = file.read_bytes()
        if file.suffix == ".parquet":  # compressed
            content += str(pq.read_table(file).to_pydict()).encode()
        assert b"person-" not in content and b"meier@" not in content, file
