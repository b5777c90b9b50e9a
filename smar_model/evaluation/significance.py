"""How sure a mean and a difference are: the bootstrap over clusters, permutations of them, and bounds from their spread.

Requests for the same item are not independent: a model that knows the item answers all of them well. So whole
clusters (target items, or queries) are drawn, not single queries (Field and Welsh 2007, "Bootstrapping clustered data").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import stdtr, stdtrit

from smar_model.evaluation.evaluation_record import NOTHING, Difference, Estimate

LEVEL = 0.95
SAME = 1e-9
"""Values that differ by less are tied."""


class ClusterBootstrap:
    """Draws of clusters, made once and used for every model, metric and segment, so that all are paired.

    1. Draw as many clusters as there are, with replacement, `samples` times.
    2. A draw's mean is the sum of the values of all queries drawn over their number (clusters differ in size).
    3. The interval is from the 2.5 to the 97.5 % quantile of the draws' means.

    With one cluster the interval has no width: it says nothing then.

    Args:
        clusters: (Q,) cluster of each query, any values that can be sorted.
    """

    def __init__(self, clusters: np.ndarray, *, samples: int, seed: int) -> None:
        names, self.cluster = np.unique(np.asarray(clusters), return_inverse=True)
        self.clusters, self.samples, self._seed = len(names), samples, seed

    @cached_property
    def _weights(self) -> np.ndarray:
        """(samples, clusters) float64: how often each cluster is in each draw."""
        random = np.random.default_rng(self._seed)
        weights = np.empty((self.samples, self.clusters))
        for sample in weights:
            drawn = random.integers(0, self.clusters, self.clusters)
            sample[:] = np.bincount(drawn, minlength=self.clusters)
        return weights

    def share(self, part: np.ndarray, whole: np.ndarray, segment: np.ndarray | None = None) -> Estimate:
        """Mean of (Q,) `part` / mean of (Q,) `whole`, both from the same draws; all None where `whole` has no clear sign."""
        inside = np.ones(len(part), dtype=bool) if segment is None else segment
        cluster = self.cluster[inside]
        sums = [self._weights @ np.bincount(cluster, v[inside], self.clusters) for v in (part, whole)]
        if not ((sums[1] > 0).all() or (sums[1] < 0).all()):
            return NOTHING
        low, high = np.quantile(sums[0] / sums[1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(mean=float(part[inside].mean() / whole[inside].mean()), low=float(low), high=float(high))

    def estimate(self, values: np.ndarray, segment: np.ndarray | None = None) -> list[Estimate]:
        """Mean and interval of each column of (Q, M) values over the queries of a segment, (Q,) bool."""
        inside = np.ones(len(values), dtype=bool) if segment is None else segment
        return self.estimate_segments(values, {"": inside})[""]

    def estimate_segments(self, values: np.ndarray, segments: dict[str, np.ndarray]) -> dict[str, list[Estimate]]:
        """Likewise of several segments, by name, with one pass over the draws."""
        values = np.asarray(values, dtype=np.float64)
        told = {name: inside for name, inside in segments.items() if inside.any()}
        # Centred, so that a constant column gets an interval of width 0, not of rounding errors.
        means = {name: values[inside].mean(axis=0) for name, inside in told.items()}
        parts = [
            np.bincount(self.cluster[inside], column, self.clusters)
            for name, inside in told.items()
            for column in (values[inside] - means[name]).T
        ]
        sizes = [np.bincount(self.cluster[inside], minlength=self.clusters) for inside in told.values()]
        found = {name: [NOTHING] * values.shape[1] for name in segments}
        if not told:
            return found
        sums = (self._weights @ np.stack(parts, axis=1)).reshape(self.samples, len(told), -1)
        drawn = self._weights @ np.stack(sizes, axis=1)
        for place, name in enumerate(told):
            # A draw may hold no query of a small segment; it says nothing about it.
            usable = drawn[:, place] > 0
            means_drawn = sums[usable, place] / drawn[usable, place, None]
            low, high = np.quantile(means_drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
            found[name] = [
                Estimate(mean=float(m), low=float(m + a), high=float(m + b))
                for m, a, b in zip(means[name], low, high, strict=True)
            ]
        return found


def permutation_p(differences: np.ndarray, clusters: np.ndarray, *, samples: int, seed: int) -> np.ndarray:
    """Two-sided p of each column of (Q, M) paired differences under "the two models may be exchanged", (M,).

    1. Sum the differences of each cluster: requests for one item are exchanged together.
    2. Turn each sum's sign or not, by chance, `samples` times.
    3. p = (1 + how often the total is at least as far from 0 as the real one) / (1 + samples) (Phipson and Smyth 2010).

    A query outside a segment has the difference 0 in the segment's column: it changes nothing.
    """
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.stack([np.bincount(cluster, column) for column in differences.T], axis=1)
    # Totals that are equal must count as such, whatever the order of their sums.
    real = np.abs(sums.sum(axis=0)) - 1e-9 * np.maximum(1, np.abs(sums).sum(axis=0))
    random = np.random.default_rng(seed)
    farther = np.zeros(differences.shape[1], dtype=int)
    for start in range(0, samples, 500):
        # A byte each: drawing them is most of the time.
        signs = 2.0 * random.integers(0, 2, (min(500, samples - start), len(sums)), dtype=np.int8) - 1
        farther += (np.abs(signs @ sums) >= real).sum(axis=0)
    return (1 + farther) / (1 + samples)


def holm(p: np.ndarray) -> np.ndarray:
    """(N,) p of several hypotheses, adjusted so that the chance of any false alarm among them stays at the level (Holm 1979)."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def standard_error(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Of the mean of each column of (Q, M) values whose clusters differ in size, (M,): NaN of a single cluster.

    The mean is a ratio of two sums over clusters, so its spread is that of their residuals (Cochran 1977, "Sampling techniques",
    section 9A.5): √(C / (C − 1) · Σ_c (Σ_{q in c} (v_q − mean))²) / Q.
    """
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    residuals = values - values.mean(axis=0)
    sums = np.stack([np.bincount(cluster, column) for column in residuals.T], axis=1)
    count = len(sums)
    factor = count / (count - 1) if count > 1 else np.nan
    return np.sqrt(factor * (sums**2).sum(axis=0)) / len(values)


def lower_bound(mean: float, error: float, clusters: int, *, level: float = LEVEL) -> float:
    """One-sided bound that the true mean is above with this confidence, by Student's t over clusters."""
    return mean - float(stdtrit(clusters - 1, level)) * error


