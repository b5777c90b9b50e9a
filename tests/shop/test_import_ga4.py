"""Click logs by Google Analytics 4, as BigQuery exports them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from imports import events_of, smar_import, steps_of, write_lines

from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract

NOON = int(datetime(2026, 11, 19, 12, tzinfo=UTC).timestamp() * 1_000_000)
VALUE = pa.struct(
    [
        ("string_value", pa.string()),
        ("int_value", pa.int64()),
        ("float_value", pa.float64()),
        ("double_value", pa.float64()),
    ]
)
ITEM = pa.struct(
    [
        ("item_id", pa.string()),
        ("item_name", pa.string()),
        ("item_list_name", pa.string()),
        ("item_list_index", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        ("event_date", pa.string()),
        ("event_timestamp", pa.int64()),
        ("event_name", pa.string()),
        ("event_params", pa.list_(pa.struct([("key", pa.string()), ("value", VALUE)]))),
        ("user_pseudo_id", pa.string()),
        ("items", pa.list_(ITEM)),
    ]
)


def event(
    name: str, second: int, *items: tuple[str, int | None], term: str | None = None, user: str | None = "u.1",
    session: int | None = 77, date: str = "20261119", shown_in: str | None = None,
) -> dict:  # fmt: skip
    params = [{"key": "page_location", "value": {"string_value": "https://shop.example.com/"}}]
    params += [{"key": "ga_session_id", "value": {"int_value": session}}] if session else []
    params += [{"key": "search_term", "value": {"string_value": term}}] if term else []
    return {
        "event_date": date,
        "event_timestamp": NOON + second * 1_000_000,
        "event_name": name,
        "event_params": params,
        "user_pseudo_id": user,
        "items": [
            {
                "item_id": item_id,
                "item_name": "x",
                "item_list_name": shown_in,
                "item_list_index": "(not set)" if place is None else str(place),
            }
            for item_id, place in items
        ],
    }


VISIT = (
    event("session_start", 0),
    event("view_search_results", 1, term="red shirt"),
    event("view_item_list", 2, ("a", 0), ("b", 1)),
    event("select_item", 9, ("b", 1)),
    event("view_item", 10, ("b", None)),
    event("add_to_cart", 20, ("b", None)),
    event("purchase", 90, ("b", None), ("z", None)),
)


def write_parquet(path: Path, *events: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(events), schema=SCHEMA), path)
    return path


def write_json(path: Path, *events: dict) -> Path:
    """As `bq extract` writes them: whole numbers as texts."""
    text = json.dumps(events)
    for name in ("event_timestamp", "int_value"):
        text = "".join(_as_text(part, name) for part in _split(text, name))
    return write_lines(path, *json.loads(text))


def _split(text: str, name: str) -> list[str]:
    return text.split(f'"{name}": ')


def _as_text(part: str, name: str) -> str:
    digits = part[: len(part) - len(part.lstrip("0123456789"))]
    return f'"{name}": "{digits}"{part[len(digits) :]}' if digits else part


@pytest.mark.parametrize("form", ["parquet", "json", "out of order"])
def test_a_session_becomes_a_search_with_what_it_led_to(tmp_path, form):
    write, visit = (write_json, VISIT) if form == "json" else (write_parquet, VISIT)
    file = write(
        tmp_path / f"events.{'json' if form == 'json' else 'parquet'}",
        *(visit[::-1] if form == "out of order" else visit),
    )
    output = smar_import("ga4", file, "--to", tmp_path / "shop")
    assert steps_of(tmp_path / "shop") == [
        ("impression", "a", 1, "red shirt"),
        ("impression", "b", 2, "red shirt"),
        ("click", "b", 2, "red shirt"),
        ("cart", "b", 2, "red shirt"),
        ("order", "b", 2, "red shirt"),
    ]
    load_contract("click_log").verify_files((tmp_path / "shop").glob("click_log/*/*"))
    first = events_of(tmp_path / "shop")[0]
    assert first["event_time"] == datetime(2026, 11, 19, 12, 0, 2, tzinfo=UTC)
    assert (first["user_id"], first["session_id"]) == ("u.1", "u.1.77")
    assert "records: 7 read: 7 events (5 used, 2 left out)" in output
    for line in (
        "left out: 1 events of 'session_start', which is no search",
        "left out: 1 view_item events: a page may be reached without a search",
        "left out: 1 items of purchase that no search of the session had shown",
        "values of item_list_index counted from 0, so that 1 was added",
    ):
        assert line in output


def test_json_is_as_bigquery_writes_it(tmp_path):
    line = json.loads(write_json(tmp_path / "e.json", VISIT[1]).read_text())
    assert line["event_timestamp"] == str(NOON + 1_000_000)
    assert line["event_params"][1]["value"]["int_value"] == "77"


def test_lists_that_were_written_as_objects_of_elements(tmp_path):
    """As some readers of BigQuery's Parquet files hand on its repeated fields."""

    def wrapped(visit: dict) -> dict:
        return visit | {
            name: {"list": [{"element": part} for part in visit[name]]} for name in ("event_params", "items")
        }

    smar_import("ga4", write_lines(tmp_path / "e.jsonl", *map(wrapped, VISIT)), "--to", tmp_path / "shop")
    assert len(events_of(tmp_path / "shop")) == 5


