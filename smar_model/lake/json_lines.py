"""Tables delivered as JSON lines: one object a line, `.jsonl` or `.jsonl.gz`, UTF-8; times as ISO 8601.

A line that is no object, or whose value has another type than the contract says, is refused by file and line number.
What the line holds is not repeated: a log's lines have people in them.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from smar_model.errors import InputError
from smar_model.lake.contracts import Contract


def is_json_lines(file: Path) -> bool:
    return file.name.endswith((".jsonl", ".jsonl.gz"))


def iterate_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their number from 1.

    Raises:
        InputError: the file is missing, or a `.gz` is damaged.
    """
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if stripped := line.strip():
                    yield number, stripped
    except (OSError, EOFError) as error:
        raise InputError(f"{file}: cannot be read ({error}); write it again") from error


def count_lines(files: Iterable[Path]) -> int:
    return sum(1 for file in files for _ in iterate_lines(file))


def read_json_lines(file: Path, contract: Contract) -> pa.Table:
    """A table that fits in memory; keys that the contract does not know are left out, absent ones are null.

    Raises:
        InputError: names the first line that does not fit.
    """
    schema = pa.schema([field.with_nullable(True) for field in contract.arrow_schema()])
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    rows = []
    for number, line in iterate_lines(file):
        row = _parse(line, file, number, contract)
        rows.append(row | {name: str(row[name]) for name in texts if row.get(name) is not None})
    return pa.Table.from_pylist(rows, schema=schema)


def refuse_line(file: Path, contract: Contract) -> InputError:
    """The error for the first line that does not fit the contract, to be raised."""
    try:
        for number, line in iterate_lines(file):
            _parse(line, file, number, contract)
    except InputError as error:
        return error
    return InputError(f"{file}: a line does not fit schemas/{contract.table}.yaml")


def _parse(line: bytes, file: Path, number: int, contract: Contract) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except UnicodeDecodeError:
        raise InputError(f"{file}: line {number} is not UTF-8; write the file again") from None
    except (json.JSONDecodeError, RecursionError) as error:
        place = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "too deep"
        raise InputError(f"{file}: line {number} is not JSON ({place}); correct it or leave it out") from None
    if not isinstance(row, dict):
        raise InputError(f"{file}: line {number} is not a JSON object; one object a line, with the columns as keys")
    if wrong := [c for c in contract.columns if row.get(c.name) is not None and not _fits(row[c.name], c.type)]:
        problems = "; ".join(f"{column.name} is no {column.type}" for column in wrong)
        raise InputError(f"{file}: line {number} does not fit schemas/{contract.table}.yaml: {problems}")
    return row


def _fits(value: object, kind: str) -> bool:
    if kind == "timestamp":
        try:
            return bool(datetime.fromisoformat(str(value)))
        except ValueError:
            return False
    if kind == "string":  # numbers do as keys
        return isinstance(value, str | int | float)
    if kind.startswith(("list", "map")):
        return isinstance(value, list if kind.startswith("list") else dict)
    if kind.startswith("float"):
        return isinstance(value, int | float)
    return isinstance(value, int) and isinstance(value, bool) == (kind == "bool")
