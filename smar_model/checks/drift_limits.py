"""Limits of the drift between synthetic and true queries, as its contract states them."""

from __future__ import annotations

from smar_model.checks.expectations import Measure
from smar_model.lake.artifacts import Artifact
from smar_model.lake.contracts import load_contract

_MEANING = {
    "auc": "AUC of a classifier that tells synthetic from true queries",
    "word_divergence": "Jensen–Shannon divergence of the words of synthetic and true queries",
    "unknown_true": "share of the words of true queries that no synthetic query has",
}


def drift_measures(drift: Artifact) -> list[Measure]:
    """The figures of measure-drift that `drift:` in schemas/query_drift.yaml bounds, one for each severity.

    A figure that could not be measured (too few true queries) has no bound to keep: check-data judges the number of
    clicks.
    """
    return [
        Measure(
            table="measure-drift/query_drift",
            check=f"{_MEANING[figure]} at most {most:g}",
            severity=severity,
            value=drift.metrics[figure],
            most=most,
            metric=f"drift_{figure}",
            kind="drift",
            detail="Stated in schemas/query_drift.yaml. The page drift.html of the stage shows where they differ. Change "
            "settings.synthetic_queries.methods, or raise the limit if shoppers do write differently from sellers.",
        )
        for figure, limits in load_contract("query_drift").drift.items()
        if figure in drift.metrics
        for severity, most in limits.items()
    ]