def test_each_search_of_a_session_has_its_own_lists(tmp_path):
    file = write_parquet(
        tmp_path / "e.parquet",
        event("view_search_results", 1, term="red"),
        event("view_item_list", 2, ("a", 1)),
        event("view_search_results", 30, term="blue"),
        event("view_item_list", 31, ("b", 1)),
        event("select_item", 40, ("b", 1)),
        event("add_to_cart", 50, ("a", None)),
        event("view_item_list", 2, ("c", 1), user="u.2", term="own term"),
        event("view_item_list", 1, ("d", 1), user="u.3"),
    )
    output = smar_import("ga4", file, "--to", tmp_path / "shop")
    assert {(e["event"], e["item_id"]): e["query"] for e in events_of(tmp_path / "shop")} == {
        ("impression", "a"): "red", ("impression", "b"): "blue", ("click", "b"): "blue", ("cart", "a"): "red",
        ("impression", "c"): "own term",
    }  # fmt: skip
    assert "left out: 1 lists shown before any search of their session" in output
    assert len({e["request_id"] for e in events_of(tmp_path / "shop")}) == 3


def test_lists_that_are_no_search_results_are_left_out_where_their_names_tell(tmp_path):
    visit = (
        event("view_search_results", 1, term="red"),
        event("view_item_list", 2, ("a", 1), shown_in="Search results"),
        event("view_item_list", 3, ("r", 1), shown_in="You may also like"),
        event("select_item", 9, ("r", 1), shown_in="You may also like"),
    )
    file = write_parquet(tmp_path / "e.parquet", *visit)
    output = smar_import("ga4", file, "--to", tmp_path / "shop")
    assert steps_of(tmp_path / "shop") == [("impression", "a", 1, "red")]
    assert "lists read as search results: those with 'search' in their name" in output
    assert "left out: 1 view_item_list events of the list 'You may also like', which is no search result" in output
    smar_import("ga4", file, "--to", tmp_path / "other", "--search-lists", "also like")
    assert [step[1] for step in steps_of(tmp_path / "other")] == ["r", "r"]
    with pytest.raises(InputError, match="--search-lists"):
        smar_import("ga4", file, "--to", tmp_path / "other", "--search-lists", "(")


def test_a_look_at_a_shown_product_is_a_click_by_an_option(tmp_path):
    visit = (*VISIT[:3], event("view_item", 9, ("a", None)), event("view_item", 10, ("z", None)))
    file = write_parquet(tmp_path / "e.parquet", *visit)
    smar_import("ga4", file, "--to", tmp_path / "shop", "--view-item", "click")
    assert steps_of(tmp_path / "shop")[-1] == ("click", "a", 1, "red shirt")
    assert len(steps_of(tmp_path / "shop")) == 3


def test_a_day_comes_again_with_late_events_in_whatever_days_of_utc_they_lie(tmp_path):
    shop, late = tmp_path / "shop", 13 * 3600
    day = [
        *VISIT,
        event("view_search_results", late, term="hat", user="u.5"),
        event("view_item_list", late + 1, ("h", 0), user="u.5"),
    ]
    other = event("view_item_list", late + 7_200, ("k", 0), term="coat", user="u.6", date="20261120")
    smar_import("ga4", write_parquet(tmp_path / "in" / "events_20261119.parquet", *day), "--to", shop)
    smar_import("ga4", write_parquet(tmp_path / "events_20261120.parquet", other), "--to", shop)
    assert len(events_of(shop)) == 7
    assert sorted(f.name for f in (shop / "click_log" / "dt=2026-11-20").iterdir()) == [
        "ga4-20261119.parquet",
        "ga4-20261120.parquet",
    ]
    day.append(event("select_item", 30, ("a", 0)))
    output = smar_import("ga4", write_parquet(tmp_path / "in" / "events_20261119.parquet", *day), "--to", shop)
    assert "replaced: 6 events that ga4 had brought of the same days, by 7" in output
    assert len(events_of(shop)) == 8
    assert {e["query"] for e in events_of(shop)} == {"red shirt", "hat", "coat"}
    with pytest.raises(InputError, match="of ga4-20261119 it has 7 events, and these files have 1"):
        smar_import(
            "ga4",
            write_parquet(tmp_path / "sliver.parquet", event("view_item_list", 1, ("a", 0), term="x")),
            "--to",
            shop,
        )


