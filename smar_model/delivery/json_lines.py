"""Tables delivered as JSON lines: one object a line, `.jsonl` or `.jsonl.gz`, UTF-8; times as ISO 8601.

A line that is no object, or whose value has another type than the contract says, is refused by file and line number.
What the line holds is not repeated: a log's lines have people in them. Values of the right type that no table can hold
(a number out of range, the 30th of February, half of a surrogate pair) are mended where a job has rules for rows, and
refused likewise where a table is read whole.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from smar_model.errors import InputError
from smar_model.lake.contracts import Contract

LONGEST_TEXT = 200_000
"""Characters that are kept of a text that Spark's reader does not take for its length; every job's rules refuse shorter ones."""
LONGEST_NUMBER = 400
"""Digits; more are infinite."""
_INTEGERS = {f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (32, 64)}
_LIKE_A_TIME = re.compile(r"[-+]?[0-9][-+0-9T:.,WZ ]*|\s*")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


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
    rows = []
    for number, line in iterate_lines(file):
        row = _parse(line, file, number, contract)
        if wrong := [
            c for c in contract.columns if row.get(c.name) is not None and not _is_in_range(row[c.name], c.type)
        ]:
            problems = "; ".join(f"{column.name} is out of the range of {column.type}" for column in wrong)
            raise InputError(f"{file}: line {number} does not fit schemas/{contract.table}.yaml: {problems}")
        rows.append({c.name: _mended(row.get(c.name), c.type) for c in contract.columns})
    return pa.Table.from_pylist(rows, schema=schema)


def refuse_lines(file: Path, contract: Contract) -> None:
    """Look for a line that `mend_line` cannot mend.

    Raises:
        InputError: names the first line that does not fit the contract.
    """
    for number, line in iterate_lines(file):
        # As Spark reads it, which has U+FFFD in the place of what is not UTF-8.
        _parse(line.decode("utf-8", "replace"), file, number, contract)


def mend_line(line: str, contract: Contract) -> str:
    """A line of which Spark's reader makes no row, with values that it takes: numbers at the end of their range, no time where
    it cannot be one, texts cut at LONGEST_TEXT. `refuse_lines` has passed it.
    """
    row = json.loads(line.removeprefix("\ufeff"), parse_int=_parse_int)
    return json.dumps({c.name: _mended(row.get(c.name), c.type) for c in contract.columns})


def _parse(line: bytes | str, file: Path, number: int, contract: Contract) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_int=_parse_int)
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


def _parse_int(digits: str) -> int | float:
    return int(digits) if len(digits) <= LONGEST_NUMBER else float(digits)


def _fits(value: object, kind: str) -> bool:
    if kind == "timestamp":
        return _time(value) is not None or bool(_LIKE_A_TIME.fullmatch(str(value)))
    if kind == "string":  # numbers do as keys
        return isinstance(value, str | int | float)
    if kind.startswith(("list", "map")):
        return isinstance(value, list if kind.startswith("list") else dict)
    if kind.startswith("float"):
        return isinstance(value, int | float)
    if kind == "bool":
        return isinstance(value, bool)
    # Some writers know one kind of number alone: 3.0 is 3.
    return isinstance(value, int | float) and not isinstance(value, bool) and not value % 1 > 0


def _is_in_range(value: Any, kind: str) -> bool:
    if kind not in _INTEGERS:
        return True
    least, most = _INTEGERS[kind]
    return least <= value <= most


def _time(value: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(value))
    except ValueError:
        return None


def _mended(value: Any, kind: str) -> Any:
    """A value that fits the type as one that a table holds."""
    if value is None:
        return None
    if kind == "string":
        return _text(value)
    if kind.startswith("list"):
        return [_text(part) for part in value]
    if kind.startswith("map"):
        return {_text(name): _text(part) for name, part in value.items()}
    if kind == "timestamp":
        time = _time(value)
        return time and time.isoformat()
    if kind in _INTEGERS:
        least, most = _INTEGERS[kind]
        return int(min(max(value, least), most)) if value == value else None
    return value


def _text(value: Any) -> str | None:
    if value is None:
        return None
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return None
    return _LONE_SURROGATE.sub("\ufffd", text[:LONGEST_TEXT])
