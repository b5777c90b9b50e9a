"""Fashion labels: which queries are for departments where pictures matter; table: fashion_labels.

Clicks of the training days alone count (design, decision 10).
"""

from __future__ import annotations

from jobs.lake_tables import published_files, read_published
from jobs.spark_session import run_sql, spark_session, write_table
from smar_model.errors import InputError
from smar_model.lake.stage import StageContext


def run(context: StageContext) -> dict[str, float]:
    """Write the table; returns counts.

    Raises:
        InputError: none of the visual departments is in the catalogue.
    """
    visual, labels, days = context.settings.shop.visual_departments, context.settings.labels, context.run.training_days
    with spark_session(context) as spark:
        catalogue = read_published(spark, "catalogue", published_files(context.input("prepare-items"), "catalogue"))
        departments = sorted(row.department for row in catalogue.select("department").distinct().collect())
        # An empty catalogue is check-data's to report, with the reasons.
        if departments and not set(visual) & set(departments):
            raise InputError(
                f"settings.shop.visual_departments: none of {visual} is a department of this catalogue; "
                f"it has {departments[:50]} (the first level of `category`)"
            )
        catalogue.createOrReplaceTempView("catalogue")
        clicks = read_published(spark, "clicks", published_files(context.input("extract-clicks"), "clicks"))
        clicks.createOrReplaceTempView("clicks")
        run_sql(
            spark,
            "label_fashion",
            first_day=days[0],
            last_day=days[-1],
            visual_departments=visual,
            minimum_clicks=labels.minimum_clicks,
            unsure_from=labels.unsure[0],
            unsure_to=labels.unsure[1],
        )
        files = write_table(spark.table("fashion_labels"), context, "fashion_labels")
        labelled = read_published(spark, "fashion_labels", files)
        counts = labelled.selectExpr("count(*)", "count_if(is_visual)", "count_if(is_visual IS NULL)").first()
    assert counts is not None
    return {
        "queries": counts[0],
        "visual_queries": counts[1],
        "unsure_queries": counts[2],
        "visual_query_share": round(counts[1] / counts[0], 4) if counts[0] else 0.0,
    }