def test_events_of_nobody_and_rows_without_times_are_counted(tmp_path):
    file = write_parquet(
        tmp_path / "e.parquet",
        *VISIT[1:3],
        event("select_item", 9, ("a", 1), user=None),
        event("select_item", 9, ("a", 1), session=None),
        event("select_item", 9, ("a", 1)) | {"event_timestamp": None},
        event("view_search_results", 90, term="(not set)"),
        event("view_item_list", 91, ("a", None), (None, 2)),
    )
    output = smar_import("ga4", file, "--to", tmp_path / "shop")
    assert "records: 7 read: 7 events (3 used, 4 left out)" in output
    for line in (
        f"left out: 2 events without user_pseudo_id or ga_session_id (no consent?): they belong to no session (such as {file} row 3)",
        "left out: 1 events whose event_timestamp is missing",
        "left out: 1 view_search_results without a search_term",
        "left out: 1 items of events without an item_id",
        "left out: 1 impressions of items that their search had shown already",
    ):
        assert line in output


def test_files_that_are_something_else_are_refused(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: no column event_timestamp, event_name"):
        smar_import("ga4", tmp_path / "a.parquet", "--to", tmp_path / "shop")
    whole = write_parquet(tmp_path / "cut.parquet", *VISIT).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-50])
    with pytest.raises(InputError, match=r"cut\.parquet"):
        smar_import("ga4", tmp_path / "cut.parquet", "--to", tmp_path / "shop")
    with pytest.raises(InputError, match="no event of GA4's export that is read"):
        smar_import("ga4", write_parquet(tmp_path / "b.parquet", VISIT[0]), "--to", tmp_path / "shop")
    assert not (tmp_path / "shop" / "click_log").exists()


def test_events_without_a_date_are_replaced_with_their_day_and_none_counts_twice(tmp_path):
    shop = tmp_path / "shop"
    undated = [*VISIT[:4], *(e | {"event_date": None} for e in VISIT[4:6]), VISIT[6] | {"event_date": ""}]
    output = smar_import("ga4", write_json(tmp_path / "a.json", *undated), "--to", shop)
    assert "changed: 2 events without an event_date: that of their file's others, else their day of UTC" in output
    smar_import("ga4", write_json(tmp_path / "a.json", *VISIT), "--to", shop)
    assert len(events_of(shop)) == len(set(steps_of(shop))) == 5
    alone = [e | {"event_date": None} for e in VISIT]
    smar_import("ga4", write_json(tmp_path / "a.json", *alone), "--to", shop)
    assert len(events_of(shop)) == 5


def test_rows_that_stand_there_twice_count_once(tmp_path):
    first = write_json(tmp_path / "in" / "a.json", *VISIT)
    second = write_json(tmp_path / "in" / "b.json", *(e | {"event_date": None} for e in VISIT))
    output = smar_import("ga4", first.parent, "--to", tmp_path / "shop")
    assert len(steps_of(tmp_path / "shop")) == 5
    assert f"left out: 5 events that stand there twice, to the microsecond (such as {second} row 2)" in output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps([VISIT[1]]), r"a\.json row 1: a JSON array; .* `jq -c '\.\[\]'`"),
        (json.dumps([VISIT[1]], indent=1), r"a\.json row 1: a JSON array; .* `jq -c '\.\[\]'`"),
        (json.dumps(VISIT[1], indent=1), r"a\.json row 1: an object over several lines; .* `jq -c \.`"),
        ('{"a": 1}', r"a\.json: no event of GA4's export .*; records: 1 read: 1 lines \(0 used, 1 left out\)"),
    ],
)
def test_json_that_is_no_lines_of_events(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=message):
        smar_import("ga4", tmp_path / "a.json", "--to", tmp_path / "shop")


def test_an_event_that_came_without_its_date_does_not_come_again_under_another(tmp_path):
    shop = tmp_path / "shop"
    undated = [e | {"event_date": None} for e in VISIT]
    smar_import("ga4", write_json(tmp_path / "a.json", *undated), "--to", shop)
    shifted = write_json(tmp_path / "b.json", *(e | {"event_date": "20261120"} for e in VISIT))
    with pytest.raises(
        InputError, match=r"ga4-20261119\.parquet: has 5 of the events that these files bring as ga4-20261120"
    ):
        smar_import("ga4", shifted, "--to", shop)
    assert len(events_of(shop)) == 5
    other = write_json(tmp_path / "c.json", *(event(e["event_name"], 3600, date="20261119") for e in VISIT[:1]))
    late = write_json(
        tmp_path / "d.json",
        event("view_search_results", 3600, term="hat", user="u.2"),
        event("view_item_list", 3601, *((item, 0) for item in "abc"), user="u.2"),
    )
    smar_import("ga4", shifted, late, other, "--to", shop)
    assert len(events_of(shop)) == 8, "both days in one command"
