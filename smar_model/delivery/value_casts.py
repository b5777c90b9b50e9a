"""Values as shops store them → values of a contract's types, array by array: text, whole numbers, times."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from smar_model.delivery.times import NoZoneError, parse_time


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
DECIMAL = re.compile(r"decimal\((\d+),(\d+)\)")
INTEGERS = {f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (32, 64)}
NO_ZONE = (
    "says no zone, so nobody knows when it was; write the zone with each time (2026-11-19T12:00:00Z), or name the one "
    "that all of them are in: `time_zone: Europe/Berlin` in shop.yaml in the shop's folder, or in the section `shop` of the settings"
)
UTC_TIME = pa.timestamp("us", tz="UTC")
_YEARS = (-62_135_596_800_000_000, 253_402_300_799_999_999)
"""Microseconds since 1970 of the first moment of the year 1 and of the last one of 9999."""
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_LONGEST_SHOWN = 40
_DECIMAL_TEXT = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
_BY_ARITHMETIC = Decimal("1e-9")
"""Of a float's own size: what sums and products leave behind its digits."""


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


def text_converter(kind: pa.DataType) -> Convert | None:
    """How to turn values of a type into text; None: nothing of the kind is one text."""
    if pa.types.is_dictionary(kind):
        inner = text_converter(kind.value_type)
        return inner and (lambda array, bad: inner(array.dictionary_decode(), bad))
    if is_text(kind):
        return lambda array, _: array if pa.types.is_string(array.type) else array.cast(pa.string())
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return lambda array, _: array.cast(pa.string())
    if pa.types.is_floating(kind):
        return _floats_to_text
    if pa.types.is_null(kind):
        return nulls_of(pa.string())
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


def to_integers(array: pa.Array, bad: BadValues, name: str) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    try:
        if not pa.types.is_floating(array.type):
            return array.cast(arrow_type(name))
        return pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array).cast(arrow_type(name))
    except pa.ArrowInvalid:
        return each_value(array.to_pylist(), bad, partial(whole_number, name=name), arrow_type(name))


def decimal_number(value: Any, name: str) -> Decimal | None:
    """A number with as many digits after the point as `decimal(P,S)` has; what is beyond its range, as infinity is, is its last number.

    Raises:
        ValueError: it is no number, or has more digits after the point. What a float has beyond them by its arithmetic is rounded.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    shown = str(value)[:_LONGEST_SHOWN]
    is_float = isinstance(value, float | np.floating)
    if isinstance(value, bool) or not (is_float or isinstance(value, int | Decimal | str)):
        raise ValueError(f"{'a truth value' if isinstance(value, bool) else repr(shown)} is no {name}")
    if isinstance(value, str) and not _DECIMAL_TEXT.fullmatch(value.strip()):
        raise ValueError(f"{shown!r} is no number; write it as 1299.95")
    try:
        # By its shortest text: 19.99 as a float is 19.989999…
        number = Decimal(str(value).strip())
    except InvalidOperation:
        raise ValueError(f"{shown!r} is no number; write it as 1299.95") from None
    if number.is_nan():
        return None
    digits, after = decimal_digits(name)
    last = Decimal(10**digits - 1).scaleb(-after)
    if abs(number) > last:
        return last.copy_sign(number)
    rounded = number.quantize(Decimal(1).scaleb(-after))
    allowed = _BY_ARITHMETIC * max(Decimal(1), abs(number)) if is_float else Decimal(0)
    if abs(rounded - number) > allowed:
        raise ValueError(f"{shown!r} has more than {after} digits after the point")
    return rounded


def decimal_digits(name: str) -> tuple[int, int]:
    """All digits of `decimal(P,S)`, and those after the point."""
    found = DECIMAL.fullmatch(name)
    assert found, name
    return int(found[1]), int(found[2])


def to_decimals(array: pa.Array, bad: BadValues, name: str) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    values = array.to_pylist()
    if pa.types.is_floating(array.type) and array.type != pa.float64():
        # The shortest text of a narrow float is not that of the wide one.
        values = [None if v is None else np.float32(v) for v in values]
    return each_value(values, bad, partial(decimal_number, name=name), arrow_type(name))


# Truth values


_TRUE, _FALSE = {"true", "1", "yes", "t", "y"}, {"false", "0", "no", "f", "n"}


def truth_value(value: Any) -> bool | None:
    """true or false, also as 1 and 0, or as text.

    Raises:
        ValueError: it is neither.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        text = value.strip().casefold()
        if not text:
            return None
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
    elif isinstance(value, bool | int | float | Decimal) and value in (0, 1):
        return bool(value)
    raise ValueError(f"{str(value)[:_LONGEST_SHOWN]!r} is neither true nor false; write true or false")


