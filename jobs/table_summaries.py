"""Tables against their contracts: Spark counts, in one pass a table, the rows that break each demand.

What a demand means follows Great Expectations: a null breaks nothing but "not null". Two things are stricter here,
as they would hide a broken job: a NaN counts as null where nulls are refused and breaks every bound; of a pair of
columns, one null breaks the demand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.lake_tables import read_published
from jobs.spark_session import count_rows
from smar_model.checks.expectations import SAMPLE, Measure
from smar_model.lake.contracts import Contract, Demand, load_contract
from smar_model.lake.object_paths import AnyPath

_UNIQUE = ("expect_column_values_to_be_unique", "expect_compound_columns_to_be_unique")
_ROW_COUNT = "expect_table_row_count_to_be_between"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSummary:
    name: str
    """`stage/table`"""
    contract: Contract
    frame: DataFrame
    rows: int
    broken: list[int]
    """Rows that break each of the contract's demands, in their order; of a repeated key all rows but one."""
    nulls: dict[str, int]
    """Column → rows without a value."""
    ranges: dict[str, tuple[Any, Any]]
    """Column → least and greatest value, of texts their lengths; flags and nested columns have none."""

    def measures(self) -> list[Measure]:
        """The contract's demands as measures: no row may break one, and the number of rows has its bounds."""
        measures = []
        for demand, broken in zip(self.contract.demands(), self.broken, strict=True):
            counted = demand.expectation == _ROW_COUNT
            measures.append(
                Measure(
                    table=self.name,
                    check=str(demand),
                    severity=demand.severity,
                    value=self.rows if counted else broken,
                    least=demand.kwargs.get("min_value") if counted else None,
                    most=demand.kwargs.get("max_value") if counted else 0,
                    observed=f"{self.rows:,} rows" if counted else f"{broken:,} of {self.rows:,} rows differ",
                    detail=lambda demand=demand: self._describe(demand),  # type: ignore[misc]
                )
            )
        return measures

    def _describe(self, demand: Demand) -> str:
        samples = self.samples(demand)
        such = f"Such as {', '.join(samples)}. " if samples else ""
        return f"{such}Stated in schemas/{self.contract.table}.yaml."

    def samples(self, demand: Demand) -> list[str]:
        """Keys and values of rows that break a demand, at most SAMPLE, in their order."""
        if demand.expectation == _ROW_COUNT:
            return []
        if demand.expectation in _UNIQUE:
            shown = self.frame.groupBy(*demand.columns).count().where("count > 1").drop("count")
            shown = shown.dropna(how="all")
        else:
            key = next((d.columns for d in self.contract.checks if d.expectation in _UNIQUE), [])
            names = list(dict.fromkeys([*(key or [self.contract.columns[0].name]), *demand.columns]))
            shown = self.frame.where(_breaks(demand, self.contract)).select(*names)
        values = [F.coalesce(F.col(name).cast("string"), F.lit("null")) for name in shown.columns]
        text = F.concat_ws(" / ", *values).alias("text")
        return [row.text for row in shown.select(text).orderBy("text").limit(SAMPLE).collect()]


def summarise_tables(session: SparkSession, tables: Sequence[tuple[str, str, list[AnyPath]]]) -> list[TableSummary]:
    """Summaries of tables given as (stage, table, files), all in one Spark job.

    Raises:
        RuntimeError: Spark counted other rows than the files say they hold.
    """
    frames, wanted = [], []
    for number, (_, table, files) in enumerate(tables):
        contract = load_contract(table)
        frames.append(frame := read_published(session, table, files))
        for rows, columns in [(frame, _figures(contract)), *_repetitions(frame, contract)]:
            counted = rows.agg(F.to_json(F.struct(*columns)).alias("figures"))
            wanted.append(counted.select(F.lit(number).alias("number"), "figures"))
    found: dict[int, dict[str, Any]] = {number: {} for number in range(len(tables))}
    for row in reduce(DataFrame.unionAll, wanted).collect():
        found[row.number] |= json.loads(row.figures)
    summaries = []
    for number, (stage, table, files) in enumerate(tables):
        contract, figures = load_contract(table), found[number]
        if (rows := figures["rows"]) != (stored := count_rows(files)):
            raise RuntimeError(f"{stage}/{table}: Spark counted {rows:,} rows, its files hold {stored:,}")
        summaries.append(
            TableSummary(
                name=f"{stage}/{table}",
                contract=contract,
                frame=frames[number],
                rows=rows,
                broken=[
                    _count_repetitions(frames[number], demand)
                    if figures.get(f"hashes_repeat_{n}")
                    else figures[f"broken_{n}"]
                    for n, demand in enumerate(contract.demands())
                ],
                nulls={c.name: figures[f"nulls_{c.name}"] for c in contract.columns if c.type != "binary"},
                ranges={
                    c.name: (figures.get(f"least_{c.name}"), figures.get(f"greatest_{c.name}"))
                    for c in contract.columns
                    if _range_of(c.name, c.type) is not None
                },
            )
        )
    return summaries


