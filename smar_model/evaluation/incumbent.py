"""The incumbent, the engine whose lists the log shows, beside models on the same requests. Clicks favour what was shown, so two
measures stand side by side, and none of them is recall: a clicked item was in its list by construction.

*Graded*: how well the first ten of each list fit, where people judged the query or simulated shoppers told the truth.

*Order within the shown list*: every ranker orders the items of the list that was shown, and is told by the clicks.

1. A click at place k counts w = 1 / θ_k, at most MAXIMUM_WEIGHT, as few look far down (Joachims, Swaminathan and Schnabel 2017,
   "Unbiased learning-to-rank with biased feedback"); θ is the table `propensities`.
2. A request is worth Σ w / log2(1 + rank), over its clicked items, by their rank in the ranker's order of the list.
3. The figure is the sum over requests divided by Σ w (self-normalised: Swaminathan and Joachims 2015).
4. Differences are paired by request; units of bootstrap and permutation are query texts.

It tells order among what the incumbent chose, and trusts θ. What it would have been worth to show other items it cannot tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from smar_model.evaluation.evaluation_record import Difference, Estimate, GradedLists, Incumbent, OrderWithinLists
from smar_model.evaluation.evaluation_set import EvaluationSet
from smar_model.evaluation.judged_models import TOP_ITEMS, ModelResults
from smar_model.evaluation.metrics import ndcg, precision
from smar_model.evaluation.relevance import judge
from smar_model.evaluation.shown_lists import ShownLists
from smar_model.evaluation.shown_queries import show_incumbent_wins
from smar_model.evaluation.significance import SAME, ClusterBootstrap, compare_by_segment, permutation_p
from smar_model.retrieval.ranking import NO_ROW, Ranker, Ranking
from smar_model.settings import Evaluation

MAXIMUM_WEIGHT = 10.0
"""Most that one click counts, as in training (`jobs/extract_clicks.py`)."""
INCUMBENT = "incumbent"
GRADED = ("ndcg_at_10", "precision_at_10")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickedLists:
    """The R lists of two items or more that someone clicked in, L places."""

    numbers: np.ndarray
    """(R,) of the lists in `ShownLists`."""
    queries: np.ndarray
    rows: np.ndarray
    """(R, L)"""
    weights: np.ndarray
    """(R, L) of the clicks; 0 where there was none."""
    clipped: int
    """Clicks whose weight would have been larger."""
    left_out: dict[str, int]

    @classmethod
    def of(cls, lists: ShownLists, propensities: np.ndarray, *, maximum: int, seed: int) -> ClickedLists | None:
        """At most `maximum` of them by a seeded draw; None where no list tells anything."""
        known = lists.rows != NO_ROW
        clicked = lists.clicked & known
        usable = np.flatnonzero(clicked.any(axis=1) & (known.sum(axis=1) > 1))
        if not len(usable):
            return None
        numbers = usable
        if len(usable) > maximum:
            numbers = np.sort(np.random.default_rng(seed).choice(usable, maximum, replace=False))
        theta = propensities[np.clip(lists.positions[numbers], 1, len(propensities)) - 1]
        clicked = clicked[numbers]
        return cls(
            numbers=numbers,
            queries=lists.queries[numbers],
            rows=lists.rows[numbers],
            weights=np.where(clicked, np.minimum(1 / theta, MAXIMUM_WEIGHT), 0.0),
            clipped=int((clicked & (1 / theta > MAXIMUM_WEIGHT)).sum()),
            left_out={
                "lists_without_a_click_to_judge_by": len(lists) - len(usable),
                "lists_beyond_evaluation.maximum_queries": len(usable) - len(numbers),
            },
        )

    def gains(self, ranker: Ranker) -> np.ndarray:
        """(R,) Σ w / log2(1 + rank) of each list in a ranker's order."""
        return discounted(ranker.score_rows(self.queries.tolist(), self.rows), self.rows, self.weights)

    def gains_as_shown(self) -> np.ndarray:
        places = np.arange(self.rows.shape[1], dtype=np.float64)
        return discounted(np.broadcast_to(-places, self.rows.shape), self.rows, self.weights)


