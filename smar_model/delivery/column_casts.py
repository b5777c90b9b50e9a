"""Columns as shops store them → columns as the contract has them, where nothing is lost by it.

`plan_columns` looks at the schema of a Parquet file and says, for each column of the contract, how it is stored, how it is
read, and by which conversion. Values of JSON lines go by the same rules (`value_casts.py`). Jobs, checks
and whoever else reads what shops deliver read it through here (`delivered_tables.py`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from smar_model.delivery.value_casts import (
    DECIMAL,
    INTEGERS,
    NO_ZONE,
    UTC_TIME,
    BadValues,
    Convert,
    arrow_type,
    each_value,
    is_text,
    nulls_of,
    text_converter,
    text_of,
    text_times,
    to_decimals,
    to_integers,
    to_truth_values,
    utc_times,
    zoned_times,
)
from smar_model.lake.contracts import Column, Contract


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
                        column, "INT96 times", partial(zoned_times, zone=ZoneInfo("UTC")), True, "UTC, as Spark writes"
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


def unknown_columns(names: Iterable[str], contract: Contract) -> dict[str, str | None]:
    """Names of a file that the contract does not know → the column that the file lacks and that is nearly called so, if any."""
    there, known = set(names), {column.name for column in contract.columns}
    lacking = {_letters(name): name for name in known - there}
    near = {
        name: difflib.get_close_matches(_letters(name), lacking, n=1, cutoff=0.75) for name in sorted(there - known)
    }
    return {name: lacking[found[0]] if found else None for name, found in near.items()}


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _plan_column(column: Column, kind: pa.DataType, zone: ZoneInfo | None) -> ColumnPlan | str:
    wrong = f"column {column.name} is {_shown(kind)}, expected {column.type}"
    if pa.types.is_null(kind):
        if column.nullable:
            return ColumnPlan(column, "empty in every row", nulls_of(arrow_type(column.type)))
        return f"{wrong}: it is empty in every row"
    if column.type == "string":
        if pa.types.is_string(kind):
            return ColumnPlan(column, "string", None, in_spark=True)
        convert = text_converter(kind)
        if convert is None:
            return f"{wrong}: {_in_place_of_text(kind)}"
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        return ColumnPlan(column, _shown(kind), convert, in_spark=is_text(plain))
    if column.type == "timestamp":
        return _plan_times(column, kind, zone, wrong)
    if column.type in INTEGERS:
        return _plan_integers(column, kind, wrong)
    if DECIMAL.fullmatch(column.type):
        return _plan_decimals(column, kind, wrong)
    if column.type == "bool":
        return _plan_truth_values(column, kind, wrong)
    if column.type == "list<string>":
        return _plan_texts(column, kind, wrong)
    if column.type == "map<string,string>":
        return _plan_map(column, kind, wrong)
    raise ValueError(f"no rule for {column.type} in a delivered table")  # a contract that nobody delivers by


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


# Whole numbers and times


def _plan_integers(column: Column, kind: pa.DataType, wrong: str) -> ColumnPlan | str:
    wanted = arrow_type(column.type)
    if kind == wanted:
        return ColumnPlan(column, str(kind), None, in_spark=True)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return ColumnPlan(column, _shown(kind), partial(to_integers, name=column.type))
    return f"{wrong}: write it as whole numbers"


def _plan_decimals(column: Column, kind: pa.DataType, wrong: str) -> ColumnPlan | str:
    if kind == arrow_type(column.type):
        return ColumnPlan(column, str(kind), None, in_spark=True)
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_number = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, is_text)
    if any(is_kind(plain) for is_kind in is_number):
        return ColumnPlan(column, _shown(kind), partial(to_decimals, name=column.type))
    return f"{wrong}: write it as numbers"


def _plan_truth_values(column: Column, kind: pa.DataType, wrong: str) -> ColumnPlan | str:
    if pa.types.is_boolean(kind):
        return ColumnPlan(column, "bool", None, in_spark=True)
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_integer(plain) or pa.types.is_floating(plain) or is_text(plain):
        return ColumnPlan(column, _shown(kind), to_truth_values)
    return f"{wrong}: write it as true and false"


def _plan_times(column: Column, kind: pa.DataType, zone: ZoneInfo | None, wrong: str) -> ColumnPlan | str:
    assumed = f"{zone.key} by time_zone" if zone else ""
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        plain = kind == UTC_TIME
        spark = kind.unit in ("us", "ms", "ns")
        return ColumnPlan(column, str(kind), None if plain else utc_times, in_spark=spark)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        if zone is None:
            return f"{wrong}: {'a day alone' if pa.types.is_date(kind) else 'it'} {NO_ZONE}"
        return ColumnPlan(column, _shown(kind), partial(zoned_times, zone=zone), note=assumed)
    if is_text(kind) or (pa.types.is_dictionary(kind) and is_text(kind.value_type)):
        return ColumnPlan(column, f"{_shown(kind)} with times as text", partial(text_times, zone=zone), note=assumed)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return f"{wrong}: a number does not say its unit; write it as a timestamp with a zone, or as text (2026-11-19T12:00:00Z)"
    return f"{wrong}: write it as a timestamp with a zone"


# Lists and maps


def _plan_texts(column: Column, kind: pa.DataType, wrong: str) -> ColumnPlan | str:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_list_view, pa.types.is_large_list_view)
    if not any(is_list(kind) for is_list in lists) and not pa.types.is_fixed_size_list(kind):
        return f"{wrong}: write a list, if of one name"
    convert = text_converter(kind.value_type)
    if convert is None:
        return f"{wrong}: {_in_place_of_text(kind.value_type)}"
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        return ColumnPlan(column, "list<string>", None, in_spark=True)
    plain = kind.value_type.value_type if pa.types.is_dictionary(kind.value_type) else kind.value_type
    return ColumnPlan(column, _shown(kind), _lists_to_texts, in_spark=is_text(plain))


def _lists_to_texts(array: pa.Array, bad: BadValues) -> pa.Array:
    return each_value(
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
        if nested := [field.name for field in kind if text_converter(field.type) is None]:
            return f"{wrong}: {nested[0]} in it has {_in_place_of_text(kind.field(nested[0]).type)}"
    else:
        return f"{wrong}: write a map, or a struct of texts"
    if any(text_converter(part) is None for part in inner):
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

    return each_value(array.to_pylist(), bad, convert, pa.map_(pa.string(), pa.string()))