def to_truth_values(array: pa.Array, bad: BadValues) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return each_value(array.to_pylist(), bad, truth_value, pa.bool_())


def each_value(values: list[Any], bad: BadValues, convert: Callable[[Any], Any], kind: pa.DataType) -> pa.Array:
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


def utc_times(array: pa.Array, _: BadValues) -> pa.Array:
    """Times of any zone and unit; what microseconds cannot hold is null, and what they are too coarse for is cut."""
    unit = array.type.unit
    if unit in ("s", "ms"):
        most = (2**63 - 1) // (1_000_000 // _PER_SECOND[unit])
        ticks = array.cast(pa.timestamp(unit)).cast(pa.int64())
        fits = pc.and_(pc.less_equal(ticks, most), pc.greater_equal(ticks, -most))
        array = pc.if_else(fits, array, pa.scalar(None, array.type))
    return array.cast(UTC_TIME, safe=False)


def zoned_times(array: pa.Array, _: BadValues, zone: ZoneInfo) -> pa.Array:
    """Times that say no zone; one that a clock shows twice is the earlier, one that it skips the next that it shows."""
    naive = utc_times(array.cast(pa.timestamp("ms")) if pa.types.is_date(array.type) else array, []).cast(pa.int64())
    naive = pc.if_else(
        pc.and_(pc.greater_equal(naive, _YEARS[0]), pc.less_equal(naive, _YEARS[1])), naive, pa.scalar(None, pa.int64())
    )
    if zone.key == "UTC":
        return naive.cast(UTC_TIME)
    clock = pd.DatetimeIndex(
        naive.to_numpy(zero_copy_only=False).astype("datetime64[us]")
        if not naive.null_count
        else pd.array(naive.cast(pa.timestamp("us")).to_pandas())
    )
    zoned = clock.as_unit("us").tz_localize(
        zone, ambiguous=np.ones(len(clock), dtype=bool), nonexistent="shift_forward"
    )
    return pa.array(zoned.tz_convert("UTC"), UTC_TIME, from_pandas=True)


def text_times(array: pa.Array, bad: BadValues, zone: ZoneInfo | None) -> pa.Array:
    return times_of(text_converter(array.type)(array, bad), bad, zone)  # type: ignore[misc]


def times_of(texts: pa.Array, bad: BadValues, zone: ZoneInfo | None) -> pa.Array:
    """Times as text; white space alone is empty."""
    try:
        return texts.cast(UTC_TIME)  # ISO 8601 with a zone each, which is most
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

        return each_value(texts.to_pylist(), bad, read, UTC_TIME)


def arrow_type(name: str) -> pa.DataType:
    kinds = {"string": pa.string(), "timestamp": UTC_TIME, "int32": pa.int32(), "int64": pa.int64()}
    kinds["bool"] = pa.bool_()
    if DECIMAL.fullmatch(name):
        return pa.decimal128(*decimal_digits(name))
    kinds |= {"list<string>": pa.list_(pa.string()), "map<string,string>": pa.map_(pa.string(), pa.string())}
    return kinds[name]


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def nulls_of(kind: pa.DataType) -> Convert:
    return lambda array, _: pa.nulls(len(array), kind)
