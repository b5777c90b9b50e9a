"""Tables that are not stored as the contract has them, read by the Spark jobs: the same rows as if they were."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs import spark_session
from jobs.spark_session import read_table
from smar_model.delivery.json_lines import stretches
from smar_model.delivery.shop_check import check_structure
from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.errors import InputError
from tests.tiny_shop import write_pictures, write_rows

WHEN = datetime(2026, 11, 1, 8, tzinfo=UTC)
ROWS: list[dict[str, Any]] = [
    {
        "item_id": str(n),
        "title": f"Straße {n}",
        "category": "Clothing > Shirts",
        "brand": None,
        "attributes": {"colour": "red", "size": str(n)},
        "images": [f"{n}.jpg"],
        "updated_at": WHEN,
        **dict.fromkeys(("price", "currency", "available")),
    }
    for n in (1, 20, 300)
]


def read(
    spark: SparkSession, *files: Path, zone: str | None = None, said: list[str] | None = None
) -> list[dict[str, Any]]:
    frame = read_table(
        spark, "items", files, zone=zone and ZoneInfo(zone), report=[].append if said is None else said.append
    )
    rows = [row.asDict() for row in frame.collect()]
    assert all(row["updated_at"].tzinfo is None for row in rows)
    return sorted((r | {"updated_at": frame_time(r["updated_at"])} for r in rows), key=lambda row: int(row["item_id"]))


def frame_time(value: datetime) -> datetime:
    return value.astimezone(UTC)  # Spark hands out this machine's clock


def test_pandas_polars_and_odd_types(spark: SparkSession, tmp_path: Path) -> None:
    numbers = [row | {"item_id": int(row["item_id"])} for row in ROWS]
    frame = pd.DataFrame(numbers).assign(brand=None, category=lambda f: f["category"].astype("category"))
    frame.to_parquet(tmp_path / "pandas.parquet")
    frame.assign(
        item_id=lambda f: f["item_id"].astype(float),
        updated_at=frame["updated_at"].dt.tz_convert("Asia/Tokyo").dt.as_unit("s"),
    ).to_parquet(tmp_path / "floats.parquet")
    frame.assign(updated_at=frame["updated_at"].dt.tz_convert("Europe/Berlin").dt.tz_localize(None)).drop(
        columns="brand"
    ).to_parquet(tmp_path / "naive.parquet")
    pl.DataFrame(numbers).write_parquet(tmp_path / "polars.parquet")
    as_text = [row | {"updated_at": "2026-11-01 09:00:00 +0100"} for row in numbers]
    pd.DataFrame(as_text).to_parquet(tmp_path / "text.parquet")
    pd.DataFrame([row | {"updated_at": "2026-11-01 08:00:00 UTC", "brand": float("nan")} for row in numbers]).to_json(
        tmp_path / "lines.jsonl", orient="records", lines=True
    )
    for file in sorted(tmp_path.iterdir()):
        said: list[str] = []
        assert read(spark, file, zone="Europe/Berlin", said=said) == ROWS, file.name
        assert len(said) == 1 and said[0].startswith("items, cast without loss: "), file.name
    together = read(
        spark, *tmp_path.iterdir(), write_rows(tmp_path / "plain.parquet", "items", ROWS), zone="Europe/Berlin"
    )
    assert len(together) == 7 * len(ROWS)


def test_what_spark_writes_passes_the_check(spark: SparkSession, tmp_path: Path) -> None:
    """Its times are INT96 unless it is told otherwise."""
    write_pictures(tmp_path, {})
    frame = read_table(spark, "items", [write_rows(tmp_path / "plain.parquet", "items", ROWS)])
    spark.conf.set("spark.sql.parquet.outputTimestampType", "INT96")
    try:
        frame.coalesce(1).write.parquet(str(tmp_path / "items"))
    finally:
        spark.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
    files = ShopInputs(tmp_path).items()
    assert check_structure(ShopInputs(tmp_path), []) == (
        [],
        ["items: updated_at is INT96 times, read as timestamp (UTC, as Spark writes)"],
    )
    assert read(spark, *files) == ROWS


def test_half_a_number_is_refused_by_row_and_one_too_large_is_empty(spark: SparkSession, tmp_path: Path) -> None:
    event = {"event_time": WHEN, "event": "click", "request_id": "r", "session_id": "s", "user_id": "u", "query": "q"}
    folder = tmp_path / "dt=2026-11-01"
    folder.mkdir()
    file = folder / "a.parquet"

    def positions(values: list[float]) -> list[int | None]:
        pd.DataFrame([event | {"item_id": 7, "position": value} for value in values]).to_parquet(file)
        rows = read_table(spark, "click_log", [file], partitioned_below=tmp_path).collect()
        assert {(str(row["dt"]), row["item_id"]) for row in rows} == {("2026-11-01", "7")}
        return [row["position"] for row in rows]

    assert positions([1.0, float("nan"), 2.0**40, 3.0]) == [1, None, None, 3]
    with pytest.raises(Exception, match=r"a\.parquet: row 1: position: '2\.5' is no int32; correct it"):
        positions([1.0, 2.5])


def test_lines_of_a_large_file_are_read_in_parts_and_named_by_their_number(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spark_session, "stretches", lambda file: stretches(file, bytes_each=100))
    file = tmp_path / "items.jsonl"
    lines = [json.dumps(row | {"updated_at": "2026-11-01T08:00:00Z"}) for row in ROWS]
    file.write_text("\n\n".join(lines) + "\n\n")
    assert len(stretches(file, bytes_each=100)) > 4 and read(spark, file) == ROWS
    file.write_text("\n\n".join([*lines, '{"item_id": []}', lines[0]]))
    with pytest.raises(InputError, match=r"items\.jsonl: line 7 does not fit .*item_id is no string: a list or object"):
        read(spark, file)


def test_a_dictionary_of_numbers_and_a_list_of_them(spark: SparkSession, tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    ids = pa.array([1, 20, 300]).dictionary_encode()
    images = pa.array([[1], [20], [300]], pa.large_list(pa.int16()))
    attributes = pa.array([list(row["attributes"].items()) for row in ROWS], pa.map_(pa.string(), pa.large_string()))
    for name, array in (("item_id", ids), ("images", images), ("attributes", attributes)):
        table = table.set_column(table.schema.get_field_index(name), name, array)
    pq.write_table(table, tmp_path / "odd.parquet")
    assert read(spark, tmp_path / "odd.parquet") == [row | {"images": [row["item_id"]]} for row in ROWS]