def _figures(contract: Contract) -> list[Column]:
    figures = [F.count(F.lit(1)).alias("rows")]
    for number, demand in enumerate(contract.demands()):
        figures.append(_count_broken(demand, contract).alias(f"broken_{number}"))
    for column in contract.columns:
        if column.type != "binary":  # reading all pictures would cost more than everything else
            figures.append(F.count_if(F.col(column.name).isNull()).alias(f"nulls_{column.name}"))
        measured = _range_of(column.name, column.type)
        if measured is not None:
            figures.append(F.min(measured).alias(f"least_{column.name}"))
            figures.append(F.max(measured).alias(f"greatest_{column.name}"))
    return figures


def _repetitions(frame: DataFrame, contract: Contract) -> list[tuple[DataFrame, list[Column]]]:
    """For each key that must be unique: its hashes, and what to count of them.

    Where no hash repeats no key does, and numbers are told apart at a fraction of the cost of keys.
    """
    repetitions = []
    for number, demand in enumerate(contract.demands()):
        if demand.expectation in _UNIQUE:
            hashes = (
                frame.where(_is_present(demand)).select(F.xxhash64(*demand.columns).alias("hash")).repartition("hash")
            )
            repeats = F.count("hash") - F.count_distinct("hash")
            repetitions.append((hashes, [repeats.alias(f"hashes_repeat_{number}")]))
    return repetitions


def _count_repetitions(frame: DataFrame, demand: Demand) -> int:
    """Rows with a key that another row has already."""
    keys = frame.where(_is_present(demand)).select(*demand.columns)
    return keys.count() - keys.distinct().count()


def _is_present(demand: Demand) -> Column:
    return reduce(Column.__or__, [F.col(name).isNotNull() for name in demand.columns])


def _range_of(name: str, kind: str) -> Column | None:
    if kind == "string":
        return F.length(name)
    return None if kind in {"bool", "binary"} or "<" in kind else F.col(name)


def _count_broken(demand: Demand, contract: Contract) -> Column:
    if demand.expectation in {_ROW_COUNT, *_UNIQUE}:  # of the latter `_repetitions` finds some
        return F.lit(0)
    return F.count_if(_breaks(demand, contract))


def _breaks(demand: Demand, contract: Contract) -> Column:
    """Whether a row breaks a demand; never null."""
    kwargs = demand.kwargs
    if demand.expectation == "expect_column_pair_values_a_to_be_greater_than_b":
        a, b = F.col(kwargs["column_A"]), F.col(kwargs["column_B"])
        holds = a >= b if kwargs.get("or_equal") else a > b
        return ~F.coalesce(holds, a.isNull() & b.isNull())
    name = kwargs["column"]
    column = F.col(name)
    is_float = next(c.type for c in contract.columns if c.name == name).startswith("float")
    is_nan = F.isnan(column) if is_float else F.lit(False)
    if demand.expectation == "expect_column_values_to_not_be_null":
        return column.isNull() | F.coalesce(is_nan, F.lit(False))
    if demand.expectation == "expect_column_values_to_be_in_set":
        holds = column.isin(kwargs["value_set"])
    elif demand.expectation == "expect_column_values_to_be_between":
        holds = _between(column, **{k: v for k, v in kwargs.items() if k != "column"}) & ~is_nan
    elif demand.expectation == "expect_column_value_lengths_to_be_between":
        holds = _between(F.length(column), **{k: v for k, v in kwargs.items() if k != "column"})
    elif demand.expectation == "expect_column_value_lengths_to_equal":
        holds = F.length(column) == kwargs["value"]
    else:
        assert demand.expectation == "expect_column_values_to_match_regex", demand
        holds = column.rlike(kwargs["regex"])
    return ~F.coalesce(holds, F.lit(True))


def _between(
    column: Column,
    *,
    min_value: Any = None,
    max_value: Any = None,
    strict_min: bool = False,
    strict_max: bool = False,
) -> Column:
    holds = F.lit(True)
    if min_value is not None:
        holds &= column > min_value if strict_min else column >= min_value
    if max_value is not None:
        holds &= column < max_value if strict_max else column <= max_value
    return holds
