"""How sure a mean and a difference are: the bootstrap over clusters.

Requests for the same item are not independent: a model that knows the item answers all of them well. So whole
clusters (target items, or queries) are drawn, not single queries (Field and Welsh 2007, "Bootstrapping clustered data").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over queries with its 95 % interval; all None where there is no query."""

    mean: float | None
    low: float | None
    high: float | None


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
        names, self._cluster = np.unique(np.asarray(clusters), return_inverse=True)
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
        cluster = self._cluster[inside]
        sums = [self._weights @ np.bincount(cluster, v[inside], self.clusters) for v in (part, whole)]
        if not ((sums[1] > 0).all() or (sums[1] < 0).all()):
            return Estimate(mean=None, low=None, high=None)
        low, high = np.quantile(sums[0] / sums[1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(mean=float(part[inside].mean() / whole[inside].mean()), low=float(low), high=float(high))

    def estimate(self, values: np.ndarray, segment: np.ndarray | None = None) -> list[Estimate]:
        """Mean and interval of each column of (Q, M) values over the queries of a segment, (Q,) bool."""
        values = np.asarray(values, dtype=np.float64)
        inside = np.ones(len(values), dtype=bool) if segment is None else segment
        if not inside.any():
            return [Estimate(mean=None, low=None, high=None)] * values.shape[1]
        cluster = self._cluster[inside]
        # Centred, so that a constant column gets an interval of width 0, not of rounding errors.
        means = values[inside].mean(axis=0)
        sums = np.stack([np.bincount(cluster, c, self.clusters) for c in (values[inside] - means).T], axis=1)
        sizes = np.bincount(cluster, minlength=self.clusters)
        drawn = self._weights @ sizes
        # A draw may hold no query of a small segment; it says nothing about it.
        usable = drawn > 0
        means_drawn = (self._weights @ sums)[usable] / drawn[usable, None]
        low, high = np.quantile(means_drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        return [
            Estimate(mean=float(m), low=float(m + a), high=float(m + b))
            for m, a, b in zip(means, low, high, strict=True)
        ]


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
        signs = 2.0 * random.integers(0, 2, (min(500, samples - start), len(sums))) - 1
        farther += (np.abs(signs @ sums) >= real).sum(axis=0)
    return (1 + farther) / (1 + samples)


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
    # Values are sums of a few terms in the same order, but nDCG may differ in the last bits.
    wins, losses = int((inside > 1e-9).sum()), int((inside < -1e-9).sum())
    return PairedDifference(
        difference=bootstrap.estimate(difference[:, None], segment)[0],
        wins=wins,
        ties=len(inside) - wins - losses,
        losses=losses,
    )
