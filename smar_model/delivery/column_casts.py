"""Columns as shops store them → columns as the contract has them, where nothing is lost by it.

`plan_columns` looks at the schema of a Parquet file and says, for each column of the contract, how it is stored, how it is
read, and by which conversion. Values of JSON lines go by the same rules (`text_of`, `whole_number`, `time_of`). Jobs, checks
and whoever else reads what shops deliver read it through here (`delivered_tables.py`).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from smar_model.delivery.times import NoZoneError, parse_time
from smar_model.lake.contracts import Column, Contract


@dataclass(frozen=True, slots=True)
class BadValue:
    """A value that is none of the column's type; null stands in its place."""

    row: int
    """In the array."""
    found: str
    out_of_range: bool = False
    """It is a number, which the type is too small for: jobs take it for an empty one."""


BadValues = list[BadValue]
Convert = Callable[[pa.Array, BadValues], pa.Array]
INTEGERS = {f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (32, 64)}
NO_ZONE = (
    "says no zone, so nobody knows when it was; write the zone with each time (2026-11-19T12:00:00Z), or name the one "
    "that all of them are in: `time_zone: Europe/Berlin` in shop.yaml in the shop's folder, or in the section `shop` of the settings"
)
_UTC = pa.timestamp("us", tz="UTC")
_YEARS = (-62_135_596_800_000_000, 253_402_300_799_999_999)
"""Microseconds since 1970 of the first moment of the year 1 and of the last one of 9999."""
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_LONGEST_SHOWN = 40


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """How one column of the contract is read from a file."""

    column: Column
    stored: str | None
    """Type in the file, as people read it; None: the column is absent, and null in every row."""
    convert: Convert | None
    """None: it is stored as the contract has it."""
    in_spark: bool = False
    """Whether Spark's own reader of Parquet gives the same, so that nothing needs to be converted for it."""
    note: str = ""
    """What was assumed: the zone of its times."""

    def __str__(self) -> str:
        if self.stored is None:
            return f"{self.column.name} is absent, read as empty"
        return f"{self.column.name} is {self.stored}, read as {self.column.type}{self.note and f' ({self.note})'}"


def plan_columns(
    schema: pa.Schema, contract: Contract, zone: ZoneInfo | None, *, utc_by_kind: Iterable[str] = ()
) -> tuple[list[ColumnPlan], list[str]]:
    """How each column of the contract is read, in the contract's order, and what stands against it, one phrase a column.

    Args:
        zone: of times that say none.
        utc_by_kind: columns whose times are UTC by the way they are stored (Parquet's INT96).
    """
    plans, problems = [], []
    for column in contract.columns:
        if schema.names.count(column.name) > 1:
            problems.append(f"column {column.name} is there {schema.names.count(column.name)} times")
        elif column.name in schema.names:
            kind = schema.field(column.name).type
            if column.name in utc_by_kind and pa.types.is_timestamp(kind):
                plans.append(
                    ColumnPlan(
                        column, "INT96 times", partial(_zoned_times, zone=ZoneInfo("UTC")), True, "UTC, as Spark writes"
                    )
                )
                continue
            plan = _plan_column(column, kind, zone)
            if isinstance(plan, str):
                problems.append(plan)
            else:
                plans.append(plan)
        elif column.nullable:
            plans.append(ColumnPlan(column, None, None, in_spark=True))
        else:
            problems.append(missing_column(column, schema.names, contract))
    return plans, problems


def missing_column(column: Column, names: list[str], contract: Contract) -> str:
    known = {c.name for c in contract.columns}
    by_letters = {_letters(name): name for name in names if name not in known}
    close = difflib.get_close_matches(_letters(column.name), by_letters, n=1, cutoff=0.75)
    there = f"; the file has {by_letters[close[0]]!r}, did you mean that? Rename it" if close else ""
    return f"column {column.name} is missing (expected {column.type}){there}"


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _plan_column(column: Column, kind: pa.DataType, zone: ZoneInfo | None) -> ColumnPlan | str:
    wrong = f"column {column.name} is {_shown(kind)}, expected {column.type}"
    if pa.types.is_null(kind):
        if column.nullable:
            return ColumnPlan(column, "empty in every row", _nulls_of(_arrow(column.type)))
        return f"{wrong}: it is empty in every row"
    if column.type == "string":
        if pa.types.is_string(kind):
            return ColumnPlan(column, "string", None, in_spark=True)
        convert = _to_text(kind)
        if convert is None:
            return f"{wrong}: {_in_place_of_text(kind)}"
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        return ColumnPlan(column, _shown(kind), convert, in_spark=_is_text(plain))
    if column.type == "timestamp":
        return _plan_times(column, kind, zone, wrong)
    if column.type in INTEGERS:
        return _plan_integers(column, kind, wrong)
    if column.type == "list<string>":
        return _plan_texts(column, kind, wrong)
    if column.type == "map<string,string>":
        return _plan_map(column, kind, wrong)
    raise ValueError(f"no rule for {column.type} in a delivered table")  # a contract that nobody delivers by


