"""Days of the click log, each extracted once: an output of its own, of that day's files and of those numbers of the
catalogue that are in its queries.

Tables of a day: clicks_by_position, shown_lists, quarantine (samples), quarantine_counts. Rules: `sql/extract_clicks_days.sql`.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from jobs.lake_tables import at_hand, published_files, stored_paths, write_parts
from jobs.spark_session import count_rows, read_table, run_sql, spark_schema
from smar_model.data.catalogue import read_catalogue_numbers
from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact, find_artifact, find_whole_artifact
from smar_model.lake.contracts import load_contract, write_rows
from smar_model.lake.digests import digest_json
from smar_model.lake.object_paths import AnyPath
from smar_model.lake.publishing import Attempt
from smar_model.lake.stage import StageContext
from smar_model.lake.stage_code import code_version
from smar_model.lake.stored_outputs import lake_url

STAGE = "extract-clicks-day"
SAMPLE_BUCKETS = 1_000_000
"""Into which shoppers are hashed, to draw `clicks.sample_share` of them."""
BOT_CLICKS, BOT_DWELL_SECONDS = 5, 1.0
"""A session with as many clicks, all of them sooner after their impression, is a bot; likewise one with as many clicks, carts or
orders on what it was not shown."""
SKEW_SECONDS = 15 * 60
"""How far clocks and late delivery may move an event out of its folder's day."""

LISTS_PER_DAY = 20_000
"""Requests of a day whose lists are kept, those with a click first; interleaved ones are kept besides, all of them."""
WRITTEN = ("clicks_by_position", "shown_lists")
"""Tables of a day that Spark writes."""


def extract_days(spark: SparkSession, context: StageContext) -> list[Artifact]:
    """The output of each day of the run; those that are missing are made in one pass and published one by one.

    Raises:
        InputError: a day of the window has no events, or a file is damaged, or lacks or retypes a column.
    """
    files = {day: context.shop.click_log(day) for day in context.run.days}
    rows_in = {day: count_rows(of_day) for day, of_day in files.items()}
    for day, rows in rows_in.items():
        if not rows:
            raise InputError(
                f"{files[day][0].parent}: its files hold no events; deliver the day's log or choose another date"
            )
    typed = _typed_catalogue_numbers(spark, context, files)
    keys = {day: _key(context, day, typed.get(day, [])) for day in files}
    missing = [day for day in files if not find_whole_artifact(STAGE, keys[day])]
    context.report(f"{sum(rows_in.values()):,} events of {len(files)} days, {len(missing)} of them to extract")
    if missing:
        numbers = sorted({number for day in missing for number in typed.get(day, ())})
        _extract(spark, context, {day: files[day] for day in missing}, rows_in, keys, numbers)
    found = [find_artifact(STAGE, keys[day]) for day in files]
    return [artifact for artifact in found if artifact]


def _typed_catalogue_numbers(
    spark: SparkSession, context: StageContext, files: dict[date, list[AnyPath]]
) -> dict[date, list[str]]:
    """Numbers that the catalogue holds and shoppers typed on a day, which its extraction does not mask, sorted.

    They alone are what a day takes from the catalogue: it is extracted again where one of them has come or gone.
    """
    numbers = read_catalogue_numbers(at_hand(context, published_files(context.input("prepare-items"), "catalogue")))
    if not numbers:
        return {}
    delivered = [file for of_day in files.values() for file in of_day]
    events = read_table(
        spark, "click_log", delivered, partitioned_below=context.shop.root / "click_log", zone=context.shop.zone
    )
    spark.createDataFrame(pd.DataFrame({"number": numbers})).createOrReplaceTempView("catalogue_numbers")
    events.createOrReplaceTempView("delivered_events")
    run_sql(spark, "find_typed_numbers")
    return {row.dt: sorted(row.numbers) for row in spark.table("typed_numbers").collect()}


def _key(context: StageContext, day: date, catalogue_numbers: list[str]) -> str:
    return digest_json(
        {
            **code_version(STAGE),
            "day": str(day),
            "click_log": context.shop.digest_click_log([day]),
            "catalogue_numbers": catalogue_numbers,
            "settings": context.settings.section("clicks"),
        }
    )


