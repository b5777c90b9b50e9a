"""digest_rows: the same rows give the same digest however they lie in files; any change gives another. And digests of delivered files."""

from __future__ import annotations

import os
import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smar_model.lake.digests import digest_raw_files, digest_rows

SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("count", pa.int64()),
        ("share", pa.float64()),
        ("flag", pa.bool_()),
        ("day", pa.date32()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("blob", pa.binary()),
        ("words", pa.list_(pa.string())),
        ("map", pa.map_(pa.string(), pa.string())),
    ]
)


def row(n: int) -> dict[str, Any]:
    return {
        "name": f"row {n}" if n % 7 else None,
        "count": n if n % 5 else None,
        "share": n / 3,
        "flag": bool(n % 2),
        "day": date(2026, 11, 1) + timedelta(days=n % 20),
        "at": datetime(2026, 11, 1, tzinfo=UTC) + timedelta(microseconds=n),
        "blob": bytes([n % 256]) * 3,
        "words": ["a", str(n)],
        "map": [("x", str(n)), ("y", "1")],
    }


def digest(folder: Path, rows: list[dict[str, Any]], *, files: int = 1, schema: pa.Schema = SCHEMA) -> str:
    folder.mkdir(parents=True)
    for n in range(files):
        pq.write_table(pa.Table.from_pylist(rows[n::files], schema=schema), folder / f"{n}.parquet", row_group_size=17)
    return digest_rows(folder.glob("*.parquet"))


ROWS = [row(n) for n in range(100)]


def test_order_files_and_map_order_do_not_matter(tmp_path: Path) -> None:
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    turned = [r | {"map": r["map"][::-1]} for r in ROWS]
    digests = {
        digest(tmp_path / "a", ROWS),
        digest(tmp_path / "b", shuffled),
        digest(tmp_path / "c", shuffled, files=4),
        digest(tmp_path / "d", turned),
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("name", "row 4"),
        ("name", None),
        ("count", 4),
        ("share", 1.0000001),
        ("flag", False),
        ("day", date(2026, 11, 5)),
        ("at", datetime(2026, 11, 1, 0, 0, 0, 4, tzinfo=UTC)),
        ("blob", b"\x03\x03"),
        ("words", ["3", "a"]),
        ("map", [("x", "1"), ("y", "3")]),
    ],
)
def test_one_changed_value_gives_another_digest(column: str, value: Any, tmp_path: Path) -> None:
    changed = [*ROWS[:3], ROWS[3] | {column: value}, *ROWS[4:]]
    assert digest(tmp_path / "a", ROWS) != digest(tmp_path / "b", changed)


def test_rows_are_counted(tmp_path: Path) -> None:
    once, twice, thrice = (digest(tmp_path / str(n), ROWS + [ROWS[0]] * n) for n in (0, 1, 2))
    assert len({once, twice, thrice, digest(tmp_path / "less", ROWS[1:])}) == 4


def test_values_that_change_places_between_rows_or_columns_count(tmp_path: Path) -> None:
    schema = pa.schema([("a", pa.int64()), ("b", pa.int64())])
    tables = (
        [{"a": 1, "b": 2}, {"a": 3, "b": 4}],
        [{"a": 1, "b": 4}, {"a": 3, "b": 2}],
        [{"a": 2, "b": 1}, {"a": 4, "b": 3}],
    )
    digests = {digest(tmp_path / str(n), rows, schema=schema) for n, rows in enumerate(tables)}
    assert len(digests) == 3


def test_names_and_types_of_columns_count(tmp_path: Path) -> None:
    digests = {
        digest(tmp_path / f"{name}-{kind}", [], schema=pa.schema([(name, kind)]))
        for name in ("a", "b")
        for kind in (pa.int32(), pa.int64())
    }
    assert len(digests) == 4


def test_a_delivered_file_replaced_by_one_of_its_size_and_time_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))
    file, other = tmp_path / "items.parquet", tmp_path / "other"
    file.write_bytes(b"red")
    other.write_bytes(b"tan")
    before = digest_raw_files([file], root=tmp_path)
    status = file.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert digest_raw_files([file], root=tmp_path) != before
    file.write_bytes(b"red")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digest_raw_files([file], root=tmp_path) == before
