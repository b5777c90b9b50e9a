"""No content of a row ends a job: hostile rows are mended or in quarantine, and those beside them come out as they were."""

from __future__ import annotations

import errno
import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from jobs.spark_session import name_failure, spark_session
from smar_model.data.query_text import normalise_query, visible_text
from smar_model.delivery.check_records import CheckBounds
from smar_model.delivery.shop_check import check_shop
from smar_model.delivery.shop_figures import TextForms
from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.errors import InputError, NoAnswer
from smar_model.lake.artifacts import Artifact
from smar_model.lake.contracts import load_contract
from smar_model.lake.stage import StageContext
from smar_model.stages import STAGES as STAGES_BY_NAME
from tests.tiny_shop import (
    DAYS,
    published,
    run_stages,
    take_over,
    tiny_events,
    tiny_items,
    tiny_run,
    write_pictures,
    write_tiny_shop,
)

STAGES = ("prepare-items", "extract-clicks", "generate-queries")
ITEM_REASONS = {
    *("no_item_id", "no_title", "long_item_id", "long_title", "no_category", "long_category", "long_brand"),
    *("long_attributes", "no_updated_at", "bad_updated_at", "duplicate_item"),
}
LOG_REASONS = {
    *("null_field", "unknown_event", "bad_position", "empty_query", "long_query", "wrong_day", "duplicate_event"),
    *("replayed_event", "bot_rate", "bot_no_dwell", "bot_impossible", "action_without_impression"),
    *("action_before_impression", "unknown_item"),
}
TEXTS = [
    *(
        "",
        " ",
        "\0",
        "a\0",
        "\t\n",
        " > ",
        "!!!",
        "…",
        "null",
        "NaN",
        "None",
        "{}",
        "[1]",
        "a | b",
        "a'b\"c",
        "%_\\",
        "(.*)[",
        "$1 \\1",
    ),
    *(
        "\ud800",
        "half \udc00 pair",
        "👩‍👩‍👧‍👦",
        "\u202eright to left",
        "\u2028",
        "İß",
        "e\u0301" * 40,
        "<email>",
        "4111 1111 1111 1111",
    ),
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "a/" * 2_500,
        "x" * 255,
        "x" * 5_000,
        "x" * 1_000_000,
        "word " * 5_000,
        "ﷺ" * 5_000,
    ),
    " > ".join(f"level {n}" for n in range(1_000)),
    "九" * 500,
]
"""As JSON and as Parquet have them: of the latter a lone surrogate is no UTF-8."""
TIMES = [None, -(2**63), 2**63 - 1, 0, -1, -62_135_596_800_000_000, 253_402_300_799_999_999, 253_402_300_800_000_000]
"""Microseconds since 1970: the ends of the type, of the first and of the last year, and the first moment after it."""
TIME_TEXTS = [
    "",
    "0000-00-00 00:00:00",
    "2026-02-30T00:00:00Z",
    "99999-01-01T00:00:00Z",
    "+294247-01-10T04:00:54.775807Z",
    "2026-W01-1T00:00Z",
]
NUMBERS = [None, -(2**31), -1, 0, 2**31 - 1]
BIG_NUMBERS = [-(2**31) - 1, 2**31, 2**63, -(2**80), 3.0, 10**500]
PRICES = [None, *map(Decimal, ("-1", "0", "0.0001", "19.99", "-99999999999999.9999", "99999999999999.9999"))]
WHEN = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp() * 1_000_000)
TWICE = [("colour", "red"), ("colour", "crimson"), ("colour", None), ("colour", "red")]

texts = st.one_of(st.none(), st.sampled_from(TEXTS[:-4]), st.text(max_size=20), st.binary(max_size=8))
items = st.fixed_dictionaries(
    {
        **dict.fromkeys(("item_id", "title", "category", "brand"), texts),
        "attributes": st.none() | st.lists(st.tuples(texts.filter(lambda name: name is not None), texts), max_size=4),
        "images": st.none() | st.lists(texts, max_size=4),
        "updated_at": st.sampled_from(TIMES) | st.integers(-(2**63), 2**63 - 1),
        "price": st.sampled_from(PRICES),
        "currency": texts,
        "available": st.none() | st.booleans(),
    }
)
events = st.fixed_dictionaries(
    {
        **dict.fromkeys(("request_id", "session_id", "user_id", "query", "item_id"), texts),
        **dict.fromkeys(("version", "routing", "team"), texts),
        "event": st.sampled_from(["impression", "click", "order", "Click", "cart "]) | texts,
        "event_time": st.sampled_from(TIMES) | st.integers(-(2**63), 2**63 - 1),
        "position": st.sampled_from(NUMBERS) | st.integers(-(2**31), 2**31 - 1),
    }
)


