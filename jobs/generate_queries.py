"""Synthetic queries for pretraining, from what sellers wrote.

Tables: synthetic_queries; query_sample, a part of them beside true queries, for measure-drift. SMAR (section 2.3.2)
pretrains on more than 100 synthetic queries for each true one. How they are made: `sql/generate_queries.sql`.
"""

from __future__ import annotations

import math
import time

from pyspark.sql import SparkSession

from jobs.lake_tables import published_files, read_published
from jobs.spark_session import count_rows, run_sql, spark_session, write_table
from smar_model.lake.object_paths import AnyPath
from smar_model.lake.stage import StageContext

SHARES = {
    "substring": 3,
    "brand_type": 2,
    "drop": 2,
    "swap": 1,
    "misspelling": 2,
    "combination": 10,
    "characters": 6,
}
"""Texts drawn by method, relative. Titles have few substrings, swaps and drops; combinations are what goes on."""
OVERSAMPLING = 2.5
"""Draws for each row wanted at first: a draw that repeats another of its item is lost."""
MOST_TIMES_MORE = 4.0
"""Largest factor of the second try."""
MOST_DRAWS = 100_000
"""An item: its draws are arrays in memory. Where few items may be trained on, check-data says so."""
ROWS_PER_FILE = 2_000_000
SAMPLE = 20_000
"""Rows that query_sample aims at for either side."""


def run(context: StageContext) -> dict[str, float]:
    """Write the tables; returns counts.

    An item's distinct texts are finite. Where the first draws fall short there is one second try with more; what
    is missing then shows in `per_true_query`, which check-data judges.
    """
    settings, run = context.settings.synthetic_queries, context.run
    with spark_session(context) as spark:
        catalogue = read_published(spark, "catalogue", published_files(context.input("prepare-items"), "catalogue"))
        catalogue.createOrReplaceTempView("catalogue")
        items = catalogue.where(catalogue.updated_at < run.cutoff).count()
        clicks = read_published(spark, "clicks", published_files(context.input("extract-clicks"), "clicks"))
        trained = clicks.where(clicks.day.between(run.training_days[0], run.training_days[-1]) & (clicks.clicks > 0))
        trained.createOrReplaceTempView("training_clicks")
        true_queries = trained.select("query").distinct().count()
        wanted = settings.per_true_query * true_queries
        draws = max(1, min(MOST_DRAWS, math.ceil(wanted / max(items, 1) * OVERSAMPLING)))
        tries = 0
        while True:
            context.report(f"{true_queries:,} true queries, {items:,} items, {draws:,} draws an item")
            files = _draw(spark, context, items=items, draws=draws)
            rows, tries = count_rows(files), tries + 1
            if rows >= wanted or rows == 0 or tries == 2 or draws == MOST_DRAWS:
                break
            # The more draws, the more of them repeat: four times the shortfall, within bounds.
            draws = min(MOST_DRAWS, math.ceil(draws * min(MOST_TIMES_MORE, 1 + 4 * (wanted / rows - 1))))
        written = read_published(spark, "synthetic_queries", files)
        written.createOrReplaceTempView("written_queries")
        run_sql(
            spark,
            "sample_queries",
            seed=settings.seed,
            true_share=min(1.0, SAMPLE / max(true_queries, 1)),
            synthetic_share=min(1.0, SAMPLE / max(rows, 1)),
        )
        write_table(spark.table("query_sample"), context, "query_sample")
        methods = {row.method: row["count"] for row in written.groupBy("method").count().collect()}
    return {
        "true_queries": true_queries,
        "items": items,
        "synthetic_queries": rows,
        **{f"{method}_queries": methods.get(method, 0) for method in SHARES},
        "per_true_query": round(rows / true_queries, 2) if true_queries else 0.0,
        "draws_per_item": draws,
        "tries": tries,
    }


def _draw(spark: SparkSession, context: StageContext, *, items: int, draws: int) -> list[AnyPath]:
    """Write the distinct texts of so many draws an item; returns the table's files."""
    settings, cores = context.settings.synthetic_queries, spark.sparkContext.defaultParallelism
    run_sql(
        spark,
        "generate_queries",
        cutoff=context.run.cutoff,
        maximum_words=settings.maximum_words,
        seed=settings.seed,
        # A multiple of the cores: items are alike, and none waits for the last partition.
        partitions=cores * max(1, math.ceil(items * draws / ROWS_PER_FILE / cores)),
        **draws_by_method(draws, settings.methods),
    )
    began = time.monotonic()
    # Partitions of items are even, and an item's queries lie together, where its id costs next to nothing. Few
    # queries repeat: a dictionary of them would be work in vain.
    files = write_table(
        spark.table("synthetic_queries"),
        context,
        "synthetic_queries",
        rebalance=False,
        plain=("query",),
    )
    rows, seconds = count_rows(files), time.monotonic() - began
    context.report(f"{rows:,} synthetic queries in {seconds:.1f} s ({rows / seconds:,.0f} a second)")
    return files


def draws_by_method(draws: int, methods: tuple[str, ...]) -> dict[str, int]:
    """How many texts each method draws for an item: about `draws` in all, those switched off none.

    `characters` comes on top: it draws for titles in scripts without spaces alone.
    """
    total = sum(SHARES[method] for method in methods if method != "characters") or SHARES["characters"]
    return {m: math.ceil(draws * share / total) if m in methods else 0 for m, share in SHARES.items()}
