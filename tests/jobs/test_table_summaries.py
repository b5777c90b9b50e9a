"""Spark's counts against Great Expectations over the rows themselves: for every demand that a contract can make."""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path
from typing import Any

import great_expectations as gx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.registry import get_expectation_impl
from pyspark.sql import SparkSession

from jobs import table_summaries
from jobs.table_summaries import TableSummary, summarise_tables
from smar_model.checks.expectations import judge
from smar_model.lake.contracts import EXPECTATIONS, Contract

COLUMNS = [
    {"name": "key", "type": "string", "nullable": True, "description": "Key"},
    {"name": "day", "type": "date", "nullable": True, "description": "Day"},
    {"name": "count", "type": "int64", "nullable": True, "description": "Count"},
    {"name": "limit", "type": "int64", "nullable": True, "description": "Limit"},
    {"name": "share", "type": "float64", "nullable": True, "description": "Share"},
    {"name": "tags", "type": "map<string,string>", "nullable": True, "description": "Tags"},
]
DAY = date(2026, 11, 19)
SOUND = {"key": "ab", "day": DAY, "count": 2, "limit": 1, "share": 0.5, "tags": [("a", "b")]}


def between(**bounds: Any) -> dict[str, Any]:
    return {"column": "count", **bounds}


# Each demand, rows added to two sound ones, and how many rows break it.
CASES: list[tuple[str, dict[str, Any], list[dict[str, Any]], int]] = [
    ("expect_column_values_to_not_be_null", {"column": "key"}, [{"key": None}, {"key": None}], 2),
    ("expect_column_values_to_not_be_null", {"column": "tags"}, [{"tags": None}], 1),
    ("expect_column_values_to_not_be_null", {"column": "share"}, [{"share": math.nan}], 1),
    ("expect_column_values_to_be_in_set", {"column": "key", "value_set": ["ab", "xy"]}, [{"key": "zz"}, {"key": None}], 1),
    ("expect_column_values_to_be_in_set", {"column": "count", "value_set": [1, 2]}, [{"count": 3}], 1),
    ("expect_column_values_to_be_unique", {"column": "key"}, [{"key": "ab"}, {"key": None}, {"key": None}], 1),
    ("expect_compound_columns_to_be_unique", {"column_list": ["key", "day"]}, [{}], 1),
    ("expect_compound_columns_to_be_unique", {"column_list": ["key", "day"]}, [{"day": None}, {"day": None}], 1),
    ("expect_column_values_to_be_between", between(min_value=2), [{"count": 1}, {"count": None}], 1),
    ("expect_column_values_to_be_between", between(max_value=2), [{"count": 3}], 1),
    ("expect_column_values_to_be_between", between(min_value=1, strict_min=True), [{"count": 1}], 1),
    ("expect_column_values_to_be_between", between(max_value=3, strict_max=True), [{"count": 3}], 1),
    ("expect_column_values_to_be_between", {"column": "share", "max_value": 1}, [{"share": 1.5}, {"share": None}], 1),
    ("expect_column_value_lengths_to_be_between", {"column": "key", "min_value": 1, "max_value": 3},
     [{"key": ""}, {"key": "abcd"}, {"key": None}, {"key": "日本語"}], 2),
    ("expect_column_value_lengths_to_equal", {"column": "key", "value": 2}, [{"key": "a"}, {"key": None}], 1),
    ("expect_column_values_to_match_regex", {"column": "key", "regex": "^[ax]"}, [{"key": "ba"}, {"key": None}], 1),
    ("expect_column_pair_values_a_to_be_greater_than_b", {"column_A": "count", "column_B": "limit"},
     [{"count": 1}, {"count": None, "limit": None}], 1),
    ("expect_column_pair_values_a_to_be_greater_than_b", {"column_A": "count", "column_B": "limit", "or_equal": True},
     [{"count": 1}, {"count": 0}, {"count": None, "limit": None}], 1),
    ("expect_table_row_count_to_be_between", {"min_value": 3}, [], 0),
    ("expect_table_row_count_to_be_between", {"max_value": 2}, [{}], 0),
]  # fmt: skip


def contract_of(demands: list[tuple[str, dict[str, Any]]], severity: str = "critical") -> Contract:
    checks = [{"expectation": e, "kwargs": kwargs, "severity": severity} for e, kwargs in demands]
    return Contract.model_validate(
        {"table": "cases", "owner": "tests", "description": "Cases.", "columns": COLUMNS, "checks": checks}
    )


