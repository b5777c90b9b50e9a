"""One model's answers, judged in every metric; and the figures of all models by segment.

Two measures, never mixed (design, decision 9): *target* metrics ask whether the wanted item is found, *graded* ones whether what is
found fits the query. Recall divides by at most k relevant items, so that 1 can be reached; so do F1 and MAP.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from typing_extensions import TypedDict

from smar_model.evaluation.evaluation_record import BySegment, Difference
from smar_model.evaluation.evaluation_set import EvaluationSet
from smar_model.evaluation.metrics import (
    average_precision,
    f1,
    first_relevant_rank,
    ndcg,
    precision,
    recall,
    reciprocal_rank,
)
from smar_model.evaluation.relevance import judge
from smar_model.evaluation.significance import ClusterBootstrap, compare_by_segment
from smar_model.retrieval.ranking import Ranking

RECALL_DEPTHS = (1, 5, 10, 20, 50, 100)
GRADED_METRICS = (
    *("ndcg_at_10", "precision_at_10", "precision_at_50", "graded_recall_at_50", "graded_f1_at_50"),
    "graded_map_at_100",
)
COMPARED_METRICS = ("recall_at_50", "ndcg_at_10", "precision_at_50")
"""Precision beside recall: the two can be traded for each other."""
TOP_ITEMS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelResults:
    """One model's answers, judged."""

    values: dict[str, np.ndarray]
    """Metric → (Q,) float64."""
    target_rank: np.ndarray
    """(Q,) int32; 0 where the target was not found or is unknown."""
    ranking: Ranking
    """To depth TOP_ITEMS."""


def judge_model(ranking: Ranking, queries: EvaluationSet) -> ModelResults:
    """Every metric of one model; target ones over `queries.found`, GRADED_METRICS over `queries.graded`."""
    found, graded = judge(ranking, queries.found), judge(ranking, queries.graded)
    values = {f"recall_at_{k}": recall(found, k, capped=True) for k in RECALL_DEPTHS} | {
        "mrr": reciprocal_rank(found),
        "ndcg_at_10": ndcg(graded, 10),
        "precision_at_10": precision(graded, 10),
        "precision_at_50": precision(graded, 50),
        "graded_recall_at_50": recall(graded, 50, capped=True),
        "graded_f1_at_50": f1(graded, 50, capped=True),
        "graded_map_at_100": average_precision(graded, 100, capped=True),
    }
    return ModelResults(
        values=values,
        target_rank=np.where(queries.targets >= 0, first_relevant_rank(found), 0).astype(np.int32),
        ranking=Ranking(rows=ranking.rows[:, :TOP_ITEMS], scores=ranking.scores[:, :TOP_ITEMS]),
    )


class Summary(TypedDict):
    """The fields of `EvaluationRecord` that are about all models."""

    clusters: int
    segments: dict[str, int]
    segment_clusters: dict[str, int]
    models: dict[str, BySegment]
    differences: dict[str, dict[str, dict[str, Difference]]]


def summarise(
    values: dict[str, dict[str, np.ndarray]],
    bootstrap: ClusterBootstrap,
    segments: dict[str, np.ndarray],
    *,
    permutations: int,
    seed: int,
) -> Summary:
    """Figures of all models by segment, and how the challenger differs from each other one.

    Args:
        values: model → metric → (Q,).
        segments: name → (Q,) bool, all queries first.
    """
    return {
        "clusters": bootstrap.clusters,
        "segments": {name: int(inside.sum()) for name, inside in segments.items()},
        "segment_clusters": {name: len(np.unique(bootstrap.cluster[inside])) for name, inside in segments.items()},
        "models": {name: _estimates(bootstrap, of_model, segments) for name, of_model in values.items()},
        "differences": _differences(bootstrap, values, segments, permutations=permutations, seed=seed),
    }


def _estimates(
    bootstrap: ClusterBootstrap, values: dict[str, np.ndarray], segments: dict[str, np.ndarray]
) -> BySegment:
    estimates = bootstrap.estimate_segments(np.stack(list(values.values()), axis=1), segments)
    return {segment: dict(zip(values, found, strict=True)) for segment, found in estimates.items()}


def _differences(
    bootstrap: ClusterBootstrap,
    values: dict[str, dict[str, np.ndarray]],
    segments: dict[str, np.ndarray],
    *,
    permutations: int,
    seed: int,
) -> dict[str, dict[str, dict[str, Difference]]]:
    if "challenger" not in values:
        return {}
    columns = {name: np.stack([of_model[m] for m in COMPARED_METRICS], axis=1) for name, of_model in values.items()}
    return {
        other: {
            segment: dict(zip(COMPARED_METRICS, found, strict=True))
            for segment, found in compare_by_segment(
                bootstrap, columns["challenger"], columns[other], segments, permutations=permutations, seed=seed
            ).items()
        }
        for other in sorted(set(values) - {"challenger"})
    }
