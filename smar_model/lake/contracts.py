"""Data contracts: `schemas/*.yaml` → Arrow schema, Spark schema, checks, and the page `docs/tables.md`.

A contract is the only place where a table's columns are stated. Types: string, bool, int32, int64, float32,
float64, decimal(P,S), date, timestamp (UTC, microseconds), binary, list<T>, map<T, T>.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from smar_model.errors import InputError
from smar_model.lake.object_paths import AnyPath, parquet_source
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
    "list": "array",
    "map": "map",
}
EXPECTATIONS = {
    "expect_table_row_count_to_be_between": ("min_value", "max_value"),
    "expect_column_values_to_not_be_null": ("column",),
    "expect_column_values_to_be_in_set": ("column", "value_set"),
    "expect_column_values_to_be_unique": ("column",),
    "expect_compound_columns_to_be_unique": ("column_list",),
    "expect_column_values_to_be_between": ("column", "min_value", "max_value", "strict_min", "strict_max"),
    "expect_column_value_lengths_to_be_between": ("column", "min_value", "max_value"),
    "expect_column_value_lengths_to_equal": ("column", "value"),
    "expect_column_values_to_match_regex": ("column", "regex"),
    "expect_column_pair_values_a_to_be_greater_than_b": ("column_A", "column_B", "or_equal"),
}
"""What a contract may expect, by the names of Great Expectations, with the arguments that are understood."""


_DECIMAL = re.compile(r"decimal\((\d+),\s*(\d+)\)")


def _arrow_type(name: str) -> pa.DataType:
    if decimal := _DECIMAL.fullmatch(name):
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    if name.startswith("list<"):
        return pa.list_(_arrow_type(name[5:-1]))
    if name.startswith("map<"):
        key, value = name[4:-1].split(",")
        return pa.map_(_arrow_type(key.strip()), _arrow_type(value.strip()))
    return _ARROW[name]


def _spark_type(name: str) -> str:
    return name if _DECIMAL.fullmatch(name) else re.sub(r"\w+", lambda word: _SPARK[word[0]], name)


class _Part(BaseModel):
    """A part of a contract: an unknown key is an error, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Part):
    name: str
    type: str
    description: Annotated[str, Field(min_length=1)]
    nullable: bool = False
    seldom: bool = False
    """Few shops deliver it: nobody is told that it is absent."""
    unit: str | None = None
    allowed: tuple[str | int, ...] | None = None
    """The only values; unset: any."""

    @field_validator("type")
    @classmethod
    def _known_type(cls, name: str) -> str:
        try:
            _arrow_type(name)
        except (KeyError, ValueError):
            raise ValueError(
                f"unknown type {name!r}; known: {', '.join(_ARROW)}, decimal(P,S), list<T>, map<T, T>"
            ) from None
        return name


class Demand(_Part):
    """One expectation about a table's rows."""

    expectation: str
    kwargs: dict[str, Any]
    severity: Literal["critical", "warning"]
    """`critical` ends the run before training; `warning` is shown."""

    @model_validator(mode="after")
    def _is_understood(self) -> Demand:
        known = EXPECTATIONS.get(self.expectation)
        if known is None:
            raise ValueError(f"unknown expectation {self.expectation!r}; known: {', '.join(EXPECTATIONS)}")
        if strange := sorted(set(self.kwargs) - set(known)):
            raise ValueError(f"{self.expectation} does not take {', '.join(strange)}; it takes {', '.join(known)}")
        return self

    @property
    def columns(self) -> list[str]:
        one = [self.kwargs[name] for name in ("column", "column_A", "column_B") if name in self.kwargs]
        return one + list(self.kwargs.get("column_list", []))

    def __str__(self) -> str:
        return f"{self.expectation}({', '.join(f'{k}={v}' for k, v in self.kwargs.items())})"


