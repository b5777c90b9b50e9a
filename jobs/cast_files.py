"""Delivered files that Spark's own readers do not read as the contract has them: Python workers read them, by the one reader of
delivered tables, part by part.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from typing import cast
from zoneinfo import ZoneInfo

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import DateType, StructType

from smar_model.delivery.delivered_tables import (
    absent_columns,
    fault_of_value,
    number_casts,
    plan_file,
    read_parquet,
)
from smar_model.delivery.json_lines import LineReader, is_json_lines, iterate_lines, lines_before
from smar_model.delivery.value_casts import BadValue, valid_text
from smar_model.errors import InputError
from smar_model.lake.contracts import Contract
from smar_model.lake.object_paths import AnyPath


@dataclass(frozen=True, slots=True)
class FilePart:
    """What one task reads."""

    file: AnyPath
    row_group: int | None = None
    """Of a Parquet file."""
    start: int = 0
    stop: int | None = None
    """Bytes of JSON lines; None: to the end."""


def read_parts(
    session: SparkSession, contract: Contract, parts: list[FilePart], zone: ZoneInfo | None, *, with_day: bool
) -> DataFrame:
    """The contract's columns; `with_day` adds `dt`, the day that the file's folder names."""
    schema = cast(StructType, StructType.fromDDL(contract.spark_schema()))
    if with_day:
        schema = schema.add("dt", DateType())

    def read(numbers: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number in (n for batch in numbers for n in batch["id"].to_pylist()):
            for batch in _batches(parts[number], contract, zone):
                if with_day:
                    day = date.fromisoformat(parts[number].file.parent.name.removeprefix("dt="))
                    batch = batch.append_column("dt", pa.array([day] * batch.num_rows, pa.date32()))
                yield batch

    tasks = session.range(0, len(parts), 1, numPartitions=max(1, len(parts)))
    return tasks.mapInArrow(read, schema)


def _batches(part: FilePart, contract: Contract, zone: ZoneInfo | None) -> Iterator[pa.RecordBatch]:
    if is_json_lines(part.file):
        lines = iterate_lines(part.file, start=part.start, stop=part.stop)
        batches = LineReader(contract, zone).batches(lines, lambda number, found, mend: None)  # looked at before
    else:

        def on_bad_value(row: int, column: str, value: BadValue) -> None:
            if not value.out_of_range:
                raise InputError(str(fault_of_value(part.file, row, column, value)))

        plan = plan_file(part.file, contract, zone)
        groups = None if part.row_group is None else [part.row_group]
        batches = read_parquet(plan, contract, row_groups=groups, on_bad_value=on_bad_value)
    for batch in batches:
        if batch.num_rows:
            yield batch.from_arrays(
                [valid_text(array) if pa.types.is_string(array.type) else array for array in batch.columns],
                schema=batch.schema,
            )


def check_lines(session: SparkSession, contract: Contract, parts: list[FilePart], zone: ZoneInfo | None) -> list[str]:
    """Look at every line of JSON lines; returns what is cast, one phrase a column.

    Raises:
        InputError: names the first line of the first file that does not fit, or a column that no line of a file has.
    """
    parts = [part for part in parts if is_json_lines(part.file)]
    if not parts:
        return []

    def look(numbers: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number in (n for batch in numbers for n in batch["id"].to_pylist()):
            found = json.dumps(_look_at(parts[number], contract, zone))
            yield pa.RecordBatch.from_pydict({"part": pa.array([number], pa.int64()), "found": [found]})

    tasks = session.range(0, len(parts), 1, numPartitions=len(parts)).mapInArrow(look, "part bigint, found string")
    looks = [json.loads(row["found"]) for row in sorted(tasks.collect(), key=lambda row: row["part"])]
    casts: list[str] = []
    for file, of_file in groupby(zip(parts, looks, strict=True), key=lambda pair: pair[0].file):
        whole = LineReader(contract, zone)
        for part, found in of_file:
            if found["unreadable"]:
                raise InputError(found["unreadable"])
            if found["bad"]:
                number, words, mend = found["bad"]
                raise InputError(f"{file}: line {lines_before(file, part.start) + number} {words}; {mend}")
            whole.filled.update(found["filled"])
            whole.numbers.update(found["numbers"])
            whole.keys.update(found["keys"])
            whole.rows += found["rows"]
        if absent := whole.absent():
            raise InputError(str(absent_columns(file, contract, absent)))
        casts += number_casts(whole)
    return casts


def _look_at(part: FilePart, contract: Contract, zone: ZoneInfo | None) -> dict[str, object]:
    """What a task tells of its lines, for JSON."""
    reader, bad, unreadable = LineReader(contract, zone), list[object](), ""

    def on_bad_line(number: int, found: str, mend: str) -> None:
        if not bad:
            bad.extend((number, found, mend))

    try:
        for _ in reader.batches(iterate_lines(part.file, start=part.start, stop=part.stop), on_bad_line):
            if bad:
                break
    except InputError as error:
        unreadable = str(error)
    return {
        "bad": bad,
        "unreadable": unreadable,
        "filled": reader.filled,
        "numbers": reader.numbers,
        "keys": sorted(reader.keys),
        "rows": reader.rows,
    }