@pytest.fixture
def summarise(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Summaries of tables of given rows, each under a contract of its own; in one Spark job."""

    def summaries(tables: list[tuple[Contract, list[dict[str, Any]]]]) -> list[TableSummary]:
        contracts = {f"cases_{number}": contract for number, (contract, _) in enumerate(tables)}
        monkeypatch.setattr(table_summaries, "load_contract", contracts.__getitem__)
        monkeypatch.setattr(
            table_summaries,
            "read_published",
            lambda session, table, files: session.read.schema(contracts[table].spark_schema()).parquet(
                *map(str, files)
            ),
        )
        named = []
        for number, (contract, rows) in enumerate(tables):
            file = tmp_path / f"cases_{number}.parquet"
            pq.write_table(pa.Table.from_pylist(rows, schema=contract.arrow_schema()), file)
            named.append(("stage", f"cases_{number}", [file]))
        return summarise_tables(spark, named)

    return summaries


def test_every_demand_catches_the_rows_that_break_it_and_no_other(summarise: Any) -> None:
    assert {case[0] for case in CASES} == set(EXPECTATIONS), "a demand without a case"
    sound = [SOUND, SOUND | {"key": "xy"}]
    # One table breaks nothing, each other one demand.
    good = [case[:2] for case in CASES if case[0] != "expect_table_row_count_to_be_between"]
    bad = [(contract_of([case[:2]]), [*sound, *(SOUND | row for row in case[2])]) for case in CASES]
    summaries = summarise([(contract_of(good), sound), *bad])
    assert all(c.passed for c in judge(summaries[0].measures()))
    outcomes = judge([measure for summary in summaries[1:] for measure in summary.measures()])
    library = gx.get_context(mode="ephemeral")
    library.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = library.data_sources.add_pandas("rows").add_dataframe_asset("cases")
    batches = asset.add_batch_definition_whole_dataframe("all")
    for (expectation, kwargs, rows, broken), summary, outcome in zip(CASES, summaries[1:], outcomes, strict=True):
        case = f"{expectation}({kwargs}) with {rows}"
        assert (outcome.passed, summary.broken) == (False, [broken]), case
        # A second opinion: the same expectation over the rows as they are.
        frame = pa.Table.from_pylist(
            [*sound, *(SOUND | row for row in rows)], schema=contract_of([]).arrow_schema().remove(5)
        ).to_pandas(integer_object_nulls=True)
        if kwargs.get("column") != "tags":
            opinion = batches.get_batch({"dataframe": frame}).validate(get_expectation_impl(expectation)(**kwargs))
            assert not opinion.success, case


def test_samples_name_rows_by_key_and_value(summarise: Any) -> None:
    unique, most = "expect_compound_columns_to_be_unique", "expect_column_values_to_be_between"
    demands = [(unique, {"column_list": ["key", "day"]}), (most, {"column": "count", "max_value": 2})]
    rows = [SOUND | {"key": f"k{n:02}", "count": 3} for n in range(30)] + [SOUND | {"key": "k07"}]
    twice, large = summarise([(contract_of(demands), rows)])[0].measures()
    assert (twice.value, large.value, large.observed) == (1, 30, "30 of 31 rows differ")
    assert twice.detail() == "Such as k07 / 2026-11-19. Stated in schemas/cases.yaml."
    assert large.detail().count(" / 2026-11-19 / 3") == 20
    assert large.detail().startswith("Such as k00 / 2026-11-19 / 3, k01 / 2026-11-19 / 3")


def test_severities_and_profiles_come_along(summarise: Any) -> None:
    demand = ("expect_column_values_to_be_between", {"column": "count", "max_value": 1})
    rows = [SOUND, SOUND | {"key": None, "count": 7}]
    warned, empty = summarise([(contract_of([demand], "warning"), rows), (contract_of([demand]), [])])
    assert [(c.passed, c.severity) for c in judge(warned.measures())] == [(False, "warning")]
    assert (warned.rows, warned.nulls["key"], warned.nulls["tags"]) == (2, 1, 0)
    assert (warned.ranges["count"], warned.ranges["key"]) == ((2, 7), (2, 2))
    assert warned.ranges["day"] == ("2026-11-19", "2026-11-19") and "tags" not in warned.ranges
    assert (empty.rows, empty.broken, empty.ranges["count"]) == (0, [0], (None, None))


def test_rows_that_spark_did_not_read_are_an_error(summarise: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_summaries, "count_rows", lambda files: 5)
    with pytest.raises(RuntimeError, match="stage/cases_0: Spark counted 1 rows, its files hold 5"):
        summarise([(contract_of([]), [SOUND])])