def below(limit: float, mean: float, error: float, clusters: int) -> float:
    """p of "the true mean is at least `limit`", small where it is shown to be below; by Student's t over clusters."""
    if error < SAME:
        return float(mean >= limit)
    return float(stdtr(clusters - 1, (mean - limit) / error))


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """One model minus another on the same queries."""

    difference: Estimate
    wins: int
    """Queries on which the first is better."""
    ties: int
    losses: int


def compare(
    bootstrap: ClusterBootstrap, first: np.ndarray, second: np.ndarray, segment: np.ndarray | None = None
) -> PairedDifference:
    """Compare two models by (Q,) values each on the same queries."""
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    inside = difference if segment is None else difference[segment]
    wins, losses = int((inside > SAME).sum()), int((inside < -SAME).sum())
    return PairedDifference(
        difference=bootstrap.estimate(difference[:, None], segment)[0],
        wins=wins,
        ties=len(inside) - wins - losses,
        losses=losses,
    )


def compare_by_segment(
    bootstrap: ClusterBootstrap,
    first: np.ndarray,
    second: np.ndarray,
    segments: dict[str, np.ndarray],
    *,
    permutations: int,
    seed: int,
) -> dict[str, list[Difference]]:
    """Compare two models by (Q, M) values on the same queries: segment → first − second in each of the M metrics, with `p` by
    `permutation_p`.

    `p_adjusted` is `holm` over the segments, the first one left out: that is all queries, the question asked beforehand. All
    None of a segment without queries.
    """
    differences: np.ndarray = np.subtract(first, second, dtype=np.float64)
    inside = np.stack(list(segments.values()))
    columns = (differences[:, None] * inside.T[:, :, None]).reshape(len(differences), -1)
    p = permutation_p(columns, bootstrap.cluster, samples=permutations, seed=seed).reshape(len(segments), -1)
    told = [bool(segment.any()) for segment in segments.values()]
    parts = [place for place, any_query in enumerate(told) if place and any_query]
    adjusted = p.copy()
    for metric in range(p.shape[1]):
        adjusted[parts, metric] = holm(p[parts, metric])
    # Values are sums of a few terms in the same order, but nDCG may differ in the last bits.
    won: np.ndarray = differences > SAME
    lost: np.ndarray = differences < -SAME
    estimates = bootstrap.estimate_segments(differences, segments)
    found: dict[str, list[Difference]] = {}
    for place, (name, segment) in enumerate(segments.items()):
        wins, losses = won[segment].sum(axis=0).tolist(), lost[segment].sum(axis=0).tolist()
        errors = standard_error(differences[segment], bootstrap.cluster[segment]) if told[place] else np.empty(0)
        found[name] = [
            Difference(
                mean=estimate.mean,
                low=estimate.low,
                high=estimate.high,
                standard_error=float(errors[m]) if told[place] and np.isfinite(errors[m]) else None,
                wins=wins[m],
                ties=int(segment.sum()) - wins[m] - losses[m],
                losses=losses[m],
                p=float(p[place, m]) if told[place] else None,
                p_adjusted=float(adjusted[place, m]) if told[place] else None,
            )
            for m, estimate in enumerate(estimates[name])
        ]
    return found
