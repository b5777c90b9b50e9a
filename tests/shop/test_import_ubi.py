"""Click logs by User Behavior Insights."""

from __future__ import annotations

import gzip
import json
import os
import re
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from imports import events_of, smar_import, steps_of, write_lines

from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract

NOON = "2026-11-19T12:00:{:02d}.000Z"


def query(query_id: str = "q1", text: str | None = "red shirt", second: int = 0, **more) -> dict:
    return {"query_id": query_id, "user_query": text, "client_id": "c1", "timestamp": NOON.format(second), **more}


def event(action: str, item: str | None, place: int | None, second: int, query_id: str | None = "q1", **more) -> dict:
    attributes = {"object": {"object_id": item, "object_id_field": "sku"}, "position": {"ordinal": place}}
    return {
        "action_name": action,
        "query_id": query_id,
        "session_id": "s1",
        "client_id": "c1",
        "timestamp": NOON.format(second),
        "event_attributes": attributes,
        **more,
    }


def test_events_join_their_query_and_positions_from_0_are_found(tmp_path):
    log = write_lines(
        tmp_path / "log.ndjson",
        event("impression", "a", 0, 1),
        event("impression", "b", 1, 1),
        event("click", "b", 1, 5),
        query(),
        event("add_to_cart", "b", 1, 9),
        event("product_purchase", "b", 1, 20),
    )
    output = smar_import("ubi", log, "--to", tmp_path / "shop")
    assert steps_of(tmp_path / "shop") == [
        ("impression", "a", 1, "red shirt"),
        ("impression", "b", 2, "red shirt"),
        ("click", "b", 2, "red shirt"),
        ("cart", "b", 2, "red shirt"),
        ("order", "b", 2, "red shirt"),
    ]
    load_contract("click_log").verify_files((tmp_path / "shop").glob("click_log/*/*"))
    assert events_of(tmp_path / "shop")[0] | {"event": ""} == {
        "event_time": datetime(2026, 11, 19, 12, 0, 1, tzinfo=UTC),
        "event": "",
        "request_id": "q1",
        "session_id": "s1",
        "user_id": "c1",
        "query": "red shirt",
        "item_id": "a",
        "position": 1,
        **dict.fromkeys(("version", "routing", "team")),
    }
    assert "records: 6 read: 1 queries (1 used, 0 left out), 5 events (5 added, 0 left out)" in output
    assert "changed: 5 places counted from 0, so that 1 was added" in output
    assert "unknown items: 5 of 5 events name items that the shop does not have (such as 'a')" in output


def test_each_application_counts_from_its_own_first_place(tmp_path):
    log = write_lines(
        tmp_path / "log.ndjson",
        query(),
        event("impression", "a", 0, 1, application="web"),
        event("impression", "b", 1, 2, application="app"),
        event("impression", "c", 2, 3, application="app"),
    )
    smar_import("ubi", log, "--to", tmp_path / "shop")
    assert [(item, place) for _, item, place, _ in steps_of(tmp_path / "shop")] == [("a", 1), ("b", 1), ("c", 2)]
    smar_import("ubi", log, "--to", tmp_path / "other", "--positions-from", "0")
    assert [(item, place) for _, item, place, _ in steps_of(tmp_path / "other")] == [("a", 1), ("b", 2), ("c", 3)]


@pytest.mark.parametrize("packed", ["plain", "gzip", "zip", "two files"])
def test_bulk_form_and_elasticdump_packed_or_not_are_the_same(tmp_path, packed):
    lines = [
        '{"index": {"_index": "ubi_queries", "_id": "1"}}',
        query(),
        '{"create": {}}',
        event("impression", "a", 0, 1),
        {"_index": "ubi_events", "_id": "2", "_source": event("click", "a", 0, 5)},
    ]
    log = write_lines(tmp_path / "in" / "log.ndjson", *lines)
    if packed == "gzip":
        (tmp_path / "in" / "log.ndjson.gz").write_bytes(gzip.compress(log.read_bytes()))
        log.unlink()
    elif packed == "zip":
        with zipfile.ZipFile(tmp_path / "in" / "log.ndjson.zip", "w") as archive:
            archive.write(log, "../../climbing.ndjson")
        log.unlink()
    elif packed == "two files":
        write_lines(log, *lines[:2])
        write_lines(tmp_path / "in" / "z" / "more.json", *lines[2:])
    output = smar_import("ubi", tmp_path / "in", "--to", tmp_path / "shop")
    assert "records: 3 read: 1 queries (1 used, 0 left out), 2 events (2 added, 0 left out)" in output
    assert steps_of(tmp_path / "shop") == [("impression", "a", 1, "red shirt"), ("click", "a", 1, "red shirt")]
    assert not list(tmp_path.rglob("climbing*"))