def _arrow(name: str) -> pa.DataType:
    kinds = {"string": pa.string(), "timestamp": _UTC, "int32": pa.int32(), "int64": pa.int64()}
    kinds |= {"list<string>": pa.list_(pa.string()), "map<string,string>": pa.map_(pa.string(), pa.string())}
    return kinds[name]


def _shown(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind) and kind.tz is None:
        return f"{kind} without zone"
    if pa.types.is_dictionary(kind):
        return f"dictionary of {kind.value_type}"
    return str(kind) if len(str(kind)) < 200 else f"{str(kind)[:200]}…"


def _in_place_of_text(kind: pa.DataType) -> str:
    if pa.types.is_nested(kind):
        return "a list or object where one text is expected; write one value a row"
    return "write it as text"


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _nulls_of(kind: pa.DataType) -> Convert:
    return lambda array, _: pa.nulls(len(array), kind)


# Text


def text_of(value: Any) -> str | None:
    """One value as text: NaN is empty, a whole float is that integer, a truth value is `true` or `false`.

    Raises:
        ValueError: a list or an object stands where one text is expected.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | UUID):
        return str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 2**63 else str(value)
    if isinstance(value, Decimal):
        return str(int(value)) if value == value.to_integral_value() else format(value, "f")
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, datetime | date):
        return value.isoformat()
    raise ValueError("a list or object where one text is expected")


def _to_text(kind: pa.DataType) -> Convert | None:
    """How to turn values of a type into text; None: nothing of the kind is one text."""
    if pa.types.is_dictionary(kind):
        inner = _to_text(kind.value_type)
        return inner and (lambda array, bad: inner(array.dictionary_decode(), bad))
    if _is_text(kind):
        return lambda array, _: array if pa.types.is_string(array.type) else array.cast(pa.string())
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return lambda array, _: array.cast(pa.string())
    if pa.types.is_floating(kind):
        return _floats_to_text
    if pa.types.is_null(kind):
        return _nulls_of(pa.string())
    of_values = (pa.types.is_decimal, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    if any(is_kind(kind) for is_kind in of_values) or isinstance(kind, pa.UuidType):
        return _values_to_text
    return None


def _floats_to_text(array: pa.Array, bad: BadValues) -> pa.Array:
    numbers = array.cast(pa.float64())
    whole = pc.fill_null(pc.and_(pc.equal(pc.floor(numbers), numbers), pc.less(pc.abs(numbers), 2.0**63)), True)
    is_empty = pc.fill_null(pc.is_nan(numbers), False)
    if pc.all(pc.or_(whole, is_empty)).as_py() in (True, None):
        return pc.if_else(is_empty, pa.scalar(None, pa.float64()), numbers).cast(pa.int64()).cast(pa.string())
    return _values_to_text(array, bad)


def _values_to_text(array: pa.Array, bad: BadValues) -> pa.Array:
    texts: list[str | None] = []
    for row, value in enumerate(array.to_pylist()):
        try:
            texts.append(text_of(value))
        except UnicodeDecodeError:
            bad.append(BadValue(row, "bytes that are no UTF-8"))
            texts.append(None)
    return pa.array(texts, pa.string())


def valid_text(array: pa.Array) -> pa.Array:
    """Text with U+FFFD for what is not UTF-8, for which Parquet does not vouch, and without NUL characters."""
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        decoded = [v if v is None else v.decode("utf-8", "replace") for v in array.cast(pa.binary()).to_pylist()]
        array = pa.array(decoded, pa.string())
    has_nul = pc.any(pc.match_substring(array, "\0")).as_py()
    return pc.replace_substring(array, "\0", "") if has_nul else array


# Numbers


def whole_number(value: Any, name: str) -> int | None:
    """A whole number within `int32` or `int64`.

    Raises:
        ValueError: it is none, or out of the range of its type.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if not is_number or value % 1 > 0:
        raise ValueError(f"{str(value)[:_LONGEST_SHOWN]!r} is no {name}")
    least, most = INTEGERS[name]
    if not least <= value <= most:
        raise OverflowError(f"{str(value)[:_LONGEST_SHOWN]} is out of the range of {name}")
    return int(value)


