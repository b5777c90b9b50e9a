"""`smar shop check` of shops as strangers wrote them: what is wrong is named, once, with what to do; nothing lies unread in silence."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from smar_model.data.query_text import normalise_query, visible_text
from smar_model.delivery.check_records import CheckBounds
from smar_model.delivery.check_report import render
from smar_model.delivery.json_lines import LineReader, iterate_lines
from smar_model.delivery.shop_check import check_shop
from smar_model.delivery.shop_figures import TextForms
from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.lake.contracts import load_contract
from tests.delivery.test_shop_check import DAYS, as_text, events, items, write_lines, write_shop

TODAY = date(2026, 11, 30)
LOG = Path("click_log") / f"dt={DAYS[1]}"


def told_of(root: Path) -> tuple[str, str]:
    """The report's lines before its faults, and those of the faults."""
    bounds = CheckBounds(today=TODAY)
    told = render(check_shop(ShopInputs(root), bounds, TextForms(normalise=normalise_query, visible=visible_text)))
    before, ending, faults = told.partition("to mend before a run:")
    return (before, faults) if ending else (told, "")


def new_items(count: int, **changes: Any) -> list[dict[str, Any]]:
    new_items.given += count  # type: ignore[attr-defined]
    first = new_items.given - count  # type: ignore[attr-defined]
    return [row | {"item_id": f"n{first + n}"} | changes for n, row in enumerate(items(count))]


new_items.given = 0  # type: ignore[attr-defined]


def picture(seed: int | None) -> bytes:
    """A small picture; None: a white one."""
    points = (
        np.full((4, 4, 3), 255, np.uint8)
        if seed is None
        else np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8)
    )
    content = io.BytesIO()
    Image.fromarray(points).resize((40, 40)).save(content, "JPEG")
    return content.getvalue()


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    pd.DataFrame(rows).to_parquet(path)


def plant_items(root: Path) -> dict[str, str]:
    folder = root / "items"
    write_lines(folder / "a.jsonl", items())
    (root / "items.jsonl").unlink()
    titles = {
        "html": "<p>Red&nbsp;<b>shirt</b></p>",
        "mojibake": "HÃ¤keljacke",
        "control": "Red\x07shirt",
        "none": "nan",
    }
    for name, title in titles.items():
        write_lines(folder / f"{name}.jsonl", new_items(2, title=title))
    write_lines(folder / "same.jsonl", new_items(30, title="Product"))
    write_lines(folder / "future.jsonl", new_items(2, updated_at=datetime(2062, 1, 1, tzinfo=UTC)))
    write_lines(folder / "sheet.jsonl", [row | {"item_id": "4.00556E+12"} for row in items(1)])
    write_table(folder / "fraction.parquet", [row | {"item_id": 12.5, "images": None} for row in items(1)])
    write_lines(folder / "spaces.jsonl", [row | {"item_id": " 1007 "} for row in items(1)])
    write_lines(folder / "paths.jsonl", new_items(2, category="Clothing/Shirts"))
    write_lines(folder / "dates.jsonl", new_items(2, updated_at="19.11.2026 10:00"))
    western = json.dumps(new_items(1, title="Häkel")[0], default=as_text, ensure_ascii=False)
    (folder / "western.jsonl").write_bytes(western.encode("cp1252"))
    twice = json.dumps(new_items(1)[0], default=as_text)
    (folder / "keys.jsonl").write_text(twice.replace('"brand"', '"title": "Twice", "brand"'))
    (folder / "Thumbs.db").write_bytes(b"x")
    names = [
        "gone.jpg",
        "C:\\p\\1.jpg",
        "/var/1.jpg",
        "../1.jpg",
        "www.shop.example/1.jpg",
        "htps://a.example/1.jpg",
        "P0.JPG",
    ]
    (root / "pictures" / "p0.jpg").write_bytes(picture(0))
    write_lines(folder / "names.jsonl", [row | {"images": [name]} for name in names for row in new_items(1)])
    return {
        "HTML": "2 of 96 (2.1%) items have a title with HTML, as '<p>Red&nbsp;<b>shirt</b></p>' in html.jsonl",
        "mojibake": "3 of 96 (3.1%) items have a title whose letters were read in another encoding",
        "control characters": "items have a title with control characters",
        "nan as text": "items have a title that stands for none, as 'nan' in none.jsonl",
        "one title": "30 of 96 (31.2%) items have one and the same title, as 'Product'",
        "future": "2 of 96 (2.1%) items have an updated_at in the future",
        "Excel": "items have an item_id as spreadsheets write long numbers, as '4.00556E+12' in sheet.jsonl",
        "fraction": "items have an item_id with a fraction, as '12.5' in fraction.parquet",
        "blanks": "items have an item_id that is another item's but for blanks at its ends, as ' 1007 '",
        "separator": "items have a category without `>` and with another sign in its place",
        "dates": "dates.jsonl: does not fit schemas/items.yaml: no line has a time in updated_at: line 1 has '19.11.2026 10:00', which is no time (and 1 more like it); write ISO 8601",
        "Windows-1252": "western.jsonl: line 1 is not UTF-8",
        "key twice": "keys.jsonl: 1 lines have a key twice, as line 1",
        "gone": "images` names are not there, as 'gone.jpg'",
        "Windows path": "images` names are paths of Windows",
        "absolute path": "images` names are absolute paths, as '/var/1.jpg'",
        "climbing path": "images` names climb out of pictures/, as '../1.jpg'",
        "no scheme": "images` names are URLs without a scheme, as 'www.shop.example/1.jpg'",
        "wrong scheme": "images` names begin with a scheme that is none, as 'htps://a.example/1.jpg'",
        "letter case": "images` names are there with other capital letters, as 'P0.JPG'",
    }