def test_lists_of_queries_stand_for_impressions_where_there_are_none(tmp_path):
    log = write_lines(
        tmp_path / "log.ndjson",
        query("q1", query_response_hit_ids=["a", "b"]),
        event("click", "b", None, 40),
        query("q2", query_response_object_ids=["x", "y"], query_response_hit_ids=["1", "2"]),
        event("impression", "y", 1, 2, "q2"),
    )
    output = smar_import("ubi", log, "--to", tmp_path / "shop")
    assert [row[:3] for row in steps_of(tmp_path / "shop")] == [
        ("impression", "a", 1), ("impression", "b", 2), ("impression", "y", 1), ("click", "b", 2),
    ]  # fmt: skip
    assert "changed: 2 impressions made of the lists that queries returned" in output
    smar_import("ubi", log, "--to", tmp_path / "lists", "--shown", "hits")
    assert ("impression", "x", 1, "red shirt") in steps_of(tmp_path / "lists")


def test_a_click_counts_as_shown_where_nothing_tells_what_was(tmp_path):
    log = write_lines(tmp_path / "log.ndjson", query(), event("click", "a", 3, 40))
    output = smar_import("ubi", log, "--to", tmp_path / "shop")
    first, second = events_of(tmp_path / "shop")
    assert (first["event"], second["event"]) == ("impression", "click")
    assert (second["event_time"] - first["event_time"]).total_seconds() == 30
    assert first["position"] == second["position"] == 3
    assert "changed: 1 impressions made of actions" in output


def test_forms_of_older_versions(tmp_path):
    position_1_0 = event("impression", "a", None, 1)
    position_1_0["event_attributes"]["position"] = {"ordinal": {"index": 0}}
    old = {
        "action_name": "view",
        "query_id": "q1",
        "timestamp": 1795089605123,
        "event_attributes": {"session_id": "s7", "object": {"internal_id": 42}, "position": {"ordinal": 1}},
    }
    flat = {
        "action_name": "Item-Click",
        "query_id": "q1",
        "timestamp": "2026-11-19 12:00:09 UTC",
        "user_id": "u9",
        "event_attributes.object.object_id": 7.0,
        "event_attributes.position.ordinal": "2",
    }
    log = write_lines(tmp_path / "log.ndjson", query(), position_1_0, old, flat)
    smar_import("ubi", log, "--to", tmp_path / "shop")
    by_item = {e["item_id"]: e for e in events_of(tmp_path / "shop")}
    assert {item: (e["event"], e["position"]) for item, e in by_item.items()} == {
        "a": ("impression", 1), "42": ("impression", 2), "7": ("click", 3),
    }  # fmt: skip
    assert by_item["42"]["session_id"] == "s7"
    assert by_item["42"]["event_time"] == datetime(2026, 11, 19, 12, 0, 5, 123_000, tzinfo=UTC)
    assert by_item["7"]["user_id"] == "u9"


def test_a_query_id_of_two_texts_is_two_searches(tmp_path):
    log = write_lines(
        tmp_path / "log.ndjson",
        query("q1", "red shirt", 0),
        query("q1", "blue shirt", 30),
        event("impression", "a", 1, 10),
        event("impression", "b", 1, 40),
        event("impression", "c", 2, 41, user_query="green shirt"),
    )
    smar_import("ubi", log, "--to", tmp_path / "shop")
    events = {e["item_id"]: (e["query"], e["request_id"]) for e in events_of(tmp_path / "shop")}
    assert {item: text for item, (text, _) in events.items()} == {
        "a": "red shirt",
        "b": "blue shirt",
        "c": "green shirt",
    }
    assert len({request for _, request in events.values()}) == 3


