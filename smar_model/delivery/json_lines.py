"""Tables delivered as JSON lines: one object a line, `.jsonl` or `.jsonl.gz`, UTF-8; times as `parse_time` reads them.

A line that is no object, or whose value has another type than the contract says, is refused by file and line number.
What the line holds is not repeated: a log's lines have people in them. NaN, which pandas writes, is empty; a number is its text
where a text is asked for; a list or an object is not. Values of the right type that no table can hold (a number out of range, the
30th of February, half of a surrogate pair) are mended where a job has rules for rows, and refused likewise where a table is
read whole (`strict`).
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import IO, Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from smar_model.delivery.bounded_reading import LONGEST_LINE, BoundedStream
from smar_model.delivery.column_casts import missing_column
from smar_model.delivery.times import NoZoneError
from smar_model.delivery.value_casts import (
    DECIMAL,
    INTEGERS,
    decimal_number,
    text_of,
    time_of,
    truth_value,
    whole_number,
)
from smar_model.errors import InputError
from smar_model.lake.contracts import Column, Contract
from smar_model.lake.object_paths import AnyPath

LONGEST_TEXT = 200_000
"""Characters that are kept of a text beside which something had to be mended; every job's rules refuse shorter ones."""
LONGEST_NUMBER = 400
"""Digits; more are infinite."""
LINES_AT_ONCE = 8_192
WRITE_TIMES = "write ISO 8601 with a zone (2026-11-19T12:00:00Z)"
_LIKE_A_TIME = re.compile(r"[-+]?[0-9][-+0-9T:.,WZ ]*|\s*")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_NULLABLE = type(None)
_KINDS: dict[type, str] = {bool: "truth value", list: "list", dict: "JSON object"}

OnBadLine = Callable[[int, str, str], None]
"""Called with the line's number from 1, what was found, and how to mend it."""


def is_json_lines(file: AnyPath) -> bool:
    return file.name.endswith((".jsonl", ".jsonl.gz"))


