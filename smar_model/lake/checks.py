"""The checks between Spark and training: Great Expectations over every table, and over the run as a whole.

What a table must be stands in its contract (`schemas/*.yaml`): columns that may not be null, allowed values, and
`checks:` with their severities. What a day must be stands in `settings.checks`. A failed critical check ends the
run before training; a warning is reported.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from smar_model.errors import InputError
from smar_model.lake.artifacts import replace_file
from smar_model.lake.contracts import Contract, load_contract
from smar_model.lake.stage import StageContext

# Before its first import: the library would report its use to its makers.
os.environ["GX_ANALYTICS_ENABLED"] = "false"

if TYPE_CHECKING:
    from great_expectations.datasource.fluent.interfaces import DataAsset

TABLES = (
    ("prepare-items", "catalogue"),
    ("prepare-items", "pictures"),
    ("prepare-items", "quarantine"),
    ("extract-clicks", "clicks"),
    ("extract-clicks", "quarantine"),
    ("generate-queries", "synthetic_queries"),
    ("label-fashion", "fashion_labels"),
)
SAMPLE = 20
"""Keys or values shown for each reason or failed check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The outcome of one check."""

    table: str
    """`stage/table`, or `run` for what concerns the run as a whole."""
    check: str
    severity: str
    """`critical` or `warning`."""
    passed: bool
    observed: str
    detail: str = ""
    """What is wrong, with samples, and what to do; empty where the check passed."""


def run(context: StageContext) -> dict[str, float]:
    """Check every table and the run; write `checks.json` and `checks.html`; returns counts and the shares judged.

    Raises:
        InputError: a critical check failed. The page lies in the run's folder then.
        RuntimeError: the checking library could not carry out a check; such a check never passes.
    """
    checks: list[Check] = []
    for stage, table in TABLES:
        context.report(f"checking {stage}/{table}")
        frame = read_columns(context.table(stage, table), load_contract(table))
        checks += check_table(load_contract(table), frame, name=f"{stage}/{table}")
    shares = observe(context)
    checks += check_run(context, shares)
    page = render_page(checks, title=f"Data checks, {context.run.days[0]} to {context.run.days[-1]}")
    replace_file(context.run.folder / "checks.html", page)
    failed = [c for c in checks if not c.passed and c.severity == "critical"]
    if failed:
        lines = "\n".join(f"- {c.table}: {c.check}: {c.observed}. {c.detail}" for c in failed)
        raise InputError(
            f"{len(failed)} of {len(checks)} data checks failed, nothing is trained on this data "
            f"(all checks: {context.run.folder / 'checks.html'}):\n{lines}"
        )
    warnings = [c for c in checks if not c.passed]
    for warning in warnings:
        context.report(f"warning: {warning.table}: {warning.check}: {warning.observed}. {warning.detail}")
    context.output("checks.html").write_text(page, encoding="utf-8")
    content = json.dumps([asdict(c) for c in checks], indent=1, ensure_ascii=False)
    context.output("checks.json").write_text(content, encoding="utf-8")
    return {"checks": len(checks), "failed_warnings": len(warnings), **{k: round(v, 4) for k, v in shares.items()}}


def read_columns(files: Iterable[Path], contract: Contract) -> pd.DataFrame:
    """A table without its binary columns, whose contents no expectation looks at."""
    schema = contract.arrow_schema()
    names = [f.name for f in schema if not pa.types.is_binary(f.type)]
    parts = [pq.ParquetFile(file).read(columns=names) for file in files]
    whole = pa.concat_tables(parts) if parts else pa.schema([schema.field(name) for name in names]).empty_table()
    return whole.to_pandas(self_destruct=True)


def expectations(contract: Contract) -> list[tuple[str, dict[str, Any], str]]:
    """What a contract demands, as (expectation, arguments, severity)."""
    demands: list[tuple[str, dict[str, Any], str]] = []
    for column in contract.columns:
        if not column.nullable and column.type != "binary":
            demands.append(("expect_column_values_to_not_be_null", {"column": column.name}, "critical"))
        if column.allowed:
            arguments = {"column": column.name, "value_set": list(column.allowed)}
            demands.append(("expect_column_values_to_be_in_set", arguments, "critical"))
    return demands + [(c.expectation, c.kwargs, c.severity) for c in contract.checks]


def check_table(contract: Contract, frame: pd.DataFrame, *, name: str) -> list[Check]:
    """Validate a table against its contract with Great Expectations.

    Raises:
        RuntimeError: the library could not carry out a check.
    """
    from great_expectations.expectations.metadata_types import FailureSeverity
    from great_expectations.expectations.registry import get_expectation_impl

    batch_definition = _asset(name).add_batch_definition_whole_dataframe("all")  # type: ignore[attr-defined]
    batch = batch_definition.get_batch({"dataframe": frame})
    result_format = {"result_format": "SUMMARY", "partial_unexpected_count": SAMPLE}
    checks = []
    for expectation, arguments, severity in expectations(contract):
        call = f"{expectation}({', '.join(f'{k}={v}' for k, v in arguments.items())})"
        try:
            demand = get_expectation_impl(expectation)(**arguments, severity=FailureSeverity(severity))
            outcome = batch.validate(demand, result_format=result_format)
        except Exception as error:
            raise RuntimeError(f"{name}: {call} could not be carried out: {error}") from error
        if problems := _exceptions(outcome.exception_info):
            raise RuntimeError(f"{name}: {call} could not be carried out: {'; '.join(problems)}")
        found = outcome.result
        observed = f"{len(frame):,} rows"
        if "unexpected_count" in found:
            observed = f"{found['unexpected_count']:,} of {found['element_count']:,} rows differ"
        elif "observed_value" in found:
            observed = str(found["observed_value"])
        detail = ""
        if not outcome.success:
            samples = [str(v) for v in found.get("partial_unexpected_list") or []]
            detail = f"{f'Such as {samples}. ' if samples else ''}Stated in schemas/{contract.table}.yaml."
        checks.append(
            Check(
                table=name,
                check=call,
                severity=severity,
                passed=bool(outcome.success),
                observed=observed,
                detail=detail,
            )
        )
    return checks


def _asset(name: str) -> DataAsset:
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    library = gx.get_context(mode="ephemeral")
    library.variables.progress_bars = ProgressBarsConfig(globally=False)
    return library.data_sources.add_pandas("tables").add_dataframe_asset(name)


def _exceptions(info: dict[str, Any]) -> list[str]:
    """Messages of what went wrong inside the library, which keeps them flat or by metric."""
    entries = [info] if "raised_exception" in info else list(info.values())
    return [str(e["exception_message"]) for e in entries if e["raised_exception"]]


def observe(context: StageContext) -> dict[str, float]:
    """The figures that `settings.checks` bounds."""
    items, events = context.input("prepare-items").metrics, context.input("extract-clicks").metrics
    queries = context.input("generate-queries").metrics
    return {
        "quarantined_items": _share(items["items_quarantined"], items["items_in"]),
        "quarantined_events": _share(events["rows_quarantined"], events["rows_in"]),
        "broken_pictures": _share(items["pictures_quarantined"], items["pictures_in"]),
        "training_clicks": int(_clicks_by_day(context).reindex(context.run.training_days, fill_value=0).sum()),
        "per_true_query": queries["per_true_query"],
    }


def check_run(context: StageContext, observed: dict[str, float]) -> list[Check]:
    """Compare the run with `settings.checks`, and look for what the training days must not know."""
    bounds, root, run = context.settings.checks, context.shop.root, context.run
    checks: list[Check] = []

    def add(check: str, *, passed: bool, observed: str, detail: str, severity: str = "critical") -> None:
        detail = "" if passed else detail
        checks.append(
            Check(table="run", check=check, severity=severity, passed=passed, observed=observed, detail=detail)
        )

    quarantines = (
        ("items", "prepare-items", "quarantined_items", "maximum_quarantined", root / "items*"),
        ("click_log", "extract-clicks", "quarantined_events", "maximum_quarantined", root / "click_log"),
        ("pictures", "prepare-items", "broken_pictures", "maximum_broken_pictures", context.shop.pictures().path),
    )
    for source, stage, figure, bound, place in quarantines:
        share, most = observed[figure], getattr(bounds, bound)
        add(
            f"share of {source} in quarantine at most {most:g} (settings.checks.{bound})",
            passed=share <= most,
            observed=f"{share:.4g}",
            detail=f"Rows of {place} by reason, with keys:\n{describe_quarantine(context, stage, source)}\n"
            f"  Correct them in {place} and deliver again, or raise settings.checks.{bound} if this is how it is.",
        )
    clicks = int(observed["training_clicks"])
    add(
        f"clicks in the training days at least {bounds.minimum_training_clicks} "
        "(settings.checks.minimum_training_clicks)",
        passed=clicks >= bounds.minimum_training_clicks,
        observed=f"{clicks:,}",
        detail=f"Read from {root / 'click_log'}, {run.training_days[0]} to {run.training_days[-1]}; take more days "
        "(settings.window.days) or lower the bound.",
    )
    asked, ratio = context.settings.synthetic_queries.per_true_query, observed["per_true_query"]
    for part, severity in ((1.0, "warning"), (0.1, "critical")):
        add(
            f"synthetic queries for each true one at least {asked * part:g}"
            f"{'' if part == 1 else ', a tenth of settings.synthetic_queries.per_true_query'}",
            severity=severity,
            passed=ratio >= asked * part,
            observed=f"{ratio:g}",
            detail="What sellers wrote gives too few different texts; let them write more, or raise "
            "settings.synthetic_queries.maximum_words.",
        )
    by_day = _clicks_by_day(context)
    silent = [str(day) for day in run.days if not by_day.get(day, 0)]
    add(
        "every day of the window has clicks",
        passed=not silent,
        observed=f"{len(run.days) - len(silent)} of {len(run.days)} days",
        detail=f"None in {', '.join(silent)}; see the rows of {root / 'click_log'} in quarantine:\n"
        f"{describe_quarantine(context, 'extract-clicks', 'click_log')}",
    )
    for check, rows, detail in find_leaks(context):
        add(check, passed=rows == 0, observed=f"{rows:,} rows", detail=detail)
    return checks


def find_leaks(context: StageContext) -> list[tuple[str, int, str]]:
    """What training tables hold that was not known before the cutoff, as (check, offending rows, detail)."""
    run = context.run
    catalogue = _read(context, "prepare-items", "catalogue", ["item_id", "updated_at"])
    known = catalogue.loc[catalogue["updated_at"] < pd.Timestamp(run.cutoff), "item_id"]
    synthetic = _read(context, "generate-queries", "synthetic_queries", ["item_id"])
    later = synthetic.loc[~synthetic["item_id"].isin(known), "item_id"]
    clicks = _read(context, "extract-clicks", "clicks", ["day", "query", "clicks"])
    outside = clicks.loc[~clicks["day"].isin(run.days), "day"]
    labels = _read(context, "label-fashion", "fashion_labels", ["query", "clicks"])
    before = clicks[clicks["day"].isin(run.training_days)].groupby("query")["clicks"].sum()
    differing = labels.loc[labels["query"].map(before).fillna(0).to_numpy() != labels["clicks"].to_numpy(), "query"]
    return [
        (
            f"synthetic queries come from items last changed before {run.cutoff:%Y-%m-%d}",
            len(later),
            f"Items {sorted(set(later))[:SAMPLE]}.",
        ),
        ("clicks lie in the window", len(outside), f"Days {sorted(map(str, set(outside)))[:SAMPLE]}."),
        (
            "fashion labels count the clicks of the training days alone",
            len(differing),
            f"Queries {sorted(differing)[:SAMPLE]}.",
        ),
    ]


def describe_quarantine(context: StageContext, stage: str, source: str) -> str:
    """Unused rows of a source by reason, the most frequent first, with up to SAMPLE keys each; a line a reason."""
    rows = _read(context, stage, "quarantine", ["source", "row_key", "reason"])
    lines = []
    for reason, count in rows.loc[rows["source"] == source, "reason"].value_counts().items():
        keys = sorted(rows.loc[(rows["source"] == source) & (rows["reason"] == reason), "row_key"])[:SAMPLE]
        lines.append(f"  {reason} {count:,}: {', '.join(keys)}{', …' if count > SAMPLE else ''}")
    return "\n".join(lines) or "  (no row)"


def _read(context: StageContext, stage: str, table: str, columns: list[str]) -> pd.DataFrame:
    schema = load_contract(table).arrow_schema()
    parts = [pq.ParquetFile(file).read(columns=columns) for file in context.table(stage, table)]
    whole = pa.concat_tables(parts) if parts else pa.schema([schema.field(name) for name in columns]).empty_table()
    return whole.to_pandas()


def _clicks_by_day(context: StageContext) -> pd.Series:
    return _read(context, "extract-clicks", "clicks", ["day", "clicks"]).groupby("day")["clicks"].sum()


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def render_page(checks: list[Check], *, title: str) -> str:
    """The checks as one HTML page that needs nothing else; failed ones first."""
    order = {(False, "critical"): 0, (False, "warning"): 1}
    rows = []
    for check in sorted(checks, key=lambda c: order.get((c.passed, c.severity), 2)):
        state = "passed" if check.passed else check.severity
        cells = (state, check.table, check.check, check.observed, check.detail)
        rows.append(f'<tr class="{state}">' + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    failed = sum(not c.passed and c.severity == "critical" for c in checks)
    warned = sum(not c.passed and c.severity != "critical" for c in checks)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1c1c1c }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid #ddd }}
td {{ white-space: pre-wrap; overflow-wrap: anywhere }}
.critical td:first-child {{ background: #b3261e; color: white }}
.warning td:first-child {{ background: #f2c14e }}
.passed td:first-child {{ color: #2e6b34 }}
</style></head><body><h1>{html.escape(title)}</h1>
<p>{len(checks)} checks: {failed} failed, {warned} warnings.</p>
<table><thead><tr><th>State</th><th>Table</th><th>Check</th><th>Observed</th><th>Detail</th></tr></thead>
<tbody>
{chr(10).join(rows)}
</tbody></table></body></html>
"""
