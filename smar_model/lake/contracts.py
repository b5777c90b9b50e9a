"""Data contracts: `schemas/*.yaml` → Arrow schema, Spark schema, checks.

A contract is the only place where a table's columns are stated. Types: string, bool, int32, int64, float32,
float64, date, timestamp (UTC, microseconds), binary, list<T>, map<T, T>.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from smar_model.errors import InputError
from smar_model.settings import REPOSITORY

SCHEMAS = REPOSITORY / "schemas"

_ARROW = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "binary": pa.binary(),
}
_SPARK = {
    "string": "string",
    "bool": "boolean",
    "int32": "int",
    "int64": "bigint",
    "float32": "float",
    "float64": "double",
    "date": "date",
    "timestamp": "timestamp",
    "binary": "binary",
}


def _arrow_type(name: str) -> pa.DataType:
    if name.startswith("list<"):
        return pa.list_(_arrow_type(name[5:-1]))
    if name.startswith("map<"):
        key, value = name[4:-1].split(",")
        return pa.map_(_arrow_type(key.strip()), _arrow_type(value.strip()))
    return _ARROW[name]


def _spark_type(name: str) -> str:
    if name.startswith("list<"):
        return f"array<{_spark_type(name[5:-1])}>"
    if name.startswith("map<"):
        key, value = name[4:-1].split(",")
        return f"map<{_spark_type(key.strip())}, {_spark_type(value.strip())}>"
    return _SPARK[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    name: str
    type: str
    description: str
    nullable: bool = False
    unit: str | None = None
    allowed: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    table: str
    owner: str
    description: str
    columns: tuple[Column, ...]
    checks: tuple[dict[str, Any], ...] = ()
    """Great Expectations: `{expectation, kwargs, severity}`."""

    def arrow_schema(self) -> pa.Schema:
        return pa.schema([pa.field(c.name, _arrow_type(c.type), nullable=c.nullable) for c in self.columns])

    def spark_schema(self) -> str:
        """The columns as a DDL string, such as `item_id string, clicks bigint`."""
        return ", ".join(f"`{c.name}` {_spark_type(c.type)}" for c in self.columns)

    def verify_files(self, files: Iterable[Path]) -> None:
        """Compare the Parquet files' columns and types with the contract; extra columns are refused too.

        Raises:
            InputError: a file is unreadable, or lacks, adds or retypes a column.
        """
        for file in files:
            problems = self.differences(read_parquet_schema(file), extra_allowed=False)
            if problems:
                raise InputError(f"{file}: differs from schemas/{self.table}.yaml: {'; '.join(problems)}")

    def differences(self, schema: pa.Schema, *, extra_allowed: bool) -> list[str]:
        """What is wrong with `schema`, one phrase a column; empty where it agrees."""
        problems = []
        for column in self.columns:
            if column.name not in schema.names:
                problems.append(f"column {column.name} is missing (expected {column.type})")
                continue
            expected, actual = _arrow_type(column.type), schema.field(column.name).type
            if not _same_type(expected, actual):
                problems.append(f"column {column.name} is {actual}, expected {column.type}")
        if not extra_allowed:
            known = {c.name for c in self.columns}
            problems += [f"column {name} is not in the contract" for name in schema.names if name not in known]
        return problems


def _same_type(expected: pa.DataType, actual: pa.DataType) -> bool:
    """Equality up to what writers differ in: names of list items, nullability inside, large strings."""
    if pa.types.is_large_string(actual):
        actual = pa.string()
    if pa.types.is_list(expected):
        return (pa.types.is_list(actual) or pa.types.is_large_list(actual)) and _same_type(
            expected.value_type, actual.value_type
        )
    if pa.types.is_map(expected):
        return (
            pa.types.is_map(actual)
            and _same_type(expected.key_type, actual.key_type)
            and _same_type(expected.item_type, actual.item_type)
        )
    if pa.types.is_timestamp(expected):
        return pa.types.is_timestamp(actual) and actual.tz == "UTC"
    return expected == actual


def read_parquet_schema(file: Path) -> pa.Schema:
    """Schema of a Parquet file.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        return pq.read_schema(file)
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file}: not a readable Parquet file ({error}); write it again") from None


@cache
def load_contract(table: str) -> Contract:
    """The contract of a table.

    Raises:
        InputError: `schemas/` has none for it.
    """
    path = SCHEMAS / f"{table}.yaml"
    if not path.is_file():
        raise InputError(f"{path}: no contract for table {table!r}; every table that is written needs one")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    columns = tuple(
        Column(**{**c, "allowed": tuple(c["allowed"]) if c.get("allowed") else None}) for c in content["columns"]
    )
    return Contract(
        table=content["table"],
        owner=content["owner"],
        description=content["description"],
        columns=columns,
        checks=tuple(content.get("checks", ())),
    )


def has_contract(table: str) -> bool:
    return (SCHEMAS / f"{table}.yaml").is_file()