def discounted(scores: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R,) Σ w / log2(1 + rank), rank by score descending, then row ascending as every ranker's ties; NO_ROW last. All (R, L)."""
    absent = rows == NO_ROW
    order = np.lexsort((rows, np.where(absent, np.inf, -scores), absent), axis=1)
    ranks = np.empty(rows.shape)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(1.0, rows.shape[1] + 1), rows.shape), axis=1)
    return (weights / np.log2(1 + ranks)).sum(axis=1)


def judge_incumbent(
    lists: ShownLists,
    clicked: ClickedLists | None,
    gains: Mapping[str, np.ndarray],
    queries: EvaluationSet,
    results: Mapping[str, ModelResults],
    item_ids: list[str],
    *,
    settings: Evaluation,
    permutations: int,
) -> Incumbent:
    """Both measures, and queries on which the incumbent is better than the challenger.

    Args:
        gains: model → (R,) as `ClickedLists.gains` has them.
        results: of the models on all evaluation queries.
    """
    numbers, graded = _graded_lists(lists, queries)
    within = None
    if clicked is not None:
        within = order_within_lists(
            clicked, dict(gains), samples=settings.bootstrap_samples, permutations=permutations, seed=settings.seed
        )
    return Incumbent(
        lists=len(lists),
        versions=lists.versions,
        counts=lists.counts,
        graded=_compare_graded(lists, numbers, graded, queries, results, settings=settings, permutations=permutations),
        within_list=within,
        shown=show_incumbent_wins(
            queries,
            results,
            item_ids,
            lists.rows,
            *_losses(lists, clicked, gains, queries, results, numbers, graded),
            by_grade=numbers >= 0,
        ),
    )


def order_within_lists(
    clicked: ClickedLists, gains: dict[str, np.ndarray], *, samples: int, permutations: int, seed: int
) -> OrderWithinLists:
    """Figures of all rankers and how they differ from the incumbent's order.

    Args:
        gains: ranker → (R,).
    """
    bootstrap = ClusterBootstrap(clicked.queries.astype(str), samples=samples, seed=seed)
    weights, shown = clicked.weights.sum(axis=1), clicked.gains_as_shown()
    single = clicked.weights[clicked.weights > 0]
    return OrderWithinLists(
        requests=len(weights),
        clusters=bootstrap.clusters,
        clicks=len(single),
        effective_clicks=float(single.sum() ** 2 / (single**2).sum()),
        maximum_weight=MAXIMUM_WEIGHT,
        clicks_at_maximum=clicked.clipped,
        left_out=clicked.left_out,
        models={name: bootstrap.share(values, weights) for name, values in {INCUMBENT: shown, **gains}.items()},
        differences={
            name: weighted_difference(values - shown, weights, bootstrap, permutations=permutations, seed=seed)
            for name, values in gains.items()
        },
    )


def weighted_difference(
    differences: np.ndarray, weights: np.ndarray, bootstrap: ClusterBootstrap, *, permutations: int, seed: int
) -> Difference:
    """Σ (R,) `differences` / Σ (R,) `weights`, clusters drawn whole; p by turning the signs of whole clusters' sums."""
    estimate = bootstrap.share(differences, weights)
    mean = float(differences.sum() / weights.sum())
    residuals = np.bincount(bootstrap.cluster, differences - mean * weights, bootstrap.clusters)
    count = bootstrap.clusters
    # As `standard_error`, of a ratio whose lower part is the weights (Cochran 1977, section 9A.5).
    error = float(np.sqrt(count / (count - 1) * (residuals**2).sum()) / weights.sum()) if count > 1 else None
    wins, losses = int((differences > SAME).sum()), int((differences < -SAME).sum())
    return Difference(
        mean=mean,
        low=estimate.low,
        high=estimate.high,
        standard_error=error,
        wins=wins,
        ties=len(differences) - wins - losses,
        losses=losses,
        p=float(permutation_p(differences[:, None], bootstrap.cluster, samples=permutations, seed=seed)[0]),
        p_adjusted=None,
    )