def _extract(
    spark: SparkSession,
    context: StageContext,
    files: dict[date, list[AnyPath]],
    rows_in: dict[date, int],
    keys: dict[date, str],
    catalogue_numbers: list[str],
) -> None:
    delivered = [file for of_day in files.values() for file in of_day]
    events = read_table(
        spark,
        "click_log",
        delivered,
        partitioned_below=context.shop.root / "click_log",
        zone=context.shop.zone,
        report=context.report,
        read_again=True,
    )
    settings = context.settings.clicks
    if settings.sample_share < 1:
        drawn = F.pmod(F.xxhash64("user_id"), F.lit(SAMPLE_BUCKETS)) < round(settings.sample_share * SAMPLE_BUCKETS)
        events = events.where(drawn)
        rows_in = dict.fromkeys(files, 0) | {row.dt: row["count"] for row in events.groupBy("dt").count().collect()}
    events.createOrReplaceTempView("delivered_events")
    kinds = next(c.allowed for c in load_contract("click_log").columns if c.name == "event")
    run_sql(
        spark,
        "extract_clicks_days",
        # Ids of shoppers tell events of one pass apart and are written nowhere, so nobody needs to know the salt.
        salt=secrets.token_hex(16),
        catalogue_numbers=catalogue_numbers,
        kinds=list(kinds or ()),
        skew_seconds=SKEW_SECONDS,
        bot_requests_per_day=settings.bot_requests_per_day,
        bot_requests_per_minute=settings.bot_requests_per_minute,
        bot_clicks=BOT_CLICKS,
        bot_dwell_seconds=BOT_DWELL_SECONDS,
        lists_per_day=LISTS_PER_DAY,
    )
    attempts = {day: Attempt(STAGE, keys[day]) for day in files}
    try:
        _write_days(spark, context, attempts)
        _publish_days(spark, context, attempts, rows_in)
    except BaseException:
        for attempt in attempts.values():
            attempt.discard()
        raise


def _write_days(spark: SparkSession, context: StageContext, attempts: dict[date, Attempt]) -> None:
    """Write the rows of each day into its attempt; a table that has none of a day is not there."""
    contracts = (load_contract("clicks_by_position"), load_contract("shown_lists"))
    # Hidden: this attempt does not publish it, and it is swept with the attempt.
    folder = context.output(".days")
    for name, contract in zip(WRITTEN, contracts, strict=True):
        table = spark.table(name).to(spark_schema(contract))
        by_day = table.withColumn("dt", F.col("day")).hint("rebalance", "dt")
        if lake_url():
            folders = {str(day): attempt.stored_folder for day, attempt in attempts.items()}
            parts = write_parts(by_day, context, name, attempts=folders, by="dt")
            for attempt in attempts.values():
                if of_day := [part for part in parts if part.attempt == attempt.stored_folder]:
                    attempt.parts[name] = of_day
            continue
        by_day.write.partitionBy("dt").mode("overwrite").parquet(str(folder / name))
        for day, attempt in attempts.items():
            if (written := folder / name / f"dt={day}").is_dir():
                written.rename(attempt.folder / name)
    shutil.rmtree(folder, ignore_errors=True)


def _publish_days(
    spark: SparkSession, context: StageContext, attempts: dict[date, Attempt], rows_in: dict[date, int]
) -> None:
    unused: dict[date, list[Row]] = {day: [] for day in attempts}
    for row in spark.table("quarantine_samples").collect():
        unused[row.day].append(row)
    for name in ("normalised_queries", "judged_events", "requests"):
        spark.sql(f"DROP TABLE {name}")
    for day in list(attempts):
        # Taken out first: what may have been published is not discarded.
        _publish_day(context, day, attempts.pop(day), unused[day], rows_in=rows_in[day])


def _publish_day(context: StageContext, day: date, attempt: Attempt, unused: list[Row], *, rows_in: int) -> None:
    """Publish what was written of a day, with the counts and samples of what was not used; they add up."""
    counts = {row.reason: row.rows for row in unused}
    stored = attempt.parts.get("clicks_by_position", [])
    clicks: list[AnyPath] = [*sorted((attempt.folder / "clicks_by_position").glob("*.parquet")), *stored_paths(stored)]
    kept = sum(count_events(at_hand(context, clicks)).values())
    if kept + sum(counts.values()) != rows_in:
        raise RuntimeError(f"{day}: {rows_in} events came in, {kept} were kept, {counts} not")
    write_rows(attempt.folder / "quarantine", "quarantine", [row.asDict() for row in unused])
    rows = [{"source": "click_log", "day": day, "reason": reason, "rows": n} for reason, n in sorted(counts.items())]
    write_rows(attempt.folder / "quarantine_counts", "quarantine_counts", rows)
    attempt.publish(
        metrics={"day": str(day), "rows_in": rows_in, "rows_kept": kept},
        inputs={},
        settings={"clicks": context.settings.section("clicks")},
    )


def count_events(files: Sequence[Path]) -> dict[str, int]:
    """Events by kind that rows of clicks or clicks_by_position stand for, in the memory of a few of them."""
    totals = dict.fromkeys(("impressions", "clicks", "carts", "orders"), 0)
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(columns=list(totals)):
            for kind in totals:
                totals[kind] += pc.sum(batch[kind]).as_py() or 0
    return totals
