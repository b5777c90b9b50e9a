"""What each method of synthetic queries does to their drift from true ones: `python benchmarks/drift.py RUN`.

Reads the sample that generate-queries left in a finished run (SMAR_HOME), leaves out the queries of one method at a time,
and measures what is left as the stage measure-drift does. Prints Markdown.
"""

from __future__ import annotations

import sys

import pyarrow.dataset as ds

from smar_model.evaluation.query_drift import QUERIES, TRUE, Drift, Encoder, measure, measure_all
from smar_model.lake.runs import load_run

COLUMNS = (
    "queries of either side",
    "AUC",
    "word divergence",
    "by chance",
    "unknown of true",
    "unknown of synthetic",
    "words",
)


def main(run: str) -> None:
    output = load_run(run).output("generate-queries")
    sample = ds.dataset(output.files("query_sample")).to_table().to_pandas()
    sample = sample.sort_values(["origin", "query", "department"], ignore_index=True)
    true, synthetic = sample[sample["origin"] == TRUE], sample[sample["origin"] != TRUE]
    shares = synthetic["origin"].value_counts(normalize=True)
    encoder = Encoder()
    rows = measure_all(true, synthetic)
    for method in shares.index:
        rest = synthetic.loc[synthetic["origin"] != method, "query"]
        rows.append(measure("without", f"{method} ({shares[method]:.0%})", true["query"], rest, QUERIES, encoder))
    print(f"{output.metrics['synthetic_queries']:,} synthetic queries, {output.metrics['true_queries']:,} true ones\n")
    print(f"| | segment | {' | '.join(COLUMNS)} |\n|{' --- |' * (len(COLUMNS) + 2)}")
    for row in rows:
        print(line(row))


def line(row: Drift) -> str:
    figures = (row.auc, row.word_divergence, row.chance_divergence, row.unknown_true, row.unknown_synthetic)
    cells = [f"{figure:.3f}" if figure is not None else "too few" for figure in figures]
    return (
        f"| {row.scope} | {row.segment} | {row.true_queries:,} | {' | '.join(cells)} "
        f"| {row.true_words:.2f} / {row.synthetic_words:.2f} |"
    )


if __name__ == "__main__":
    main(sys.argv[1])
