"""Segments: what kind of query, item and pair each clicked pair of the evaluation days is; table: segments.

Rules: `sql/assign_segments.sql`. A stage of its own, beside training: it costs one Spark session, which no stage waits for,
and its rules can change without redoing what training reads.
"""

from __future__ import annotations

from collections import Counter

import pyarrow.compute as pc
import pyarrow.dataset as ds

from jobs.lake_tables import at_hand, published_files, read_published
from jobs.spark_session import run_sql, spark_session, write_table
from smar_model.lake.stage import StageContext

_INPUTS = (
    ("prepare-items", "catalogue"),
    ("extract-clicks", "clicks"),
    ("generate-queries", "synthetic_queries"),
)
RULES = {
    # The most frequent queries that make up this share of training clicks are head, the next ones up to the second torso, the others tail.
    **{"head_share": 0.5, "torso_share": 0.8},
    # A title with fewer words of letters, the brand's not counted, is sparse.
    "sparse_words": 3,
    # A title misleads where an item has so many training clicks, and this share of them came from queries that share no word with it.
    **{"misleading_clicks": 5, "misleading_share": 0.8},
}
"""Parameters of the SQL."""

TIERS, FLAGS = ("query_tier", "title_kind"), ("is_visual", "picture_informative", "also_synthetic", "unseen_words")
"""Columns that are counted by value, and those of which the true ones are."""
NAMES = {True: "seen", False: "novel"}


def run(context: StageContext) -> dict[str, int]:
    """Write the table; returns the number of pairs, and of those in each segment."""
    run = context.run
    low, high = context.settings.segments.novel_range
    with spark_session(context) as spark:
        for stage, table in _INPUTS:
            files = published_files(context.input(stage), table)
            read_published(spark, table, files).createOrReplaceTempView(table)
        run_sql(
            spark,
            "assign_segments",
            first_training_day=run.training_days[0],
            last_training_day=run.training_days[-1],
            first_day=run.evaluation_days[0],
            last_day=run.evaluation_days[-1],
            cutoff=run.cutoff,
            visual_departments=context.settings.shop.visual_departments,
            novel_from=low,
            novel_below=high,
            **RULES,
        )
        written = at_hand(context, write_table(spark.table("segments"), context, "segments"))
    pairs = ds.dataset([str(f) for f in written]).to_table(columns=[*TIERS, *FLAGS, "query_seen", "item_seen"])
    counts = {
        f"{column}_{entry['values']}": entry["counts"]
        for column in TIERS
        for entry in pc.value_counts(pairs[column]).to_pylist()
    }
    counts |= {column: pc.sum(pairs[column]).as_py() or 0 for column in FLAGS}
    seen = zip(pairs["query_seen"].to_pylist(), pairs["item_seen"].to_pylist(), strict=True)
    counts |= Counter(f"{NAMES[query]}_query_{NAMES[item]}_item" for query, item in seen)
    return {"pairs": pairs.num_rows, **dict(sorted(counts.items()))}
