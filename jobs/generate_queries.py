"""Synthetic queries for pretraining, from what sellers wrote; table: synthetic_queries.

SMAR (section 2.3.2) pretrains on more than 100 synthetic queries for each true one. How they are made:
`sql/generate_queries.sql`.
"""

from __future__ import annotations

import math

from jobs.spark_session import count_rows, read_published, run_sql, spark_session, write_table
from smar_model.lake.stage import StageContext

OVERSAMPLING = 1.8
"""Draws for each row wanted at first: a draw that repeats another of its item is lost."""
MOST_TIMES_MORE = 4.0
"""Largest factor of the second try."""


def run(context: StageContext) -> dict[str, float]:
    """Write the table; returns counts.

    An item's distinct texts are finite. Where the first draws fall short there is one second try with more; what
    is missing then shows in `per_true_query`, which check-data judges.
    """
    settings, run = context.settings.synthetic_queries, context.run
    with spark_session(context) as spark:
        catalogue = read_published(spark, "catalogue", context.table("prepare-items", "catalogue"))
        catalogue.createOrReplaceTempView("catalogue")
        items = catalogue.where(catalogue.updated_at < run.cutoff).count()
        clicks = read_published(spark, "clicks", context.table("extract-clicks", "clicks"))
        trained = clicks.where(clicks.day.between(run.training_days[0], run.training_days[-1]) & (clicks.clicks > 0))
        true_queries = trained.select("query").distinct().count()
        wanted = settings.per_true_query * true_queries
        draws = max(1, math.ceil(wanted / max(items, 1) * OVERSAMPLING))
        tries = 0
        while True:
            context.report(f"{true_queries:,} true queries, {items:,} items, {draws:,} draws an item")
            run_sql(
                spark,
                "generate_queries",
                cutoff=run.cutoff,
                draws=draws,
                maximum_words=settings.maximum_words,
                seed=settings.seed,
                partitions=4 * spark.sparkContext.defaultParallelism,
            )
            files = write_table(spark.table("synthetic_queries"), context, "synthetic_queries")
            rows = count_rows(files)
            tries += 1
            if rows >= wanted or rows == 0 or tries == 2:
                break
            # The more draws, the more of them repeat: four times the shortfall, within bounds.
            draws = math.ceil(draws * min(MOST_TIMES_MORE, 1 + 4 * (wanted / rows - 1)))
        distinct = read_published(spark, "synthetic_queries", files).select("query").distinct().count()
    return {
        "true_queries": true_queries,
        "items": items,
        "synthetic_queries": rows,
        "distinct_queries": distinct,
        "per_true_query": round(rows / true_queries, 2) if true_queries else 0.0,
        "draws_per_item": draws,
        "tries": tries,
    }