def item(item_id: Any, **changes: Any) -> dict[str, Any]:
    row = {
        "item_id": item_id,
        "title": "Odd shirt",
        "category": "Clothing > Odd",
        "brand": "Acme",
        "attributes": [("fit", "slim")],
    }
    row |= {"images": [], "updated_at": WHEN, "price": Decimal("19.99"), "currency": "EUR", "available": True}
    return row | changes


def event(number: int, day: date, **changes: Any) -> dict[str, Any]:
    time = int(datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp() * 1_000_000)
    row = {"event_time": time, "event": "impression", "request_id": f"odd-{number}", "session_id": f"odd-{number}"}
    row |= {"user_id": f"odd-{number}", "query": "odd shirt", "item_id": "item-001", "position": 1}
    return row | dict.fromkeys(("version", "routing", "team")) | changes


def known_items() -> list[dict[str, Any]]:
    """Each hostile value in each column."""
    changes: list[dict[str, Any]] = [
        {name: text} for name in ("item_id", "title", "category", "brand", "currency") for text in (None, *TEXTS)
    ]
    changes += [{"price": price} for price in PRICES] + [{"available": None}]
    changes += [{"attributes": [(text, "value")]} for text in TEXTS] + [
        {"attributes": [("name", text)]} for text in (None, *TEXTS)
    ]
    changes += [{"attributes": rows} for rows in (None, [], TWICE, [(f"name {n // 2}", f"{n}") for n in range(10_000)])]
    changes += [{"images": images} for images in (None, [None], TEXTS, [f"{n}.jpg" for n in range(2_000)])]
    changes += [{"updated_at": time} for time in TIMES]
    return [item(f"odd-{n}") | change for n, change in enumerate(changes)]


def known_events(day: date) -> list[dict[str, Any]]:
    columns = ("event", "request_id", "session_id", "user_id", "query", "item_id", "version", "routing", "team")
    changes: list[dict[str, Any]] = [{name: text} for name in columns for text in (None, *TEXTS)]
    changes += [{"event_time": time} for time in TIMES] + [{"position": number} for number in NUMBERS]
    return [event(n, day, **change) for n, change in enumerate(changes)]


