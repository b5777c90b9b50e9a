"""Measures against bounds: Great Expectations judges what Spark has counted (`jobs/check_data.py`).

Every check, of a table's rows or of the run as a whole, comes down to one figure that must lie between bounds. All
figures are one row of a small frame, all bounds one suite of expectations over it, so that what the library costs does
not grow with the data. A figure that is not there, or a library that cannot judge it, is an error, never a pass.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from smar_model.checks.outcomes import Check, Kind, Severity

# Before its first import: the library would report its use to its makers.
os.environ["GX_ANALYTICS_ENABLED"] = "false"

if TYPE_CHECKING:
    from great_expectations.datasource.fluent.interfaces import Batch

SAMPLE = 20
"""Keys shown for each reason or failed check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A figure and what it must be."""

    table: str
    """`stage/table`, or `run` for what concerns the run as a whole."""
    check: str
    """What must hold, for people, with its bounds."""
    severity: Severity
    value: float | None
    least: float | None = None
    most: float | None = None
    observed: str | None = None
    """The figure for people; default: as it is."""
    detail: Callable[[], str] | str = ""
    """What is wrong, where, with samples, and what to do; asked for where the check fails."""
    metric: str | None = None
    """Name of the figure among the stage's metrics."""
    kind: Kind = "data"


def judge(measures: Sequence[Measure]) -> list[Check]:
    """Validate all measures with Great Expectations, in their order.

    Raises:
        RuntimeError: a figure is missing, or the library could not carry out a check.
    """
    values = {}
    for number, measure in enumerate(measures):
        if measure.value is None or not math.isfinite(measure.value):
            raise RuntimeError(f"{measure.table}: {measure.check}: could not be measured ({measure.value})")
        values[str(number)] = [float(measure.value)]
    outcomes = _validate(pd.DataFrame(values), measures)
    return [
        Check(
            table=measure.table,
            check=measure.check,
            severity=measure.severity,
            passed=passed,
            observed=measure.observed if measure.observed is not None else f"{measure.value:.4g}",
            detail="" if passed else measure.detail if isinstance(measure.detail, str) else measure.detail(),
            kind=measure.kind,
        )
        for measure, passed in zip(measures, outcomes, strict=True)
    ]


def _validate(frame: pd.DataFrame, measures: Sequence[Measure]) -> list[bool]:
    """Whether each measure lies between its bounds."""
    from great_expectations import ExpectationSuite
    from great_expectations.expectations import ExpectColumnValuesToBeBetween
    from great_expectations.expectations.metadata_types import FailureSeverity

    batch = _batch(frame)
    suite = ExpectationSuite(name="measures")
    for number, measure in enumerate(measures):
        try:
            expectation = ExpectColumnValuesToBeBetween(
                column=str(number),
                min_value=measure.least,
                max_value=measure.most,
                severity=FailureSeverity(measure.severity),
                meta={"number": number},  # without it, equal bounds on one column would be one expectation
            )
        except ValueError as error:
            raise RuntimeError(f"{measure.table}: {measure.check}: could not be carried out: {error}") from error
        suite.add_expectation(expectation)
    outcome = batch.validate(suite, result_format="BASIC")
    passed: dict[int, bool] = {}
    for result in outcome.results:
        config = result.expectation_config
        assert config is not None
        number = config.meta["number"]
        measure, found = measures[number], result.result
        problems = _exceptions(result.exception_info)
        # A null would be left out and pass.
        if not problems and (found.get("element_count"), found.get("missing_count")) != (1, 0):
            problems = [f"one figure expected, found {found}"]
        if problems:
            raise RuntimeError(f"{measure.table}: {measure.check}: could not be carried out: {'; '.join(problems)}")
        passed[number] = bool(result.success)
    if len(passed) != len(measures):
        raise RuntimeError(f"{len(measures)} checks were asked for, {len(passed)} were carried out")
    return [passed[number] for number in range(len(measures))]


def _batch(frame: pd.DataFrame) -> Batch:
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    library = gx.get_context(mode="ephemeral")
    library.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = library.data_sources.add_pandas("figures").add_dataframe_asset("measures")
    return asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})


def _exceptions(info: dict[str, Any]) -> list[str]:
    """Messages of what went wrong inside the library, which keeps them flat or by metric."""
    entries = [info] if "raised_exception" in info else list(info.values())
    return [str(e["exception_message"]) for e in entries if e["raised_exception"]]
