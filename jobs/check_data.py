"""The checks between Spark and training: every table against its contract, and the run against `settings.checks`.

Spark counts, Great Expectations judges the counts (`smar_model/checks/expectations.py`). A failed critical check ends the run
before training; a warning is shown. Output: checks.json, checks.html.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq

from jobs.lake_tables import at_hand, published_files, read_published
from jobs.spark_session import run_sql, spark_session
from jobs.table_summaries import TableSummary, summarise_tables
from smar_model.checks.checks_page import TableRows, render_page
from smar_model.checks.drift_limits import drift_measures
from smar_model.checks.expectations import SAMPLE, judge
from smar_model.checks.outcomes import Check
from smar_model.checks.run_checks import RunFigures, run_measures
from smar_model.errors import InputError
from smar_model.lake.contracts import has_contract
from smar_model.lake.shared_files import replace_file
from smar_model.lake.stage import StageContext

QUARANTINES = ("prepare-items", "extract-clicks")
READ_BY_SQL = {
    "catalogue": ("prepare-items",),
    "clicks": ("extract-clicks",),
    "propensities": ("extract-clicks",),
    "quarantine_counts": QUARANTINES,
    "synthetic_queries": ("generate-queries",),
    "fashion_labels": ("label-fashion",),
}
"""Tables of sql/check_data.sql and the stages that write them."""


def run(context: StageContext) -> dict[str, float]:
    """Check every table of the inputs and the run; returns counts and the figures judged.

    Raises:
        InputError: a critical check failed. The page lies in the run's folder then.
        RuntimeError: a figure could not be measured or a check not be carried out; such a check never passes.
    """
    tables = [
        (stage, table, published_files(artifact, table))
        for stage, artifact in context.inputs.items()
        for table in sorted(artifact.manifest["content"])
        if has_contract(table)
    ]
    with spark_session(context) as spark:
        context.report(f"summarising {len(tables)} tables")
        summaries = summarise_tables(spark, tables)
        for table, stages in READ_BY_SQL.items():
            files = [file for stage in stages for file in published_files(context.input(stage), table)]
            if not files:
                raise RuntimeError(f"{table}: not among the outputs of {', '.join(stages)}, which the checks look at")
            read_published(spark, table, files).createOrReplaceTempView(table)
        days = context.run.days
        run_sql(
            spark,
            "check_data",
            first_day=days[0],
            last_day=days[-1],
            last_training_day=context.run.training_days[-1],
            cutoff=context.run.cutoff,
        )
        context.report("measuring the run")
        figures = RunFigures(
            table=spark.table("figures").toPandas(),
            samples=read_samples(
                at_hand(context, [f for s in QUARANTINES for f in published_files(context.input(s), "quarantine")])
            ),
            leaking_keys=lambda view: [
                row.key for row in spark.table(view).select("key").distinct().orderBy("key").limit(SAMPLE).collect()
            ],
        )
        measures = [measure for summary in summaries for measure in summary.measures()]
        measures += run_measures(context, figures) + drift_measures(context.input("measure-drift"))
        checks = judge(measures)
    write_pages(context, checks, figures, summaries)
    failed = [c for c in checks if not c.passed and c.severity == "critical"]
    if failed:
        raise InputError(
            f"{len(failed)} of {len(checks)} data checks failed, nothing is trained on this data "
            f"(all checks: {context.run.folder / 'checks.html'}):\n" + "\n".join(map(_line, failed))
        )
    warnings = [c for c in checks if not c.passed]
    for warning in warnings:
        context.report(f"warning: {_line(warning)}")
    context.report(f"{len(checks)} checks, {len(warnings)} warnings: {context.run.folder / 'checks.html'}")
    named = {m.metric: round(float(m.value), 4) for m in measures if m.metric and m.value is not None}
    return {"checks": len(checks), "failed_warnings": len(warnings), **named}


def _line(check: Check) -> str:
    return f"- {check.table}: {check.check}: {check.observed}. {check.detail}"


def read_samples(files: Sequence[Path]) -> dict[tuple[str, str], list[str]]:
    """Keys of rows in quarantine by (source, reason), at most SAMPLE each; the table itself holds samples alone."""
    samples: dict[tuple[str, str], set[str]] = {}
    for file in files:
        for row in pq.read_table(file, columns=["source", "reason", "row_key"]).to_pylist():
            samples.setdefault((row["source"], row["reason"]), set()).add(row["row_key"])
    return {reason: sorted(keys)[:SAMPLE] for reason, keys in samples.items()}


def write_pages(
    context: StageContext, checks: Sequence[Check], figures: RunFigures, summaries: Sequence[TableSummary]
) -> None:
    """Write checks.json and checks.html, into the run's folder too, as a failed stage publishes nothing."""
    counts = figures.by_key("quarantined")
    unused = []
    for key, rows in counts.sort_values(ascending=False, kind="stable").items():
        source, reason = str(key).split("/", 1)
        unused.append((source, reason, int(rows), ", ".join(figures.samples.get((source, reason), []))))
    tables = [
        TableRows(
            name=summary.name,
            rows=summary.rows,
            columns=[(c, nulls, *summary.ranges.get(c, (None, None))) for c, nulls in summary.nulls.items()],
        )
        for summary in summaries
    ]
    title = f"Data checks, {context.run.days[0]} to {context.run.days[-1]}"
    page = render_page(checks, title=title, unused=unused, tables=tables)
    content = json.dumps([asdict(c) for c in checks], indent=1, ensure_ascii=False)
    for name, text in (("checks.html", page), ("checks.json", content)):
        replace_file(context.run.folder / name, text)
        context.output(name).write_text(text, encoding="utf-8")
