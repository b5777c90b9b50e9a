"""The click log: delivered events → what shoppers did, one row a query, item and day, and a quarantine.

Tables: clicks, propensities, shown_lists (of the evaluation days; of others the interleaved ones), quarantine and quarantine_counts (source `click_log`). Each day is an output of its own
(`jobs/extract_click_days.py`), made once; here they are put together, and clicks weighed by place (`position_bias.py`).
"""

from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import Row, SparkSession

from jobs.extract_click_days import count_events, extract_days
from jobs.lake_tables import at_hand, published_files, read_published
from jobs.position_bias import estimate_propensities
from jobs.spark_session import count_rows, run_sql, spark_session, write_table
from smar_model.lake.artifacts import Artifact
from smar_model.lake.contracts import write_rows
from smar_model.lake.stage import StageContext

POSITIONS = 50
"""Places with a propensity of their own; the last stands for all further down."""
PAIRS = 200_000
"""Most pairs of query and item that propensities are estimated from: the error is under 1 % long before."""
CLICKED_PAIRS = 5 * PAIRS
"""About as many of those clicked are looked at: most were seen at one place only."""
MAXIMUM_WEIGHT = 10.0
"""Most that one click counts, however far down the list: bounds the variance of weighted clicks."""


def run(context: StageContext) -> dict[str, float]:
    """Write the tables; returns counts, which add up: rows_in = rows_kept + every quarantined_<reason>.

    Raises:
        InputError: a day of the window has no events, or a file is damaged, or lacks or retypes a column.
    """
    with spark_session(context) as spark:
        days = extract_days(spark, context)
        files = [file for day in days for file in published_files(day, "clicks_by_position")]
        kept = read_published(spark, "clicks_by_position", files)
        kept.createOrReplaceTempView("clicks_by_position")
        catalogue = read_published(spark, "catalogue", published_files(context.input("prepare-items"), "catalogue"))
        catalogue.createOrReplaceTempView("catalogue")
        propensities = _propensities(spark, context)
        write_rows(context.output("propensities"), "propensities", propensities)
        context.report("weighing clicks by position")
        weights = [round(1_000_000 * min(1 / p["propensity"], MAXIMUM_WEIGHT)) for p in propensities]
        run_sql(spark, "extract_clicks", weights=weights)
        clicks = write_table(spark.table("clicks"), context, "clicks", rebalance=False)
        unknown = spark.table("unknown_items").orderBy("day", "item_id").collect()
    lists = _pass_lists_on(context, days)
    reasons = _write_quarantine(context, days, unknown)
    events_by_kind = count_events(at_hand(context, clicks))
    metrics: dict[str, float] = {
        "rows_in": sum(day.metrics["rows_in"] for day in days),
        "rows_kept": sum(events_by_kind.values()),
        "rows_quarantined": reasons.total(),
        **{f"quarantined_{reason}": count for reason, count in sorted(reasons.items())},
        **events_by_kind,
        "rows_out": count_rows(clicks),
        **lists,
        **{
            f"propensity_{p['position']}": round(p["propensity"], 4)
            for p in propensities
            if p["position"] in (2, 5, 10)
        },
    }
    if metrics["rows_in"] != metrics["rows_kept"] + metrics["rows_quarantined"]:
        raise RuntimeError(f"extract-clicks lost or doubled events: {metrics}")
    return metrics


def _propensities(spark: SparkSession, context: StageContext) -> list[dict[str, float]]:
    """Rows of the table `propensities`, one a place from 1 on without a gap."""
    days = context.run.training_days
    run_sql(spark, "extract_clicks_totals", first_day=days[0], last_day=days[-1], positions=POSITIONS)
    totals = {row.position: row for row in spark.table("position_totals").collect()}
    share = min(1.0, CLICKED_PAIRS / max(1, sum(row.clicks for row in totals.values())))
    run_sql(spark, "extract_clicks_positions", share=share, pairs=PAIRS)
    pairs = spark.table("position_pairs").toArrow()
    position, impressions, clicks = (
        pc.list_flatten(pairs[name]).to_numpy().astype(np.int64) for name in ("positions", "impressions", "clicks")
    )
    places = max(totals, default=1)
    pair = np.repeat(np.arange(pairs.num_rows), pc.list_value_length(pairs["positions"]).to_numpy())
    theta, error = estimate_propensities(pair, position, impressions, clicks, positions=places)
    return [
        {
            "position": place,
            "propensity": round(float(theta[place - 1]), 6),
            "standard_error": round(float(error[place - 1]), 6),
            "impressions": totals[place].impressions if place in totals else 0,
            "clicks": totals[place].clicks if place in totals else 0,
        }
        for place in range(1, places + 1)
    ]


def _pass_lists_on(context: StageContext, days: list[Artifact]) -> dict[str, int]:
    """Copy the lists shown on the evaluation days, and the interleaved ones of the others, a file a day; returns how many there are."""
    wanted = {str(day) for day in context.run.evaluation_days}
    counts = {"lists_of_evaluation_days": 0, "interleaved_lists_of_other_days": 0}
    for day in days:
        name = day.metrics["day"]
        for number, file in enumerate(at_hand(context, published_files(day, "shown_lists"))):
            copy = context.output(f"shown_lists/{name}-{number}.parquet")
            if name in wanted:
                shutil.copyfile(file, copy)
                counts["lists_of_evaluation_days"] += count_rows([file])
                continue
            # Only interleaved ones have a shopper.
            interleaved = pq.read_table(file, filters=pc.field("shopper").is_valid())
            if interleaved.num_rows:
                pq.write_table(interleaved, copy)
                counts["interleaved_lists_of_other_days"] += interleaved.num_rows
    return counts


def _write_quarantine(context: StageContext, days: list[Artifact], unknown: list[Row]) -> Counter[str]:
    """Write samples and counts of all days, unknown items included; returns events by reason."""
    samples, counts = (
        [
            row
            for day in days
            for file in at_hand(context, published_files(day, table))
            for row in pq.read_table(file).to_pylist()
        ]
        for table in ("quarantine", "quarantine_counts")
    )
    by_reason = {"source": "click_log", "reason": "unknown_item"}
    samples += [
        by_reason | {"row_key": row["item_id"], "detail": f"{row['rows']} events on {row['day']}"} for row in unknown
    ]
    by_day = {row["day"]: row["rows_of_day"] for row in unknown}
    counts += [by_reason | {"day": day, "rows": rows} for day, rows in by_day.items()]
    write_rows(context.output("quarantine"), "quarantine", samples)
    write_rows(context.output("quarantine_counts"), "quarantine_counts", counts)
    reasons: Counter[str] = Counter()
    for row in counts:
        reasons[row["reason"]] += row["rows"]
    return reasons