def iterate_lines(file: AnyPath, *, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their number from 1.

    Args:
        start, stop: bytes of a file that is not compressed; lines that begin there are given, numbered from 1 as well.

    Raises:
        InputError: the file is missing, a `.gz` is damaged or unpacks to far more than its size, or a line is too long.
    """
    try:
        with _opened(file) as lines:
            if start:
                lines.seek(start - 1)
                start += len(lines.readline()) - 1
            for number, line in enumerate(iter(partial(lines.readline, LONGEST_LINE + 1), b""), start=1):
                if len(line) > LONGEST_LINE:
                    raise InputError(f"{file}: line {number} has over {LONGEST_LINE:,} bytes; write one object a line")
                if stop is not None and start >= stop:
                    return
                start += len(line)
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if stripped := line.strip():
                    yield number, stripped
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file}: cannot be read ({error}); write it again") from error


@contextmanager
def _opened(file: AnyPath) -> Iterator[IO[bytes]]:
    if file.suffix != ".gz":
        with file.open("rb") as lines:
            yield lines
        return
    with file.open("rb") as packed, gzip.open(packed) as unpacked:
        yield io.BufferedReader(BoundedStream(unpacked, file, file.stat().st_size), 1 << 17)


def count_lines(files: Iterable[AnyPath], *, start: int = 0, stop: int | None = None) -> int:
    return sum(1 for file in files for _ in iterate_lines(file, start=start, stop=stop))


def stretches(file: AnyPath, *, bytes_each: int = 64 << 20) -> list[tuple[int, int | None]]:
    """Parts of a file that can be read beside one another; a compressed one has one part."""
    size = file.stat().st_size
    if file.suffix == ".gz" or size <= bytes_each:
        return [(0, None)]
    return [(start, min(size, start + bytes_each)) for start in range(0, size, bytes_each)]


def lines_before(file: AnyPath, start: int) -> int:
    """Lines that begin before a byte of a file that is not compressed."""
    ends, last = 0, b"\n"
    with file.open("rb") as content:
        while start > 0 and (block := content.read(min(start, 1 << 20))):
            start -= len(block)
            ends, last = ends + block.count(b"\n"), block[-1:]
    return ends + (last != b"\n")


class RepeatedKeys(dict[str, Any]):
    """An object that has a key twice; `pairs` has all of its values."""

    pairs: list[tuple[str, Any]]


def _keep_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    kept = dict(pairs)
    if len(kept) == len(pairs):
        return kept
    repeated = RepeatedKeys(kept)
    repeated.pairs = pairs
    return repeated


def _constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)


def _parse_int(digits: str) -> int | float:
    return int(digits) if len(digits) <= LONGEST_NUMBER else float(digits)


class LineReader:
    """Lines → record batches in the contract's columns; keys that the contract does not know are left out, absent ones are null."""

    def __init__(
        self, contract: Contract, zone: ZoneInfo | None, *, strict: bool = False, checking: bool = False
    ) -> None:
        """
        Args:
            zone: of times that say none.
            strict: refuse what is otherwise mended.
            checking: tell of lines that are not UTF-8 and of keys that are there twice; the lines are kept.
        """
        self.contract, self.zone, self.strict, self.checking = contract, zone, strict, checking
        self.lines: list[int] = []
        """Line numbers of the last batch's rows."""
        self.unread_times: dict[str, tuple[int, int, str]] = {}
        """Column → how many of its texts are no times, and the first one's line and text."""
        self.repeated_keys: tuple[int, int] | None = None
        """How many lines have a key twice, and the first; with `checking` alone."""
        self.filled: Counter[str] = Counter()
        """Column → lines in which it is not empty."""
        self.keys: set[str] = set()
        """Of the lines, until there are 1,000."""
        self.numbers: Counter[str] = Counter()
        """Column → lines that have a number where a text or a time is expected."""
        self.rows = 0
        hook = _keep_pairs if checking or any(c.type.startswith("map") for c in contract.columns) else None
        self._quick = json.JSONDecoder(parse_constant=_constant, object_pairs_hook=hook)
        self._slow = json.JSONDecoder(parse_constant=_constant, object_pairs_hook=hook, parse_int=_parse_int)

    def batches(self, lines: Iterable[tuple[int, bytes]], on_bad_line: OnBadLine) -> Iterator[pa.RecordBatch]:
        """Batches of up to LINES_AT_ONCE lines. A bad line is left out where `on_bad_line` returns."""
        lines = iter(lines)
        while block := list(islice(lines, LINES_AT_ONCE)):
            numbers: list[int] = []
            rows: list[dict[str, Any]] = []
            for number, line in block:
                row = self._parse(number, line, on_bad_line)
                if row is not None:
                    numbers.append(number)
                    rows.append(row)
            if len(self.keys) < 1_000:
                self.keys.update(*rows)
            yield self._batch(numbers, rows, on_bad_line)

    def absent(self) -> list[str]:
        """Once all lines are read: columns that may not be empty and are in each of them, one phrase a column."""
        if not self.rows:
            return []
        phrases = []
        for column in self.contract.columns:
            if column.nullable or self.filled[column.name]:
                continue
            if column.type == "timestamp" and self.numbers[column.name]:
                phrases.append(
                    f"no line has a time in {column.name}: numbers do not say their unit; {WRITE_TIMES}, "
                    "in pandas by `date_format='iso'`"
                )
            elif column.name in self.unread_times:
                phrases.append(f"no line has a time in {column.name}: {self.unread_time(column.name)}")
            elif column.name in self.keys:
                phrases.append(f"no line has {column.name}: it is empty in all of them")
            else:
                hint = missing_column(column, sorted(self.keys), self.contract).partition(";")[2]
                phrases.append(f"no line has {column.name}{hint and ';' + hint}")
        return phrases

    def unread_time(self, column: str) -> str:
        """The first text of a column that is no time, and what to write."""
        count, line, text = self.unread_times[column]
        more = f" (and {count - 1:,} more like it)" if count > 1 else ""
        return f"line {line} has {text!r}, which is no time{more}; {WRITE_TIMES}"

    def _parse(self, number: int, line: bytes, on_bad_line: OnBadLine) -> dict[str, Any] | None:
        try:
            text = self._decode(number, line, on_bad_line)
            try:
                row = self._quick.decode(text)
            except ValueError:
                row = self._slow.decode(text)
        except UnicodeDecodeError:
            on_bad_line(number, "is not UTF-8", "write the file again")
        except (json.JSONDecodeError, RecursionError) as error:
            place = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "too deep"
            if b"\0" in line[:8]:
                on_bad_line(number, "is UTF-16, or no text", "write the file as UTF-8")
            elif line == b"[":
                on_bad_line(number, "begins a list over many lines", "one object a line (in pandas `lines=True`)")
            else:
                on_bad_line(number, f"is not JSON ({place})", "correct it or leave it out")
        else:
            if isinstance(row, dict):
                if self.checking and isinstance(row, RepeatedKeys):
                    count, first = self.repeated_keys or (0, number)
                    self.repeated_keys = (count + 1, first)
                return row
            on_bad_line(number, "is not a JSON object", "one object a line, with the columns as keys")
        return None

    def _decode(self, number: int, line: bytes, on_bad_line: OnBadLine) -> str:
        try:
            return line.decode()
        except UnicodeDecodeError:
            if self.strict:
                raise
            if self.checking and b"\0" not in line[:8]:
                found = "is not UTF-8, so that its letters are lost"
                on_bad_line(number, found, "save the file as UTF-8 (it may be Windows-1252)")
            return line.decode("utf-8", "replace")

    def _batch(self, numbers: list[int], rows: list[dict[str, Any]], on_bad_line: OnBadLine) -> pa.RecordBatch:
        bad: dict[int, list[str]] = {}
        arrays = []
        for column in self.contract.columns:
            values = [row.get(column.name) for row in rows]
            array = _quick_array(values, column.type)
            arrays.append(self._slow_array(values, column, numbers, bad) if array is None else array)
        for place in sorted(bad):
            problems = "; ".join(bad[place])
            on_bad_line(
                numbers[place],
                f"does not fit schemas/{self.contract.table}.yaml: {problems}",
                "correct it or leave it out",
            )
        schema = pa.schema([field.with_nullable(True) for field in self.contract.arrow_schema()])
        batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
        self.lines = [number for place, number in enumerate(numbers) if place not in bad]
        if bad:
            batch = batch.filter(pa.array([place not in bad for place in range(len(rows))], pa.bool_()))
        self.rows += batch.num_rows
        for column, array in zip(self.contract.columns, batch.columns, strict=True):
            self.filled[column.name] += len(array) - array.null_count
        return batch

    def _slow_array(self, values: list[Any], column: Column, numbers: list[int], bad: dict[int, list[str]]) -> pa.Array:
        converted: list[Any] = []
        for place, value in enumerate(values):
            try:
                converted.append(self._convert(value, column))
                if column.type == "timestamp" and converted[-1] is None and isinstance(value, str) and value.strip():
                    count, line, text = self.unread_times.get(column.name, (0, numbers[place], value[:40]))
                    self.unread_times[column.name] = (count + 1, line, text)
            except (ValueError, OverflowError, RecursionError) as error:
                bad.setdefault(place, []).append(str(error))
                converted.append(None)
        return pa.array(converted, self.contract.arrow_schema().field(column.name).type)

    def _convert(self, value: Any, column: Column) -> Any:
        """A value as one that a table holds.

        Raises:
            ValueError: it has another type; or, if `strict`, no table can hold it.
        """
        name, kind = column.name, column.type
        if value is None:
            return None
        if kind == "string":
            if isinstance(value, list | dict):
                raise ValueError(f"{name} is no {kind}: a list or object where one text is expected")
            self.numbers[name] += not isinstance(value, str)
            return _text(value)
        if kind.startswith("list"):
            if not isinstance(value, list):
                raise ValueError(f"{name} is no {kind}")
            return [_part(part, name) for part in value]
        if kind.startswith("map"):
            if not isinstance(value, dict):
                raise ValueError(f"{name} is no {kind}")
            pairs = value.pairs if isinstance(value, RepeatedKeys) else value.items()
            return [(_text(key), _part(part, f"{name}, {key[:60]!r},")) for key, part in pairs]
        if kind == "timestamp":
            return self._time(value, column)
        if kind in INTEGERS:
            return self._integer(value, column)
        if kind == "bool" or DECIMAL.fullmatch(kind):
            try:
                return truth_value(value) if kind == "bool" else decimal_number(value, kind)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return value

    def _time(self, value: Any, column: Column) -> Any:
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.numbers[column.name] += 1
            return None
        try:
            return time_of(value, self.zone) if isinstance(value, str) and value.strip() else _no_time(value)
        except NoZoneError as error:
            raise ValueError(f"{column.name}: {error}") from None
        except ValueError:
            if isinstance(value, str) and _LIKE_A_TIME.fullmatch(value):
                return None  # the 30th of February
            raise ValueError(f"{column.name} is no {column.type}") from None

    def _integer(self, value: Any, column: Column) -> int | None:
        try:
            return whole_number(value, column.type)
        except OverflowError:
            if self.strict:
                raise ValueError(f"{column.name} is out of the range of {column.type}") from None
            least, most = INTEGERS[column.type]
            return int(min(max(value, least), most))
        except ValueError:
            kind = "a number with a fraction" if isinstance(value, float) else f"a {_KINDS.get(type(value), 'text')}"
            raise ValueError(f"{column.name} is no {column.type}: {kind}") from None


def _quick_array(values: list[Any], kind: str) -> pa.Array | None:
    """What most columns are, at the speed of Arrow's own conversion; None: the values want a look each."""
    kinds = set(map(type, values)) - {_NULLABLE}
    try:
        if kind == "string" and kinds <= {str}:
            return pa.array(values, pa.string())
        if kind == "timestamp" and kinds <= {str}:
            return pa.array(values, pa.string()).cast(pa.timestamp("us", tz="UTC"))
        if kind in INTEGERS and kinds <= {int}:
            return pa.array(values, pa.int32() if kind == "int32" else pa.int64())
        if kind == "list<string>" and kinds <= {list}:
            return pa.array(values, pa.list_(pa.string()))
        if kind == "map<string,string>" and kinds <= {dict}:
            pairs = [None if value is None else list(value.items()) for value in values]
            return pa.array(pairs, pa.map_(pa.string(), pa.string()))
    except (pa.ArrowException, UnicodeEncodeError, OverflowError):
        pass
    return None


def _no_time(value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError


def _part(value: Any, name: str) -> str | None:
    try:
        return _text(value)
    except ValueError as error:
        raise ValueError(f"{name} has {error}") from None


def _text(value: Any) -> str | None:
    text = text_of(value)
    return text and _LONE_SURROGATE.sub("\ufffd", text[:LONGEST_TEXT])


def read_json_lines(file: AnyPath, contract: Contract, zone: ZoneInfo | None = None) -> pa.Table:
    """A table that fits in memory; nothing in it is mended. Raises InputError: names the first line that does not fit."""

    def refuse_line(number: int, found: str, mend: str) -> None:
        raise InputError(f"{file}: line {number} {found}; {mend}")

    batches = LineReader(contract, zone, strict=True).batches(iterate_lines(file), refuse_line)
    return pa.Table.from_batches(batches, schema=pa.schema([f.with_nullable(True) for f in contract.arrow_schema()]))