def _plan_integers(column: Column, kind: pa.DataType, wrong: str) -> ColumnPlan | str:
    wanted = _arrow(column.type)
    if kind == wanted:
        return ColumnPlan(column, str(kind), None, in_spark=True)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return ColumnPlan(column, _shown(kind), partial(_to_integers, name=column.type))
    return f"{wrong}: write it as whole numbers"


def _to_integers(array: pa.Array, bad: BadValues, name: str) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    try:
        if not pa.types.is_floating(array.type):
            return array.cast(_arrow(name))
        return pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array).cast(_arrow(name))
    except pa.ArrowInvalid:
        return _each(array.to_pylist(), bad, partial(whole_number, name=name), _arrow(name))


def _each(values: list[Any], bad: BadValues, convert: Callable[[Any], Any], kind: pa.DataType) -> pa.Array:
    converted: list[Any] = []
    for row, value in enumerate(values):
        try:
            converted.append(convert(value))
        except (ValueError, OverflowError) as error:
            bad.append(BadValue(row, str(error), isinstance(error, OverflowError)))
            converted.append(None)
    return pa.array(converted, kind)


# Times


def time_of(text: str, zone: ZoneInfo | None) -> datetime:
    """A time as text, as `parse_time` reads it.

    Raises:
        ValueError: it says no zone and `zone` is None, or it is no time.
    """
    try:
        return parse_time(text, zone=zone)
    except NoZoneError:
        raise NoZoneError(f"the time {text.strip()[:_LONGEST_SHOWN]!r} {NO_ZONE}") from None


def _plan_times(column: Column, kind: pa.DataType, zone: ZoneInfo | None, wrong: str) -> ColumnPlan | str:
    assumed = f"{zone.key} by time_zone" if zone else ""
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        plain = kind == _UTC
        spark = kind.unit in ("us", "ms", "ns")
        return ColumnPlan(column, str(kind), None if plain else _utc_times, in_spark=spark)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        if zone is None:
            return f"{wrong}: {'a day alone' if pa.types.is_date(kind) else 'it'} {NO_ZONE}"
        return ColumnPlan(column, _shown(kind), partial(_zoned_times, zone=zone), note=assumed)
    if _is_text(kind) or (pa.types.is_dictionary(kind) and _is_text(kind.value_type)):
        return ColumnPlan(column, f"{_shown(kind)} with times as text", partial(_text_times, zone=zone), note=assumed)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return f"{wrong}: a number does not say its unit; write it as a timestamp with a zone, or as text (2026-11-19T12:00:00Z)"
    return f"{wrong}: write it as a timestamp with a zone"


def _utc_times(array: pa.Array, _: BadValues) -> pa.Array:
    """Times of any zone and unit; what microseconds cannot hold is null, and what they are too coarse for is cut."""
    unit = array.type.unit
    if unit in ("s", "ms"):
        most = (2**63 - 1) // (1_000_000 // _PER_SECOND[unit])
        ticks = array.cast(pa.timestamp(unit)).cast(pa.int64())
        fits = pc.and_(pc.less_equal(ticks, most), pc.greater_equal(ticks, -most))
        array = pc.if_else(fits, array, pa.scalar(None, array.type))
    return array.cast(_UTC, safe=False)


def _zoned_times(array: pa.Array, _: BadValues, zone: ZoneInfo) -> pa.Array:
    """Times that say no zone; one that a clock shows twice is the earlier, one that it skips the next that it shows."""
    naive = _utc_times(array.cast(pa.timestamp("ms")) if pa.types.is_date(array.type) else array, []).cast(pa.int64())
    naive = pc.if_else(
        pc.and_(pc.greater_equal(naive, _YEARS[0]), pc.less_equal(naive, _YEARS[1])), naive, pa.scalar(None, pa.int64())
    )
    if zone.key == "UTC":
        return naive.cast(_UTC)
    clock = pd.DatetimeIndex(
        naive.to_numpy(zero_copy_only=False).astype("datetime64[us]")
        if not naive.null_count
        else pd.array(naive.cast(pa.timestamp("us")).to_pandas())
    )
    zoned = clock.as_unit("us").tz_localize(
        zone, ambiguous=np.ones(len(clock), dtype=bool), nonexistent="shift_forward"
    )
    return pa.array(zoned.tz_convert("UTC"), _UTC, from_pandas=True)