def test_whatever_is_left_out_is_counted_by_its_reason(tmp_path):
    log = write_lines(
        tmp_path / "log.ndjson",
        query(),
        query(None, "no id"),
        query("q9", "nobody did anything"),
        query("q8", ""),
        event("impression", "a", 1, 1),
        event("impression", "a", 1, 1, None),
        event("impression", "a", 1, 1, "unheard-of"),
        event("impression", "a", 1, 1, "q8"),
        event("impression", None, 1, 1),
        event("impression", "a", 1, 1) | {"timestamp": "yesterday"},
        event("page_exit", "a", 1, 1),
        event("page_exit", "a", 1, 1),
        "{broken",
        "[1]",
        {"neither": 1},
    )
    output = smar_import("ubi", log, "--to", tmp_path / "shop")
    assert (
        "records: 15 read: 4 queries (1 used, 3 left out), 8 events (1 added, 7 left out), 3 lines (0 used, 3 left out)"
        in output
    )
    for line in (
        f"left out: 1 queries without a query_id (such as {log} row 2)",
        "left out: 2 queries without an event of an item",
        "left out: 1 events without a query_id",
        "left out: 1 events whose query_id no query has",
        "left out: 1 events of a search without words",
        "left out: 1 events of action 'impression' that name no item",
        "left out: 1 events whose timestamp is missing or is no time",
        f"left out: 2 events of action 'page_exit', no item shown or acted on (unless --actions says so) (such as {log} row 11)",
        "left out: 2 lines that are no JSON object",
        "left out: 1 records that are neither a query nor an event",
    ):
        assert line in output
    assert len(events_of(tmp_path / "shop")) == 1


def test_actions_can_be_given_another_meaning(tmp_path):
    log = write_lines(tmp_path / "log.ndjson", query(), event("view", "a", 1, 1), event("PDP open", "a", 1, 9))
    table = tmp_path / "actions.yaml"
    table.write_text("pdp_open: click\nview: ignore\n")
    smar_import("ubi", log, "--to", tmp_path / "shop", "--actions", table, "--shown", "events")
    assert "click" in [e["event"] for e in events_of(tmp_path / "shop")]
    table.write_text("pdp_open: clicked\n")
    with pytest.raises(InputError, match=r"actions\.yaml, line 1: .*'impression', 'click'"):
        smar_import("ubi", log, "--to", tmp_path / "other", "--actions", table)


def test_item_ids_by_a_pattern(tmp_path):
    log = write_lines(tmp_path / "log.ndjson", query(), event("impression", "shopify_US_12_34", 1, 1))
    smar_import("ubi", log, "--to", tmp_path / "shop", "--item-id-pattern", r"shopify_\w\w_\d+_(\d+)")
    assert events_of(tmp_path / "shop")[0]["item_id"] == "34"
    for wrong in ("(", "no group"):
        with pytest.raises(InputError, match="--item-id-pattern"):
            smar_import("ubi", log, "--to", tmp_path / "shop", "--item-id-pattern", wrong)


def test_a_day_is_replaced_and_never_by_a_sliver_or_beside_another_tracker(tmp_path):
    shop = tmp_path / "shop"
    whole = write_lines(tmp_path / "whole.ndjson", query(), *(event("impression", f"i{n}", n, 1) for n in range(10)))
    smar_import("ubi", whole, "--to", shop)
    output = smar_import("ubi", whole, "--to", shop)
    assert "replaced: 10 events that ubi had brought of the same days, by 10" in output
    assert len(events_of(shop)) == 10
    part = write_lines(tmp_path / "part.ndjson", query(), event("impression", "a", 0, 1))
    with pytest.raises(
        InputError, match="of 2026-11-19 it has 10 events, and these files have 1; give all files of a day"
    ):
        smar_import("ubi", part, "--to", shop)
    assert len(events_of(shop)) == 10, "nothing is half-written"
    smar_import("ubi", part, "--to", shop, "--replace")
    assert len(events_of(shop)) == 1
    (shop / "click_log" / "dt=2026-11-19" / "ubi.parquet").rename(shop / "click_log" / "dt=2026-11-19" / "ga4.parquet")
    with pytest.raises(InputError, match=r"ga4\.parquet: this day's log is there already"):
        smar_import("ubi", part, "--to", shop)