def raw(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(raw(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(pa.binary(), pa.binary())
    return pa.binary() if pa.types.is_string(kind) else pa.int64() if pa.types.is_timestamp(kind) else kind


def encoded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(encoded, value))
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value


def write_parquet(path: Path, table: str, rows: list[dict[str, Any]], *, unit: str = "us") -> None:
    """Rows as they are: Arrow checks neither text nor time where a column changes its type in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns, fields = [], []
    for field in load_contract(table).arrow_schema():
        kind = pa.timestamp(unit, tz="UTC") if pa.types.is_timestamp(field.type) else field.type
        columns.append(pa.array([encoded(row[field.name]) for row in rows], raw(field.type)).view(kind))
        fields.append(pa.field(field.name, kind))
    pq.write_table(pa.Table.from_arrays(columns, schema=pa.schema(fields)), path)


def json_text(value: Any) -> str:
    """A map is written entry by entry, as it may have a key twice; bytes as the text they would be."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return "{" + ", ".join(f"{json_text(name or '')}: {json_text(text)}" for name, text in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(json_text, value)) + "]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        "{" + ", ".join(f"{json.dumps(name)}: {json_text(value)}" for name, value in row.items()) + "}" for row in rows
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def time_text(row: dict[str, Any], name: str) -> dict[str, Any]:
    """JSON has times as text; those that Python cannot write are seconds since 1970."""
    try:
        return row | {name: row[name] and datetime.fromtimestamp(row[name] / 1_000_000, UTC).isoformat()}
    except (ValueError, OverflowError, OSError):
        return row | {name: row[name] // 1_000_000}


def add_hostile_rows(root: Path, drawn_items: list[dict[str, Any]], drawn_events: list[dict[str, Any]]) -> None:
    """Beside the healthy rows of a shop, as Parquet in each unit of time and as JSON lines."""
    (root / "items").mkdir()
    (root / "items.parquet").rename(root / "items" / "healthy.parquet")
    both = known_items() + drawn_items
    write_parquet(root / "items" / "odd.parquet", "items", both)
    for unit in ("ms", "ns"):
        rows = [item(f"{unit}-{n}", updated_at=time) for n, time in enumerate(TIMES)]
        write_parquet(root / "items" / f"{unit}.parquet", "items", rows, unit=unit)
    as_lines = [
        time_text(row, "updated_at") | {"item_id": "line-" + row["item_id"]}
        for row in known_items()
        if row["item_id"] and row["attributes"] != []  # which is no object
    ]
    as_lines += [item(f"time-{n}", updated_at=text) for n, text in enumerate(TIME_TEXTS)]
    as_lines += [item("number", brand=10**500, updated_at="2026-11-01T00:00:00Z")]
    write_lines(root / "items" / "odd.jsonl", as_lines)
    for day in DAYS[:1]:  # the rules know no other day
        folder = root / "click_log" / f"dt={day}"
        write_parquet(folder / "odd.parquet", "click_log", known_events(day) + drawn_events)
        lines = [time_text(row, "event_time") for row in known_events(day)]
        lines = [row | {"request_id": f"line-{n}"} for n, row in enumerate(lines)]
        lines += [event(10_000 + n, day, event_time=f"{day}T12:00:00Z", position=p) for n, p in enumerate(BIG_NUMBERS)]
        lines += [event(20_000 + n, day, event_time=text) for n, text in enumerate(TIME_TEXTS)]
        write_lines(folder / "odd.jsonl", lines)


def rows(artifact: Artifact, table: str) -> list[dict[str, Any]]:
    return [row for file in artifact.files(table) for row in pq.read_table(file).to_pylist()]


def healthy(outputs: dict[str, Artifact]) -> dict[str, list[str]]:
    """What became of the healthy rows, in order."""
    ids, queries = (
        {row["item_id"] for row in tiny_items()},
        {e["query"].lower() for d in DAYS for e in tiny_events(d, tiny_items())[0]},
    )
    return {
        "catalogue": sorted(str(row) for row in rows(outputs["prepare-items"], "catalogue") if row["item_id"] in ids),
        "pictures": sorted(str(row) for row in rows(outputs["prepare-items"], "pictures") if row["item_id"] in ids),
        "clicks": sorted(
            str({k: v for k, v in row.items() if k != "weight"})  # which all clicks together decide
            for row in rows(outputs["extract-clicks"], "clicks")
            if row["query"] in queries
        ),
    }


def foretold(root: Path) -> dict[str, Counter[str]]:
    """Source → reason → rows that `smar shop check` says end in quarantine."""
    check = check_shop(ShopInputs(root), CheckBounds(), TextForms(normalise=normalise_query, visible=visible_text))
    assert check.items
    by_day = [reason for day in check.days for reason in day.reasons]
    return {
        "items": Counter({reason.name: reason.rows for reason in check.items.reasons}),
        "click_log": sum((Counter({reason.name: reason.rows}) for reason in by_day), Counter()),
    }


@pytest.fixture(scope="module")
def outcome(
    tiny_data: Path, tmp_path_factory: pytest.TempPathFactory, spark: SparkSession
) -> Iterator[dict[str, list[str]]]:
    """The healthy rows of a shop that has no others."""
    home = tmp_path_factory.mktemp("hostile")
    take_over(tiny_data, home, *STAGES[:2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(home))
        spark.conf.unset("spark.sql.mapKeyDedupPolicy")
        yield healthy(run_stages(tiny_run(write_tiny_shop(home / "healthy"), name="healthy"), *STAGES[:2]))


# One example has many rows: each costs three Spark jobs, and so would each step of making a failing one smaller.
@settings(
    max_examples=1,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(drawn_items=st.lists(items, min_size=30, max_size=30), drawn_events=st.lists(events, min_size=30, max_size=30))
def test_no_row_ends_a_job(
    outcome: dict[str, list[str]],
    spark: SparkSession,
    tmp_path_factory: pytest.TempPathFactory,
    drawn_items: list[dict[str, Any]],
    drawn_events: list[dict[str, Any]],
) -> None:
    root = write_tiny_shop(tmp_path_factory.mktemp("shop"))
    write_pictures(root, {})
    add_hostile_rows(root, drawn_items, drawn_events)
    # A statement of generate-queries sets it for the session, which tests share; a job has one of its own.
    spark.conf.unset("spark.sql.mapKeyDedupPolicy")
    outputs = run_stages(tiny_run(root, name=root.name), *STAGES)
    assert healthy(outputs) == outcome
    items_made, log = outputs["prepare-items"].metrics, outputs["extract-clicks"].metrics
    reasons = {
        source: Counter(
            {r["reason"]: r["rows"] for r in rows(outputs[stage], "quarantine_counts") if r["source"] == source}
        )
        for source, stage in (
            ("items", "prepare-items"),
            ("pictures", "prepare-items"),
            ("click_log", "extract-clicks"),
        )
    }
    assert foretold(root) == {source: reasons[source] for source in ("items", "click_log")}, (
        "smar shop check foretells it"
    )
    assert set(reasons["items"]) <= ITEM_REASONS and set(reasons["click_log"]) <= LOG_REASONS
    assert reasons["pictures"].keys() <= {"missing_file", "undecodable", "too_large", "unreachable"}
    assert items_made["items"] + items_made["items_quarantined"] == items_made["items_in"]
    assert log["rows_kept"] + log["rows_quarantined"] == log["rows_in"]
    catalogue = {row["item_id"]: row for row in rows(outputs["prepare-items"], "catalogue")}
    twice = [name for name, row in catalogue.items() if dict(row["attributes"]).get("colour") == "red, crimson"]
    assert len(twice) == 2 and sum(name.startswith("line-") for name in twice) == 1, "as Parquet and as JSON lines"
    assert {"ms-3", "ns-3", "number"} <= catalogue.keys() and "ms-1" not in catalogue
    assert all("\0" not in name and len(name) <= 256 for name in catalogue)
    assert outputs["generate-queries"].metrics["synthetic_queries"] > 0


def test_a_page_that_is_damaged_is_named_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its footer is whole, so that nothing but reading tells."""
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    root = write_tiny_shop(tmp_path / "a shop")
    content = bytearray((root / "items.parquet").read_bytes())
    content[4:200] = bytes(196)
    (root / "items.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"^/\S*/a shop/items\.parquet: cannot be read \(.+\); write it again$"):
        run_stages(tiny_run(root), "prepare-items")
    assert published("prepare-items") == (set(), set())


@pytest.mark.parametrize(
    ("statement", "condition"),
    [
        ("SELECT CAST(concat('x', id) AS INT) FROM range(3)", "CAST_INVALID_INPUT"),
        ("SELECT CAST(id + 3000000000 AS INT) FROM range(3)", "CAST_OVERFLOW"),
        ("SELECT 9223372036854775807 + id FROM range(3)", "ARITHMETIC_OVERFLOW"),
        ("SELECT 1 DIV id FROM range(3)", "DIVIDE_BY_ZERO"),
        ("SELECT map('a', id, left('ab', 1 + id), id) FROM range(1)", "DUPLICATED_MAP_KEY"),
        ("SELECT from_json('[', 'a INT', map('mode', 'FAILFAST')), id FROM range(3)", "MALFORMED_RECORD_IN_PARSING"),
    ],
    ids=lambda text: text if text.isupper() else "",
)
def test_a_value_that_spark_cannot_work_with_is_bad_input(
    statement: str, condition: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark: SparkSession
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    spark.conf.unset("spark.sql.mapKeyDedupPolicy")
    run = tiny_run(tmp_path / "shop")
    context = StageContext(stage=STAGES_BY_NAME["prepare-items"], run=run, inputs={}, folder=tmp_path, key="0" * 64)
    with pytest.raises(InputError) as error, spark_session(context) as session:
        session.sql(statement).collect()
    message = str(error.value)
    assert "\n" not in message and condition in message and str(tmp_path / "shop") in message


def test_failures_of_the_machine_are_not_the_input_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    short = "Job aborted: java.lang.OutOfMemoryError: Java heap space"
    assert isinstance(name_failure(short, "prepare-items", tmp_path), NoAnswer)
    full = name_failure("java.io.IOException: No space left on device", "prepare-items", tmp_path)
    assert isinstance(full, OSError) and full.errno == errno.ENOSPC
    stale = "[FAILED_READ_FILE.NO_HINT] Encountered error while reading file file:///a.parquet.  SQLSTATE: KD001\n"
    assert name_failure(stale + "Caused by: java.io.IOException: Input/output error", "prepare-items", tmp_path) is None
    assert name_failure("[PARSE_SYNTAX_ERROR] Syntax error at or near 'x'. SQLSTATE: 42601", "s", tmp_path) is None