def plant_pictures(root: Path) -> dict[str, str]:
    contents = {f"p{n}.jpg": picture(n) for n in range(6)} | {f"same{n}.jpg": picture(99) for n in range(12)}
    contents |= {"page.jpg": b"<!DOCTYPE html><html>404</html>", "empty.jpg": b"", "half.jpg": picture(7)[:300]}
    contents |= {"drawing.jpg": b'<svg xmlns="http://www.w3.org/2000/svg"/>', "white.jpg": picture(None)}
    for name, content in contents.items():
        (root / "pictures" / name).write_bytes(content)
    (root / "pictures" / "link.jpg").symlink_to("/nowhere/p.jpg")
    names = [*contents, "link.jpg"]
    write_lines(root / "items.jsonl", [row | {"images": [names[n % len(names)]]} for n, row in enumerate(items())])
    (root / "items").mkdir()
    (root / "items.jsonl").rename(root / "items" / "pictured.jsonl")
    return {
        "page": "sampled pictures are web pages, as 'page.jpg'",
        "empty": "sampled pictures are empty files, as 'empty.jpg'; deliver them again",
        "half": "sampled pictures are cut off or damaged, as 'half.jpg'",
        "drawing": "sampled pictures are SVG drawings, as 'drawing.jpg'",
        "link": "sampled pictures are links that lead nowhere, or out of pictures/, as 'link.jpg'",
        "placeholder": "12 of 24 sampled pictures are one and the same, as 'same0.jpg'",
        "white": "1 of 24 sampled pictures are of nearly one colour, as 'white.jpg'",
    }