class Contract(_Part):
    table: str
    owner: Annotated[str, Field(min_length=1)]
    """Who answers for the table's content."""
    description: Annotated[str, Field(min_length=1)]
    version: Annotated[int, Field(ge=1)] = 1
    """Raised with every change that a reader of the table would stumble over (`incompatibilities`)."""
    retention_days: Annotated[int, Field(ge=1)] | None = None
    """`smar start` removes this table from outputs that were published longer ago; unset: kept as long as its output."""
    columns: Annotated[tuple[Column, ...], Field(min_length=1)]
    checks: tuple[Demand, ...] = ()
    drift: dict[str, dict[Literal["warning", "critical"], float]] = Field(default_factory=dict)
    """Figure → severity → largest value, of the differences between synthetic and true queries (`drift_limits.py`)."""

    @model_validator(mode="after")
    def _names_agree(self) -> Contract:
        names = [column.name for column in self.columns]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"columns stated twice: {', '.join(twice)}")
        for demand in self.checks:
            if strange := sorted(set(demand.columns) - set(names)):
                raise ValueError(f"{demand}: no such column: {', '.join(strange)}")
        return self

    def arrow_schema(self) -> pa.Schema:
        return pa.schema([pa.field(c.name, _arrow_type(c.type), nullable=c.nullable) for c in self.columns])

    def spark_schema(self) -> str:
        """The columns as a DDL string, such as `item_id string, clicks bigint`."""
        return ", ".join(f"`{c.name}` {_spark_type(c.type)}" for c in self.columns)

    def demands(self) -> list[Demand]:
        """Everything that is expected of the rows: what the columns say, then `checks`.

        Nulls in binary columns are not looked for: reading all pictures would cost more than all other checks.
        """
        demands = []
        for column in self.columns:
            if not column.nullable and column.type != "binary":
                kwargs: dict[str, Any] = {"column": column.name}
                demands.append(
                    Demand(expectation="expect_column_values_to_not_be_null", kwargs=kwargs, severity="critical")
                )
            if column.allowed:
                kwargs = {"column": column.name, "value_set": list(column.allowed)}
                demands.append(
                    Demand(expectation="expect_column_values_to_be_in_set", kwargs=kwargs, severity="critical")
                )
        return demands + list(self.checks)

    def verify_files(self, files: Iterable[Path]) -> None:
        """Compare the Parquet files' columns and types with the contract; a nullable column may be absent, extra ones are refused.

        Raises:
            InputError: a file is unreadable, or lacks, adds or retypes a column.
        """
        for file in files:
            problems = self.differences(read_parquet_schema(file))
            if problems:
                raise InputError(f"{file}: differs from schemas/{self.table}.yaml: {'; '.join(problems)}")

    def differences(self, schema: pa.Schema) -> list[str]:
        """What is wrong with `schema`, one phrase a column; empty where it agrees."""
        problems = []
        for column in self.columns:
            if column.name not in schema.names:
                if not column.nullable:
                    problems.append(f"column {column.name} is missing (expected {column.type})")
                continue
            expected, actual = _arrow_type(column.type), schema.field(column.name).type
            if not _same_type(expected, actual):
                problems.append(f"column {column.name} is {actual}, expected {column.type}")
        known = {c.name for c in self.columns}
        return problems + [f"column {name} is not in the contract" for name in schema.names if name not in known]

    def incompatibilities(self, old: Iterable[Column]) -> list[str]:
        """What a reader who knows the table with its `old` columns would stumble over, a line of a diff each.

        A column removed, retyped or now nullable; a new one without null, which older outputs lack; fewer allowed
        values. A new nullable column, more allowed values, and any change of words or checks are compatible.
        """
        before, now = ({c.name: c for c in columns} for columns in (old, self.columns))
        lines = []
        for name, was in before.items():
            column = now.get(name)
            if column is None:
                lines.append(f"- {name}: {was.type}  (removed)")
            elif column.type != was.type:
                lines.append(f"~ {name}: {was.type} → {column.type}")
            elif column.nullable and not was.nullable:
                lines.append(f"~ {name}: never null → nullable")
            elif column.allowed and (not was.allowed or set(was.allowed) - set(column.allowed)):
                lines.append(f"~ {name}: allowed {list(was.allowed or ()) or 'anything'} → {list(column.allowed)}")
        new = [c for name, c in now.items() if name not in before and not c.nullable]
        return lines + [f"+ {c.name}: {c.type}, never null  (older outputs lack it)" for c in new]


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


def read_parquet_schema(file: AnyPath) -> pa.Schema:
    """Schema of a Parquet file.

    Raises:
        InputError: the file is missing or damaged.
    """
    return read_parquet_footer(file).schema.to_arrow_schema()


def read_parquet_footer(file: AnyPath) -> pq.FileMetaData:
    """What a Parquet file says of itself: columns, rows.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        return pq.read_metadata(parquet_source(file))
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file}: not a readable Parquet file ({error}); write it again") from None


@cache
def load_contract(table: str) -> Contract:
    """The contract of a table.

    Raises:
        InputError: `schemas/` has none for it, or it is not one.
    """
    path = SCHEMAS / f"{table}.yaml"
    if not path.is_file():
        raise InputError(f"{path}: no contract for table {table!r}; every table that is written needs one")
    return read_contract(path)


def read_contract(path: Path) -> Contract:
    """A contract from its file, which has the table's name.

    Raises:
        InputError: not YAML, an unknown or missing key, a type, expectation or column that there is not.
    """
    try:
        contract = Contract.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or '(file)'}: {e['msg']}" for e in error.errors()]
        raise InputError(f"{path}: {len(lines)} key(s) to correct:\n" + "\n".join(lines)) from None
    if contract.table != path.stem:
        raise InputError(f"{path}: describes table {contract.table!r}; name the file {contract.table}.yaml")
    return contract


def write_rows(folder: Path, table: str, rows: list[dict[str, Any]]) -> None:
    """Write a small table in its contract's columns and types."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=load_contract(table).arrow_schema()), folder / "part-0.parquet")


def has_contract(table: str) -> bool:
    return (SCHEMAS / f"{table}.yaml").is_file()
