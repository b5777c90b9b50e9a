"""Rows of published files, one at a time: separated values, Parquet and JSON lines, and where each row stands.

Every reader yields `(where, row)`: `where` names file and row for messages, as in `label.csv row 17` (lines of a text
file from 1, its header included; rows of a Parquet file from 1), `row` is column → value. Text files may be packed
with gzip (`.gz`).
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from smar_model.errors import InputError
from smar_model.lake.contracts import read_parquet_schema

Row = dict[str, Any]
"""Column → value, of whatever type the file has."""
Rows = Iterator[tuple[str, Row]]

LONGEST_FIELD = 16 * 2**20
"""Characters; more means that a stray quotation mark has swallowed the rest of the file."""
_PARQUET_BATCH = 10_000
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def text_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file with their ends.

    Raises:
        InputError: the file is missing, cut off or damaged, or not UTF-8; names the row.
    """
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} row {number}: not UTF-8 text; save the file as UTF-8") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the folder that holds the published files, unpacked") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} row {number + 1}: damaged ({error}); download or copy it again") from None


def separated_rows(
    path: Path,
    needed: Sequence[str],
    *,
    delimiter: str = ",",
    quotes: bool = True,
    header: Sequence[str] | None = None,
) -> Rows:
    """Rows of a file of separated values.

    Args:
        needed: columns that must be there.
        quotes: whether a field may be quoted ("a, b"); a quotation mark is a letter like any other where not.
        header: the columns of a file whose first line does not name them; where it does, it is passed over.

    Raises:
        InputError: a column is missing, or a row has another number of fields or a quotation that does not end.
    """
    csv.field_size_limit(LONGEST_FIELD)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    reader = csv.reader(text_lines(path), delimiter=delimiter, quoting=quoting, strict=True)
    names = list(header) if header else None
    while True:
        where = f"{path} row {reader.line_num + 1}"
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{where}: {error}; correct or remove the row") from None
        if fields is None:
            break
        if names is None:
            names = fields
            if missing := [name for name in needed if name not in names]:
                raise InputError(f"{where}: no column {', '.join(missing)}; it has {', '.join(names)}")
        elif fields and fields != names:
            if len(fields) != len(names):
                raise InputError(f"{where}: {len(fields)} fields, expected {len(names)}; correct or remove the row")
            yield where, dict(zip(names, fields, strict=True))
    if names is None:
        raise InputError(f"{path}: empty; download or copy it again")


def parquet_rows(path: Path, needed: Mapping[str, str]) -> Rows:
    """Rows of a Parquet file with the columns of `needed` (name → `text`, `integer` or `any`).

    Raises:
        InputError: a column is missing or of another type, or the file is damaged.
    """
    schema = read_parquet_schema(path)
    if missing := [name for name in needed if name not in schema.names]:
        raise InputError(f"{path}: no column {', '.join(missing)}; it has {', '.join(schema.names)}")
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


def json_rows(path: Path) -> Rows:
    """Objects of a file of JSON lines.

    Raises:
        InputError: a line is not a JSON object.
    """
    for number, line in enumerate(text_lines(path), start=1):
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
