"""`smar shop check`: every fault named in one run, with file, row or column, and how to mend it; tables as common writers write them pass."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smar_model.cli import main
from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.settings import load_settings
from tests.tiny_shop import write_pictures

DAYS = [date(2026, 11, 18), date(2026, 11, 19)]
Capture = pytest.CaptureFixture[str]


def items(count: int = 40) -> list[dict[str, Any]]:
    return [
        {
            "item_id": f"{1000 + n}",
            "title": f"Plain {colour} {kind}",
            "category": f"{'Clothing' if kind == 'shirt' else 'Home'} > {kind}",
            "brand": "Acme",
            "attributes": {"colour": colour, "material": "cotton"},
            "images": [],
            "updated_at": datetime(2026, 11, 1, tzinfo=UTC),
        }
        for n in range(count)
        for colour, kind in [(["red", "blue", "green"][n % 3], ["shirt", "mug"][n % 2])]
    ]


def events(day: date, count: int = 150) -> list[dict[str, Any]]:
    rows = []
    for n in range(count):
        time = datetime(day.year, day.month, day.day, 8, tzinfo=UTC) + timedelta(minutes=n)
        row = {"request_id": f"{day}-{n}", "session_id": f"s{n}", "user_id": f"u{n}", "query": "plain shirt"}
        row |= {"item_id": f"{1000 + n % 40}", "position": 1}
        rows.append(row | {"event_time": time, "event": "impression"})
        rows.append(row | {"event_time": time + timedelta(seconds=9), "event": "click"})
    return rows


def as_text(value: Any) -> str:
    return value.isoformat()


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, default=as_text) + "\n" for row in rows), encoding="utf-8")
    return path


def write_shop(root: Path, change: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> Path:
    write_pictures(root, {})
    write_lines(root / "items.jsonl", [change(row) for row in items()])
    for day in DAYS:
        write_lines(root / "click_log" / f"dt={day}" / "a.jsonl", events(day))
    return root


def run(monkeypatch: pytest.MonkeyPatch, capsys: Capture, *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, output and errors of `smar …`."""
    monkeypatch.setattr("sys.argv", ["smar", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        sys.exit(main())
    told = capsys.readouterr()
    return stop.value.code if isinstance(stop.value.code, int) else 0, told.out, told.err


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Callable[..., tuple[int, str]]:
    return lambda *arguments: run(monkeypatch, capsys, "shop", "check", *arguments)[:2]


def pandas_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    frame = pd.DataFrame(rows)
    for column in ("item_id",):
        frame[column] = frame[column].astype("int64")
    if "brand" in frame:
        frame = frame.assign(brand=None, category=frame["category"].astype("category")).drop(columns="images")
    else:
        frame["position"] = frame["position"].astype("float64")
    frame.to_parquet(path.with_suffix(".parquet"))


def pandas_lines(rows: list[dict[str, Any]], path: Path) -> None:
    frame = pd.DataFrame(rows)
    frame["item_id"] = frame["item_id"].astype("float64")
    if "brand" in frame:
        frame.loc[3, "brand"] = float("nan")
    frame.to_json(path.with_suffix(".jsonl"), lines=True, orient="records", date_format="iso")


def polars_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    pl.DataFrame(rows).write_parquet(path.with_suffix(".parquet"))


def polars_categories(rows: list[dict[str, Any]], path: Path) -> None:
    frame = pl.DataFrame(rows).with_columns(pl.col("item_id").cast(pl.UInt32))
    if "attributes" in frame.columns:
        frame = frame.with_columns(
            pl.col("category").cast(pl.Categorical),
            pl.lit([{"key": "colour", "value": "red"}]).alias("attributes"),
        )
    frame.write_parquet(path.with_suffix(".parquet"))


def duckdb_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    given = pa.Table.from_pylist(rows)  # noqa: F841  DuckDB finds it by its name
    more = (
        ", MAP {'colour': 'red'} AS attributes, item_id::DECIMAL(10, 0) AS item_id"
        if "brand" in rows[0]
        else ", item_id::UINTEGER AS item_id"
    )
    names = "item_id, attributes" if "brand" in rows[0] else "item_id"
    duckdb.sql(f"SELECT * EXCLUDE ({names}){more} FROM given").write_parquet(str(path.with_suffix(".parquet")))


@pytest.mark.parametrize("write", [pandas_parquet, pandas_lines, polars_parquet, polars_categories, duckdb_parquet])
def test_tables_of_common_writers_pass_and_casts_are_told(
    write: Callable[[list[dict[str, Any]], Path], None], tmp_path: Path, check: Callable[..., tuple[int, str]]
) -> None:
    write_pictures(tmp_path, {})
    write(items(), tmp_path / "items")
    for day in DAYS:
        (tmp_path / "click_log" / f"dt={day}").mkdir(parents=True)
        write(events(day), tmp_path / "click_log" / f"dt={day}" / "a")
    code, told = check(tmp_path)
    assert code == 0, told
    assert "40 usable of 40 rows" in told and "clicks that count: 300" in told and "quarantine" not in told
    assert "Read as another type than it is stored as" in told


def test_times_without_a_zone_need_one_and_the_line_says_how(
    tmp_path: Path, check: Callable[..., tuple[int, str]]
) -> None:
    write_shop(tmp_path)
    frame = pd.DataFrame(items()).assign(updated_at=pd.Timestamp("2026-11-01 09:00"))
    (tmp_path / "items.jsonl").unlink()
    frame.to_parquet(tmp_path / "items.parquet")
    write_lines(
        tmp_path / "click_log" / f"dt={DAYS[0]}" / "a.jsonl",
        [e | {"event_time": e["event_time"].replace(tzinfo=None)} for e in events(DAYS[0])],
    )
    code, told = check(tmp_path)
    assert code == 2
    assert "items.parquet: does not fit schemas/items.yaml: column updated_at is timestamp[" in told
    assert "] without zone, expected timestamp: it says no zone" in told
    assert (
        "a.jsonl: line 1 does not fit schemas/click_log.yaml: event_time: the time '2026-11-18T08:00:00' says no zone"
        in told
    )
    assert told.count("`time_zone: Europe/Berlin` in shop.yaml") == 2
    before = ShopInputs(tmp_path).digest_items()
    (tmp_path / "shop.yaml").write_text("time_zone: Asia/Tokyo\n")
    code, told = check(tmp_path)
    assert code == 2 and "wrong_day 90" in told, "8:44 in the morning there is 23:44 of the day before in UTC"
    assert "(Asia/Tokyo by time_zone)" in told and ShopInputs(tmp_path).digest_items() != before
    (tmp_path / "shop.yaml").write_text("time_zone: Europe/Berlin\n")
    assert check(tmp_path)[0] == 0


def test_numbers_for_times_as_pandas_writes_them_say_what_to_do(
    tmp_path: Path, check: Callable[..., tuple[int, str]]
) -> None:
    write_shop(tmp_path)
    pd.DataFrame(items()).to_json(tmp_path / "items.jsonl", lines=True, orient="records")
    code, told = check(tmp_path)
    assert code == 2 and "no line has a time in updated_at: numbers do not say their unit" in told
    assert "date_format='iso'" in told


def test_a_list_in_place_of_a_text_is_refused_by_row_and_column(
    tmp_path: Path, check: Callable[..., tuple[int, str]]
) -> None:
    write_shop(
        tmp_path,
        lambda row: (
            row | {"attributes": {"colour": ["red", "crimson"], "weight": 1.5, "size": None}}
            if row["item_id"] == "1003"
            else row
        ),
    )
    code, told = check(tmp_path)
    assert code == 2
    assert (
        "items.jsonl: line 4 does not fit schemas/items.yaml: attributes, 'colour', has a list or object where one text is expected"
        in told
    )


def cut(file: Path, bytes_kept: int) -> None:
    file.write_bytes(file.read_bytes()[:bytes_kept])


def plant_faults(root: Path) -> dict[str, str]:
    """A shop with faults of all kinds; returns each with a phrase that names it."""
    write_shop(root)
    shutil.rmtree(root / "pictures")
    (root / "pictures.zip").write_bytes(b"PK\x03\x04 cut off")
    catalogue = items()
    catalogue[1] |= {"title": float("nan")}
    catalogue[2] |= {"title": ["a", "list"]}
    catalogue[3] |= {"images": "3.jpg"}
    catalogue[4] |= {"updated_at": "yesterday"}
    catalogue[5] |= {"category": " "}
    catalogue[6] = catalogue[7]
    (root / "items.jsonl").unlink()
    folder = root / "items"
    write_lines(folder / "a.jsonl", catalogue)
    with (folder / "a.jsonl").open("a") as file:
        file.write('{"item_id": "broken\n[1, 2]\n')
    pq.write_table(
        pa.table({"itemid": ["1"], "Title": ["a"], "category": ["b"], "updated_at": [7]}), folder / "b.parquet"
    )
    pq.write_table(pa.table({"item_id": ["1"]}), folder / "c.parquet")
    cut(folder / "c.parquet", 80)
    (folder / "d.jsonl.gz").write_bytes(gzip.compress(b'{"item_id": "1"}\n' * 100)[:-9])
    (folder / "e.parquet").write_bytes(b"")
    (folder / "f.csv").write_text("item_id;title\n")
    log = root / "click_log"
    day = log / f"dt={DAYS[1]}"
    bad = events(DAYS[1])
    for n, change in enumerate(
        [{"event": "view"}] * 20
        + [{"position": 0}] * 20
        + [{"query": " "}] * 20
        + [{"user_id": None}] * 20
        + [{"event_time": datetime(2026, 11, 25, tzinfo=UTC)}] * 20
        + [{"item_id": "gone"}] * 20
    ):
        bad[n] = bad[n] | change
    write_lines(day / "a.jsonl", [*bad, bad[-1], *(e | {"position": 1.5} for e in bad[-1:])])
    write_lines(log / "dt=2026-13-45" / "a.jsonl", [])
    write_lines(log / "20261118" / "a.jsonl", [])
    (log / "dt=2026-11-17").mkdir()
    write_lines(log / "loose.jsonl", [])
    write_lines(log / "dt=2026-11-16" / "empty.jsonl", [])
    for name in ("judgments.jsonl", "judgments.parquet"):
        write_lines(root / name, [])
    write_lines(root / "clicklog.jsonl", [])
    (root / "shop.yaml").write_text("time_zone: Europe/Atlantis\n")
    return {
        "zip cut off": "pictures.zip: not a whole zip file",
        "NaN title": "no_title 1, as '1001'",
        "list title": "line 3 does not fit schemas/items.yaml: title is no string: a list or object where one text is expected",
        "text for images": "line 4 does not fit schemas/items.yaml: images is no list<string>",
        "no time": "line 5 does not fit schemas/items.yaml: updated_at is no timestamp",
        "empty category": "no_category 1, as '1005'",
        "duplicate id": "duplicate_item 1, as '1007'",
        "broken line": "a.jsonl: line 41 is not JSON",
        "array line": "a.jsonl: line 42 is not a JSON object",
        "near miss": "column item_id is missing (expected string); the file has 'itemid', did you mean that?",
        "wrong case": "column title is missing (expected string); the file has 'Title', did you mean that?",
        "number for a time": "column updated_at is int64, expected timestamp: a number does not say its unit",
        "truncated Parquet": "c.parquet: not a readable Parquet file",
        "corrupt gzip": "d.jsonl.gz: cannot be read",
        "empty file": "e.parquet: not a readable Parquet file",
        "CSV": "f.csv: CSV, which is not read",
        "unknown event": "unknown_event 20",
        "position from 0": "bad_position 20",
        "empty query": "empty_query 20",
        "no user": "null_field 20",
        "another day": "wrong_day 20",
        "unknown item": "unknown_item",
        "repeated event": "duplicate_event 1",
        "half a position": "line 302 does not fit schemas/click_log.yaml: position is no int32",
        "no such day": "dt=2026-13-45: its name is no day",
        "another name": "20261118: its name is no day, so it is not read; rename it to dt=2026-11-18",
        "empty day": "dt=2026-11-17: no Parquet file for this day",
        "no events": "dt=2026-11-16: its files hold no events",
        "loose file": "loose.jsonl: lies beside the days' folders",
        "two judgments": "judgments.jsonl: judgments.parquet is there as well",
        "log in one file": "clicklog.jsonl: a log is read by days",
        "no such zone": "shop.yaml: no time zone 'Europe/Atlantis'",
        "too many unused": "more than 20% of its events would end in quarantine",
    }


def test_all_planted_faults_are_named_in_one_run(tmp_path: Path, check: Callable[..., tuple[int, str]]) -> None:
    planted = plant_faults(tmp_path)
    code, told = check(tmp_path)
    assert code == 2 and len(planted) > 25
    assert [fault for fault, phrase in planted.items() if phrase not in told] == [], told


@pytest.mark.parametrize(
    ("last", "says"),
    [
        (18, "so that a run to this day ends at check-data (settings.checks.possible_volume)"),
        (60, "check-data warns of it (settings.checks.usual_volume)"),
    ],
)
def test_a_last_day_that_the_checks_of_a_run_would_refuse_is_told(
    tmp_path: Path, check: Callable[..., tuple[int, str]], last: int, says: str
) -> None:
    root = write_shop(tmp_path)
    write_lines(root / "click_log" / f"dt={DAYS[-1]}" / "a.jsonl", events(DAYS[-1], last))
    code, told = check(root)
    assert code == 0 and says in told.split("To look at:")[1]
    assert f"{last} clicks on this last day, {last / 150:.2f} of the mean of the days before (150; median 150)" in told


def test_judgments_and_pictures_are_looked_at(tmp_path: Path, check: Callable[..., tuple[int, str]]) -> None:
    names = {"1000": ["here.jpg", "../../etc/passwd"], "1001": ["/abs.jpg", "broken.jpg"], "1002": ["http://x/y.jpg"]}
    write_shop(tmp_path, lambda row: row | {"images": names.get(row["item_id"], ["here.jpg"])})
    from tests.tiny_shop import draw_picture

    write_pictures(tmp_path, {"here.jpg": draw_picture("red"), "broken.jpg": b"no picture"})
    graded = [{"query": "shirt", "item_id": "1000", "grade": 3}, {"query": "shirt", "item_id": "gone", "grade": 1}]
    write_lines(tmp_path / "judgments.jsonl", [*graded, {"query": "mug", "item_id": "1001", "grade": 5}])
    code, told = check(tmp_path)
    assert code == 2
    assert "judgments.jsonl: 1 grades are not from 0 to 3: line 3 has 5" in told
    assert "1 of 3 judgements are of items that the catalogue does not have, as 'gone'" in told
    assert (
        "1 of 42 pictures that `images` names climb out of pictures/, as '../../etc/passwd'; a name is a path below pictures/"
        in told
    )
    assert "1 of 42 pictures that `images` names are absolute paths, as '/abs.jpg'" in told
    assert "1 of 2 sampled pictures are of a kind that is not read, as 'broken.jpg'" in told
    assert "pictures by URL are asked for with --fetch alone" in told


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, check: Callable[..., tuple[int, str]]) -> None:
    write_shop(tmp_path)
    (tmp_path / "items.jsonl").chmod(0)
    code, told = check(tmp_path)
    assert code == 2 and "items.jsonl: may not be read by this user" in told


def test_a_shop_is_adopted_once_and_not_with_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))
    shop, configs = write_shop(tmp_path / "shop"), tmp_path / "configs"

    def adopt(name: str = "my_shop") -> tuple[int, str, str]:
        return run(monkeypatch, capsys, "shop", "adopt", shop, "--name", name, "--configs", configs)

    code, told, _ = adopt()
    assert code == 0 and f"make retrain SETTINGS={configs / 'my_shop.yaml'} DATE=2026-11-19" in told
    written = load_settings(configs / "my_shop.yaml")
    assert written.shop_root == shop and written.shop.kind == "own" and written.shop.simulation is None
    assert (written.window.days, written.window.evaluation_days, written.release.model) == (2, 1, "my_shop")
    assert written.gate.champion_margin == 0.2, "one query tells nothing"
    lines = (configs / "my_shop.yaml").read_text().splitlines()
    assert all("#" in line for line in lines)
    assert any("1 are judged; below half of them a day's figures say little" in line for line in lines)
    assert adopt()[0] == 0, "the same again is no fault"
    (configs / "my_shop.yaml").write_text("mine: true\n")
    code, _, told = adopt()
    assert (
        code == 2 and "is there with other content" in told and (configs / "my_shop.yaml").read_text() == "mine: true\n"
    )
    code, _, told = adopt("a/b")
    assert code == 2 and "letters, digits" in told
    (shop / "items.jsonl").unlink()
    code, _, told = adopt("other")
    assert code == 2 and "not adopted" in told and "no catalogue" in told and not (configs / "other.yaml").exists()