def _graded_lists(lists: ShownLists, queries: EvaluationSet) -> tuple[np.ndarray, np.ndarray]:
    """(R,) number of the evaluation query that each list answers and that someone judged, −1 of others; (R, M) GRADED values."""
    if queries.basis == "truth":
        numbers = pd.Index(queries.query_ids).get_indexer(lists.request_ids)
    else:
        numbers = pd.Index(queries.queries).get_indexer(lists.queries)
        numbers[~np.isin(numbers, list(queries.people))] = -1
    judged = numbers >= 0
    values = np.full((len(lists), len(GRADED)), np.nan)
    if judged.any():
        rows = np.full((int(judged.sum()), TOP_ITEMS), NO_ROW, dtype=np.int32)
        first = lists.rows[judged, :TOP_ITEMS]
        rows[:, : first.shape[1]] = first
        relevance = replace(queries.graded, set_of_query=queries.graded.set_of_query[numbers[judged]])
        found = judge(Ranking(rows=rows, scores=np.zeros(rows.shape, dtype=np.float32)), relevance)
        values[judged] = np.stack([ndcg(found, TOP_ITEMS), precision(found, TOP_ITEMS)], axis=1)
    return numbers, values


def _compare_graded(
    lists: ShownLists,
    numbers: np.ndarray,
    values: np.ndarray,
    queries: EvaluationSet,
    results: Mapping[str, ModelResults],
    *,
    settings: Evaluation,
    permutations: int,
) -> GradedLists | None:
    """The incumbent's value of a query is the mean over its requests."""
    judged = numbers >= 0
    asked, place, requests = np.unique(numbers[judged], return_inverse=True, return_counts=True)
    if not len(asked):
        return None
    columns = {
        INCUMBENT: np.stack([np.bincount(place, column) / requests for column in values[judged].T], axis=1),
        **{name: np.stack([of.values[m][asked] for m in GRADED], axis=1) for name, of in results.items()},
    }
    bootstrap = ClusterBootstrap(queries.clusters[asked], samples=settings.bootstrap_samples, seed=settings.seed)
    all_of_them = {"overall": np.ones(len(asked), dtype=bool)}

    def difference(name: str) -> dict[str, Difference]:
        found = compare_by_segment(
            bootstrap, columns[name], columns[INCUMBENT], all_of_them, permutations=permutations, seed=settings.seed
        )["overall"]
        return dict(zip(GRADED, (replace(each, p_adjusted=None) for each in found), strict=True))

    estimates: dict[str, dict[str, Estimate]] = {
        name: dict(zip(GRADED, bootstrap.estimate(of), strict=True)) for name, of in columns.items()
    }
    lengths = (lists.positions[judged] > 0).sum(axis=1)
    return GradedLists(
        judged_by="truth" if queries.basis == "truth" else "people",
        requests=int(judged.sum()),
        queries=len(asked),
        clusters=bootstrap.clusters,
        shorter=int((lengths < TOP_ITEMS).sum()),
        models=estimates,
        differences={name: difference(name) for name in results},
    )


def _losses(
    lists: ShownLists,
    clicked: ClickedLists | None,
    gains: Mapping[str, np.ndarray],
    queries: EvaluationSet,
    results: Mapping[str, ModelResults],
    numbers: np.ndarray,
    graded: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(R,) number of each list's evaluation query, −1 where there is none, and by how much the incumbent's list beats the challenger:
    by nDCG@10 where it is judged, else by the order within the list."""
    losses = np.full(len(lists), -np.inf)
    if "challenger" not in results:
        return numbers, losses
    judged = numbers >= 0
    if clicked is not None and "challenger" in gains:
        by_order = clicked.gains_as_shown() - gains["challenger"]
        losses[clicked.numbers] = by_order / clicked.weights.sum(axis=1)
    losses[judged] = graded[judged, 0] - results["challenger"].values[GRADED[0]][numbers[judged]]
    known = dict(zip(queries.queries[::-1].tolist(), range(len(queries.queries) - 1, -1, -1), strict=True))
    others = np.array([known.get(text, -1) for text in lists.queries])
    return np.where(judged, numbers, others), losses