def _text_times(array: pa.Array, bad: BadValues, zone: ZoneInfo | None) -> pa.Array:
    return times_of(_to_text(array.type)(array, bad), bad, zone)  # type: ignore[misc]


def times_of(texts: pa.Array, bad: BadValues, zone: ZoneInfo | None) -> pa.Array:
    """Times as text; white space alone is empty."""
    try:
        return texts.cast(_UTC)  # ISO 8601 with a zone each, which is most
    except pa.ArrowInvalid:

        def read(text: str | None) -> datetime | None:
            if text is None or not text.strip():
                return None
            try:
                return time_of(text, zone)
            except NoZoneError:
                raise
            except ValueError:
                raise ValueError(f"{text[:_LONGEST_SHOWN]!r} is no time") from None

        return _each(texts.to_pylist(), bad, read, _UTC)


# Lists and maps


def _plan_texts(column: Column, kind: pa.DataType, wrong: str) -> ColumnPlan | str:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_list_view, pa.types.is_large_list_view)
    if not any(is_list(kind) for is_list in lists) and not pa.types.is_fixed_size_list(kind):
        return f"{wrong}: write a list, if of one name"
    convert = _to_text(kind.value_type)
    if convert is None:
        return f"{wrong}: {_in_place_of_text(kind.value_type)}"
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        return ColumnPlan(column, "list<string>", None, in_spark=True)
    plain = kind.value_type.value_type if pa.types.is_dictionary(kind.value_type) else kind.value_type
    return ColumnPlan(column, _shown(kind), _lists_to_texts, in_spark=_is_text(plain))


def _lists_to_texts(array: pa.Array, bad: BadValues) -> pa.Array:
    return _each(
        array.to_pylist(),
        bad,
        lambda row: None if row is None else [text_of(part) for part in row],
        pa.list_(pa.string()),
    )


def _plan_map(column: Column, kind: pa.DataType, wrong: str) -> ColumnPlan | str:
    pairs = _pair_of_fields(kind)
    if pa.types.is_map(kind):
        if pa.types.is_string(kind.key_type) and pa.types.is_string(kind.item_type):
            return ColumnPlan(column, "map<string,string>", None, in_spark=True)
        inner, entries = [kind.key_type, kind.item_type], _entries_of_map
    elif pairs:
        inner, entries = [kind.value_type.field(name).type for name in pairs], partial(_entries_of_pairs, names=pairs)
    elif pa.types.is_struct(kind):
        inner, entries = [field.type for field in kind], _entries_of_object
        if nested := [field.name for field in kind if _to_text(field.type) is None]:
            return f"{wrong}: {nested[0]} in it has {_in_place_of_text(kind.field(nested[0]).type)}"
    else:
        return f"{wrong}: write a map, or a struct of texts"
    if any(_to_text(part) is None for part in inner):
        return f"{wrong}: a list or object where one text is expected"
    stored = f"a struct of {len(inner)} fields" if pa.types.is_struct(kind) else _shown(kind)
    return ColumnPlan(column, stored, partial(_to_map, entries=entries))


def _pair_of_fields(kind: pa.DataType) -> tuple[str, str] | None:
    """Names of key and value where a map is stored as a list of pairs, as polars does."""
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_struct(kind.value_type):
        names = {field.name for field in kind.value_type}
        return next((p for p in (("key", "value"), ("name", "value")) if names == set(p)), None)
    return None


def _entries_of_map(row: Any) -> Iterable[tuple[Any, Any]]:
    return row


def _entries_of_object(row: Any) -> Iterable[tuple[Any, Any]]:
    return row.items()


def _entries_of_pairs(row: Any, names: tuple[str, str]) -> Iterable[tuple[Any, Any]]:
    return ((pair[names[0]], pair[names[1]]) for pair in row if pair is not None and pair[names[0]] is not None)


def _to_map(array: pa.Array, bad: BadValues, entries: Callable[[Any], Iterable[tuple[Any, Any]]]) -> pa.Array:
    def convert(row: Any) -> list[tuple[str | None, str | None]] | None:
        if row is None:
            return None
        texts = ((text_of(name), text_of(value)) for name, value in entries(row))
        return [(name, value) for name, value in texts if name is not None and value is not None]

    return _each(array.to_pylist(), bad, convert, pa.map_(pa.string(), pa.string()))