def plant_log(root: Path) -> dict[str, str]:
    day = root / LOG
    rows = events(DAYS[1], 10)

    def write(name: str, **changes: Any) -> None:
        write_lines(
            day / f"{name}.jsonl", [row | {"request_id": f"{name}-{row['request_id']}"} | changes for row in rows]
        )

    write("zero", position=0)
    write("undefined", session_id="undefined", user_id="null")
    write("encoded", query="red%20shirt")
    write("old", event_time="1970-01-21T18:38:02Z")
    write("spaces", item_id="1003 ")
    write("nobody", user_id=None)
    twice = [row | {"request_id": f"twice-{row['request_id']}"} for row in rows]
    write_lines(day / "twice.jsonl", twice * 2)
    write_lines(
        day / "several.jsonl", [row | {"request_id": "same", "query": f"{n} mugs"} for n, row in enumerate(rows)]
    )
    bad = events(DAYS[1], 12)
    bad[3].pop("item_id")
    bad[5]["position"] = -1
    write_lines(day / "holes.jsonl", bad)
    write_lines(root / "click_log" / "dt=2026-11-17" / "a.ndjson", rows)
    (root / "click_log" / "dt=2026-11-14").mkdir()
    write_lines(root / "click_log" / "dt=2026-11-14" / "a.jsonl", events(date(2026, 11, 14)))
    write_lines(root / "click_log" / "dt=2062-11-19" / "a.jsonl", events(date(2062, 11, 19), 1))
    return {
        "from 0 in a file": "zero.jsonl: positions count from 0 in 1 of",
        "undefined": "events have a session_id that stands for none, as 'undefined' in dt=2026-11-19/undefined.jsonl",
        "null": "events have a user_id that stands for none, as 'null'",
        "encoded": "events have a query that is encoded as in URLs, as 'red%20shirt'",
        "1970": "events have an event_time in 1970, as 'old-2026-11-19-0' in dt=2026-11-19/old.jsonl; seconds or milliseconds taken for another unit?",
        "blanks of the log": "events have an item_id that the catalogue has without blanks at its ends, as '1003 '",
        "events twice": "duplicate_event 42 (holes.jsonl 22; twice.jsonl 20), as",
        "empty columns": "null_field 21 (user_id 20 in nobody.jsonl; item_id 1 in holes.jsonl; told of below as well: 20 of user_id)",
        "another position": "bad_position 21 (position 0 20 in zero.jsonl; position -1 1 in holes.jsonl), as '2026-11-19-2/1002/click' in holes.jsonl",
        "one request, many queries": "request_ids have several queries, as 'same' in dt=2026-11-19/several.jsonl; a request is one list of results",
        "another name": "dt=2026-11-17/a.ndjson: is not read under this name; rename it to a.jsonl",
        "days left out": "click_log: 3 days of the window are not there, as dt=2026-11-15",
        "a day to come": "click_log: 1 day lies in the future, as dt=2062-11-19",
    }


def plant_judgments(root: Path) -> dict[str, str]:
    rows: list[dict[str, Any]] = [{"query": "shirt", "item_id": "1000", "grade": 3}]
    rows += [{"query": "shirt", "item_id": "1000", "grade": 0}, {"query": "", "item_id": "1001", "grade": 1}]
    rows += [{"query": "mug", "item_id": None, "grade": 1}, {"query": "mug", "item_id": "1001", "grade": None}]
    rows += [{"query": "mug", "item_id": "1002", "grade": 7}, {"query": "mug", "item_id": "zz9", "grade": 1}]
    rows += [{"query": "mug", "item_id": "1003", "grade": "good"}, {"query": "mug", "item_id": "1004", "grade": 2.5}]
    write_lines(root / "judgments.jsonl", rows)
    (root / "shop.yaml").write_text("time_zone: Europe/Berln\ncurrency: EUR\n")
    return {
        "empty judgements": "of 7 rows 1 lack query (as line 3), 1 lack item_id (as line 4), 1 lack grade (as line 5)",
        "contradiction": "1 judgements repeat a query and item, 1 of them with another grade, as 'shirt' with '1000': line 1 has 3, line 2 has 0",
        "grade 7": "1 grades are not from 0 to 3: line 6 has 7",
        "unknown item": "1 of 7 judgements are of items that the catalogue does not have, as 'zz9'",
        "grade as a word": "line 8 does not fit schemas/judgments.yaml: grade is no int32: a text",
        "half a grade": "line 9 does not fit schemas/judgments.yaml: grade is no int32: a number with a fraction",
        "unknown setting and zone": "shop.yaml: unknown: currency; and no time zone 'Europe/Berln'",
    }


def test_a_strangers_shop_has_all_its_faults_named_in_one_run(tmp_path: Path) -> None:
    write_shop(tmp_path)
    planted = plant_log(tmp_path) | plant_judgments(tmp_path) | plant_items(tmp_path)
    before, faults = told_of(tmp_path)
    assert len(planted) > 35
    assert [fault for fault, phrase in planted.items() if phrase not in before + faults] == [], before + faults
    assert "Thumbs.db" not in before + faults


def test_pictures_that_show_nothing_are_named(tmp_path: Path) -> None:
    write_shop(tmp_path)
    planted = plant_pictures(tmp_path)
    told = "".join(told_of(tmp_path))
    assert [fault for fault, phrase in planted.items() if phrase not in told] == [], told


