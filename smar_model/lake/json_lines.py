"""Tables delivered as JSON lines: one object a line, `.jsonl` or `.jsonl.gz`, UTF-8; times as ISO 8601.

A line that is no object, or whose value has another type than the contract says, is refused by file and line number.
What the line holds is not repeated: a log's lines have people in them.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

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
    rows = [_parse(line, file, number) for number, line in iterate_lines(file)]
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        raise refuse_line(file, contract) from None


def refuse_line(file: Path, contract: Contract) -> InputError:
    """The error for the first line that does not fit the contract, to be raised."""
    for number, line in iterate_lines(file):
        try:
            row = _parse(line, file, number)
        except InputError as error:
            return error
        if wrong := [f"{f.name} is no {f.type}" for f in contract.arrow_schema() if not _fits(row.get(f.name), f.type)]:
            return InputError(f"{file}: line {number} does not fit schemas/{contract.table}.yaml: {'; '.join(wrong)}")
    return InputError(f"{file}: a line does not fit schemas/{contract.table}.yaml")


def _parse(line: bytes, file: Path, number: int) -> dict:
    try:
        row = json.loads(line)
    except UnicodeDecodeError:
        raise InputError(f"{file}: line {number} is not UTF-8; write the file again") from None
    except (json.JSONDecodeError, RecursionError) as error:
        place = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "too deep"
        raise InputError(f"{file}: line {number} is not JSON ({place}); correct it or leave it out") from None
    if not isinstance(row, dict):
        raise InputError(f"{file}: line {number} is not a JSON object; one object a line, with the columns as keys")
    return row


def _fits(value: object, kind: pa.DataType) -> bool:
    if value is None:
        return True
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return isinstance(value, str)
    if pa.types.is_map(kind):
        return isinstance(value, dict)
    try:
        pa.array([value], kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return False
    return True