def test_hostile_lines_are_refused_or_counted(tmp_path):
    bomb = tmp_path / "bomb.ndjson.gz"
    with gzip.open(bomb, "wb", compresslevel=9) as file:
        for _ in range(20):
            file.write(b" " * 2**20)
    with pytest.raises(InputError, match=r"bomb\.ndjson\.gz row 1: a line of over 16,777,216 bytes"):
        smar_import("ubi", bomb, "--to", tmp_path / "shop")
    cut = tmp_path / "cut.ndjson.gz"
    cut.write_bytes(gzip.compress(os.urandom(5_000))[:2_000])
    with pytest.raises(InputError, match=r"cut\.ndjson\.gz: damaged"):
        smar_import("ubi", cut, "--to", tmp_path / "shop")
    deep = write_lines(
        tmp_path / "deep.ndjson", "[" * 100_000, '{"a":' * 100_000, query(), event("click", "\ud800", 1, 1)
    )
    with pytest.raises(InputError, match="nothing to import from ubi"):
        smar_import("ubi", deep, "--to", tmp_path / "shop")
    array = write_lines(tmp_path / "array.json", [query()])
    with pytest.raises(InputError, match=r"array\.json row 1: a JSON array; write one object a line"):
        smar_import("ubi", array, "--to", tmp_path / "shop")
    with pytest.raises(InputError, match="no record of UBI"):
        smar_import("ubi", write_lines(tmp_path / "else.json", {"a": 1}), "--to", tmp_path / "shop")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no file that ends with"):
        smar_import("ubi", tmp_path / "empty", "--to", tmp_path / "shop")
    assert not (tmp_path / "shop" / "click_log").exists()


def test_a_packed_file_that_unpacks_out_of_all_proportion_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("smar_model.delivery.bounded_reading.ALWAYS_UNPACKED", 2**20)
    bomb = tmp_path / "bomb.ndjson.gz"
    bomb.write_bytes(gzip.compress(b"{}\n" * 2_000_000))
    with pytest.raises(InputError, match=r"bomb\.ndjson\.gz: unpacks to over 200 times its size"):
        smar_import("ubi", bomb, "--to", tmp_path / "shop")


def test_real_log_is_accounted_for(tmp_path):
    folder = os.environ.get("SMAR_REAL_DATA")
    if not folder:
        pytest.skip("SMAR_REAL_DATA is not set: name the folder that holds ubi-esci-sample/ubi_queries_events.ndjson")
    output = smar_import(
        "ubi", Path(folder) / "ubi-esci-sample" / "ubi_queries_events.ndjson", "--to", tmp_path / "shop"
    )
    assert (
        "records: 3,921 read: 473 queries (443 used, 30 left out), 3,448 events (2,477 added, 971 left out)" in output
    )
    left_out = [int(n.replace(",", "")) for n in re.findall(r"^left out: ([\d,]+) events", output, re.MULTILINE)]
    assert sum(left_out) == 971
    made = [int(n) for n in re.findall(r"changed: ([\d]+) impressions made of", output)]
    assert len(events_of(tmp_path / "shop")) == 2_477 + sum(made)
    assert "changed: 1,060 places of application 'esci_ubi_sample' counted from 0" in output
    assert "unknown items: 2,912 of 2,912 events" in output


def test_a_query_without_a_time_is_none_that_was_used(tmp_path):
    timeless = json.dumps(query() | {"user_query": "other", "query_response_hit_ids": ["1"], "timestamp": float("nan")})
    assert "NaN" in timeless
    log = write_lines(tmp_path / "log.ndjson", timeless, query(), event("impression", "a", 0, 1))
    output = smar_import("ubi", log, "--to", tmp_path / "shop")
    assert "2 queries (1 used, 1 left out)" in output
    assert "left out: 1 queries without an event of an item, and without a list of what was found at a time" in output
    (tmp_path / "log.ndjson").write_text(json.dumps(query(), indent=1))
    with pytest.raises(InputError, match=r"log\.ndjson row 1: an object over several lines; .* `jq -c \.` does"):
        smar_import("ubi", tmp_path / "log.ndjson", "--to", tmp_path / "shop")
    log = write_lines(tmp_path / "log.ndjson", query(), event("impression", "a", 0, 1), "{")
    assert "1 lines that are no JSON object" in smar_import("ubi", log, "--to", tmp_path / "shop"), "cut off"


def test_items_are_known_by_their_ids_as_a_run_reads_them(tmp_path):
    shop = tmp_path / "shop"
    shop.mkdir()
    pq.write_table(pa.table({"item_id": [1.0, 2.0]}), shop / "items.parquet")
    log = write_lines(tmp_path / "log.ndjson", query(), event("impression", "1", 0, 1), event("click", "3", 1, 5))
    output = smar_import("ubi", log, "--to", shop)
    assert "unknown items: 1 of 2 events name items that the shop does not have (such as '3')" in output