def test_positions_from_0_everywhere_are_a_fault_and_a_stray_0_is_none(tmp_path: Path) -> None:
    write_shop(tmp_path)
    rows = [events(day) for day in DAYS]
    rows[1][4]["position"] = 0
    write_lines(tmp_path / LOG / "a.jsonl", rows[1])
    assert told_of(tmp_path)[1] == ""
    for day, of_day in zip(DAYS, rows, strict=True):
        counted = [row | {"position": n % 7} for n, row in enumerate(of_day)]
        write_lines(tmp_path / "click_log" / f"dt={day}" / "a.jsonl", counted)
    assert "positions count from 0 in all files: the top of each list is lost; add 1" in told_of(tmp_path)[1]


@pytest.mark.parametrize(
    ("name", "found", "is_fault"),
    [
        ("judgements.parquet", "is not read under this name; rename it to judgments.parquet", True),
        ("judgments.csv", "CSV, which is not read", True),
        ("products.parquet", "is not read under this name; rename it to items.parquet", False),
        ("clicklog/", "is not read under this name; rename it to click_log/", False),
        ("images/", "is not read under this name; rename it to pictures/", False),
        ("notes.docx", "is not read under this name; move it elsewhere", False),
        ("backup/", "is not read under this name; move it elsewhere", False),
    ],
)
def test_nothing_lies_unread_in_silence(name: str, found: str, is_fault: bool, tmp_path: Path) -> None:
    write_shop(tmp_path)
    path = tmp_path / name
    if name.endswith("/"):
        path.mkdir()
    else:
        path.write_bytes(b"x")
    assert f"{path}: {found}" in told_of(tmp_path)[is_fault]


@pytest.mark.parametrize(
    ("name", "there"), [("products", "items.jsonl"), ("clicklog", "click_log"), ("images", "pictures")]
)
def test_a_name_near_the_right_one_is_a_fault_where_the_table_is_lacking(name: str, there: str, tmp_path: Path) -> None:
    write_shop(tmp_path)
    ending = Path(there).suffix
    (tmp_path / there).rename(tmp_path / (name + ending))
    assert (
        f"{tmp_path / (name + ending)}: is not read under this name; rename it to {there.split('.')[0]}"
        in told_of(tmp_path)[1]
    )


def test_what_desktops_leave_is_passed_over(tmp_path: Path) -> None:
    write_shop(tmp_path)
    for folder in (tmp_path, tmp_path / LOG):
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "_SUCCESS"):
            (folder / name).write_bytes(b"x")
    before, faults = told_of(tmp_path)
    assert not faults and "To look at" not in before


def test_one_fault_in_many_files_is_one_line(tmp_path: Path) -> None:
    write_shop(tmp_path)
    for hour in range(20):
        naive = [row | {"event_time": row["event_time"].replace(tzinfo=None)} for row in events(DAYS[1], 2)]
        write_table(tmp_path / LOG / f"h{hour:02}.parquet", naive)
    faults = told_of(tmp_path)[1]
    assert faults.count("says no zone") == 1
    assert "(and 19 more files like it, such as h19.parquet)" in faults


@pytest.mark.parametrize("whole", [True, False])
def test_what_follows_from_a_catalogue_that_cannot_be_read_is_left_out(whole: bool, tmp_path: Path) -> None:
    write_shop(tmp_path)
    write_lines(tmp_path / "judgments.jsonl", [{"query": "mug", "item_id": "1001", "grade": 1}])
    (tmp_path / "items.jsonl").unlink()
    (tmp_path / "items").mkdir()
    if not whole:
        write_lines(tmp_path / "items" / "a.jsonl", items(1))
    pd.DataFrame(items()).drop(columns=["updated_at", "images"]).to_parquet(tmp_path / "items" / "b.parquet")
    before, faults = told_of(tmp_path)
    assert len(faults.strip().splitlines()) == 1 and "column updated_at is missing" in faults
    assert ("unknown_item" in before) is not whole
    assert "part of the catalogue cannot be read: mend that first" in before or whole


def test_rows_that_are_told_of_as_faults_say_so_in_the_quarantine(tmp_path: Path) -> None:
    write_shop(tmp_path)
    rows = [row | {"position": 3_000_000_000} for row in events(DAYS[1], 3)]
    write_table(tmp_path / LOG / "big.parquet", rows)
    before, faults = told_of(tmp_path)
    assert (
        "null_field 6 (position 6 in big.parquet; told of below as well: 6 of position), as '2026-11-19-0/1000/impression' in big.parquet"
        in before
    )
    assert "big.parquet: row 0: position: 3000000000 is out of the range of int32 (and 5 more like it)" in faults


