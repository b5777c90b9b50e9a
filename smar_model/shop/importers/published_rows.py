"""Rows of published files, one at a time: separated values, Parquet and JSON lines, and where each row stands.

Every reader yields `(where, row)`: `where` names file and row for messages, as in `label.csv row 17` (lines of a text
file from 1, its header included; rows of a Parquet file from 1), `row` is column → value. Text files may be packed
with gzip (`.gz`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smar_model.errors import InputError
from smar_model.lake.contracts import read_parquet_schema
from smar_model.shop.importers.delimited_text import Row, Rows, separated_rows
from smar_model.shop.importers.text_files import UTF8, text_lines

__all__ = [
    "Row",
    "Rows",
    "find_file",
    "json_rows",
    "parquet_rows",
    "refuse_missing_columns",
    "require",
    "separated_rows",
]

_PARQUET_BATCH = 10_000
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parquet_rows(path: Path, needed: Mapping[str, str]) -> Rows:
    """Rows of a Parquet file with the columns of `needed` (name → `text`, `integer` or `any`).

    Raises:
        InputError: a column is missing or of another type, or the file is damaged.
    """
    schema = refuse_missing_columns(path, needed)
    for name, kind in needed.items():
        if not _is(kind, schema.field(name).type):
            raise InputError(f"{path}: column {name} is {schema.field(name).type}, expected {kind}")
    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(_PARQUET_BATCH, columns=list(needed)):
            for row in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", row
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} row {number + 1} or a later one: text that is not UTF-8 ({error.reason}); correct or remove the row"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} row {number + 1}: damaged ({error}); download or copy it again") from None


def refuse_missing_columns(path: Path, needed: Iterable[str]) -> pa.Schema:
    """Schema of a Parquet file that has the columns.

    Raises:
        InputError: one is missing, or the file is damaged.
    """
    schema = read_parquet_schema(path)
    if missing := [name for name in needed if name not in schema.names]:
        raise InputError(f"{path}: no column {', '.join(missing)}; it has {', '.join(schema.names)}")
    return schema


def json_rows(path: Path, encoding: str = UTF8) -> Rows:
    """Objects of a file of JSON lines; NaN and Infinity are numbers, as many writers take them for such.

    Raises:
        InputError: a line is not a JSON object.
    """
    for number, line in enumerate(text_lines(path, encoding), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # also a number of thousands of digits
            raise InputError(f"{path} row {number}: not JSON ({error}); correct or remove the row") from None
        if _ESCAPED_SURROGATE.search(line) and _has_lone_surrogate(row):
            raise InputError(
                f"{path} row {number}: half of a surrogate pair (\\ud800 to \\udfff); correct or remove the row"
            )
        if not isinstance(row, dict):
            raise InputError(f"{path} row {number}: not a JSON object; correct or remove the row")
        yield f"{path} row {number}", row


def _has_lone_surrogate(row: Any) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def require(where: str, row: Mapping[str, Any], *columns: str) -> None:
    """Refuse a row in which one of the columns is empty.

    Raises:
        InputError: one is.
    """
    if empty := [name for name in columns if row.get(name) in (None, "")]:
        raise InputError(f"{where}: {', '.join(empty)} is empty; correct or remove the row")


def find_file(folder: Path, *names: str) -> Path:
    """The first of the names that the folder has.

    Raises:
        InputError: it has none.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder}: holds no {' or '.join(names)}; give the folder of the published files, unpacked")


def _is(kind: str, type: pa.DataType) -> bool:
    if pa.types.is_dictionary(type):
        type = type.value_type
    checks = {"text": lambda t: pa.types.is_string(t) or pa.types.is_large_string(t), "integer": pa.types.is_integer}
    return kind == "any" or checks[kind](type)
