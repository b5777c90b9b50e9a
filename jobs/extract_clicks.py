"""The click log: delivered events → what shoppers did, one row a query, item and day, and a quarantine.

Tables: clicks, quarantine (source `click_log`). Rules and their order: `sql/extract_clicks.sql`.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from jobs.spark_session import (
    count_quarantined,
    count_rows,
    read_published,
    read_table,
    run_sql,
    spark_session,
    write_table,
)
from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.lake.stage import StageContext


def run(context: StageContext) -> dict[str, int]:
    """Write the tables; returns counts, which add up: rows_in = rows_kept + every quarantined_<reason>.

    Raises:
        InputError: a day of the window has no events, or a file is damaged, or lacks or retypes a column.
    """
    files = {day: context.shop.click_log(day) for day in context.run.days}
    delivered = [file for of_day in files.values() for file in of_day]
    kinds = next(c.allowed for c in load_contract("click_log").columns if c.name == "event")
    with spark_session(context) as spark:
        events = read_table(spark, "click_log", delivered, partitioned_below=context.shop.root / "click_log")
        for of_day in files.values():
            if count_rows(of_day) == 0:
                raise InputError(
                    f"{of_day[0].parent}: its files hold no events; deliver the day's log or choose another date"
                )
        rows_in = count_rows(delivered)
        context.report(f"{rows_in:,} events of {len(files)} days")
        events.createOrReplaceTempView("events")
        catalogue = read_published(spark, "catalogue", context.table("prepare-items", "catalogue"))
        catalogue.createOrReplaceTempView("catalogue")
        bot_requests = context.settings.clicks.bot_requests_per_day
        run_sql(spark, "extract_clicks", events=list(kinds or ()), bot_requests=bot_requests)
        clicks = write_table(spark.table("clicks"), context, "clicks")
        quarantine = write_table(spark.table("quarantine"), context, "quarantine")
    reasons = {reason: count for (_, reason), count in count_quarantined(quarantine).items()}
    kinds_kept = ds.dataset(clicks).to_table(columns=["impressions", "clicks", "carts", "orders"])
    events_by_kind = {name: _total(kinds_kept[name]) for name in kinds_kept.column_names}
    metrics = {
        "rows_in": rows_in,
        "rows_kept": sum(events_by_kind.values()),
        "rows_quarantined": sum(reasons.values()),
        **{f"quarantined_{reason}": count for reason, count in sorted(reasons.items())},
        **events_by_kind,
        "rows_out": kinds_kept.num_rows,
    }
    if rows_in != metrics["rows_kept"] + metrics["rows_quarantined"]:
        raise RuntimeError(f"extract-clicks lost or doubled events: {metrics}")
    return metrics


def _total(column: pa.ChunkedArray) -> int:
    return pc.sum(column).as_py() or 0