def test_one_date_that_is_none_is_named_by_its_line(tmp_path: Path) -> None:
    write_shop(tmp_path, lambda row: row | ({"updated_at": "19.11.2026"} if row["item_id"] == "1005" else {}))
    before, faults = told_of(tmp_path)
    assert not faults
    assert "items.jsonl: updated_at: line 6 has '19.11.2026', which is no time; write ISO 8601 with a zone" in before


def test_dates_that_are_none_in_all_lines_are_one_fault(tmp_path: Path) -> None:
    write_shop(tmp_path, lambda row: row | {"updated_at": "19.11.2026 10:00"})
    before, faults = told_of(tmp_path)
    assert len(faults.strip().splitlines()) == 1 and "line 1 has '19.11.2026 10:00'" in faults
    assert "unknown_item" not in before


def test_times_that_no_calendar_has_are_of_no_day(tmp_path: Path) -> None:
    write_shop(tmp_path)
    times = pa.array([2**63 - 1, -(2**63) + 1, 0], pa.timestamp("us", "UTC"))
    odd = pa.Table.from_pylist(events(DAYS[1], 2)[:3]).drop_columns("event_time").append_column("event_time", times)
    pq.write_table(odd, tmp_path / LOG / "odd.parquet")
    assert (
        "wrong_day 3 (outside the years 1 to 9999 2 in odd.parquet; 1970-01-01 1 in odd.parquet)"
        in told_of(tmp_path)[0]
    )


def test_a_placeholder_that_many_items_list_is_named(tmp_path: Path) -> None:
    write_shop(tmp_path, lambda row: row | {"images": ["none.jpg"]})
    (tmp_path / "pictures" / "none.jpg").write_bytes(picture(1))
    found = "1 pictures are listed by more than 10 items (settings.pictures.shared_by_items) each, as 'none.jpg' by 40"
    assert found in told_of(tmp_path)[0]


def long_line(root: Path) -> None:
    write_lines(root / "items.jsonl", [*items(), items(1)[0] | {"title": "x" * (17 << 20)}])


def packed_blanks(root: Path) -> None:
    (root / "items.jsonl").unlink()
    (root / "items.jsonl.gz").write_bytes(gzip.compress((b" " * 9_999 + b"\n") * 1_000, 9))


def small_dictionary(root: Path) -> None:
    (root / "items.jsonl").unlink()
    count = 2_000
    titles = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, "int32")), pa.array(["x" * 10_000]))
    columns = {"item_id": [str(n) for n in range(count)], "title": titles, "category": ["A"] * count}
    times = pa.array([0] * count, pa.timestamp("us", "UTC"))
    pq.write_table(pa.table(columns | {"updated_at": times}), root / "items.parquet")


@pytest.mark.parametrize(
    ("write", "found"),
    [
        (long_line, "items.jsonl: line 41 has over 16,777,216 bytes"),
        (packed_blanks, "items.jsonl.gz: unpacks to over 200 times its size"),
        (small_dictionary, "items.parquet: unpacks to over 200 times its size"),
    ],
)
def test_a_file_beyond_its_bounds_is_named(
    write: Callable[[Path], None], found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smar_model.delivery.bounded_reading.ALWAYS_UNPACKED", 2**20)
    write_shop(tmp_path)
    write(tmp_path)
    assert found in told_of(tmp_path)[1]


def test_jobs_take_lines_that_are_not_utf_8_as_before(tmp_path: Path) -> None:
    row = json.dumps(items(1)[0] | {"title": "Häkel"}, default=as_text, ensure_ascii=False)
    (tmp_path / "items.jsonl").write_bytes(row.encode("cp1252"))
    bad: list[str] = []
    reader = LineReader(load_contract("items"), None)
    lines = iterate_lines(tmp_path / "items.jsonl")
    batches = list(reader.batches(lines, lambda number, found, mend: bad.append(found)))
    assert not bad and batches[0]["title"].to_pylist() == ["H\ufffdkel"]
