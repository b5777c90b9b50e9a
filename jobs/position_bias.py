"""How likely shoppers look at each place of a list, from the log itself, without an experiment.

An item that one query showed at several places was as relevant at all of them, so its clicks there differ by how often
shoppers looked (intervention harvesting: Agarwal et al., "Estimating position bias without intrusive interventions",
WSDM 2019; the weights: Joachims et al., "Unbiased learning-to-rank with biased feedback", WSDM 2017).

A pair of query and item r shown n times at place k gets about n θ_k γ_r clicks. Given all its clicks, their places are
multinomial with chances n_k θ_k / Σ_j n_j θ_j, from which the unknown γ_r is gone: one concave likelihood of θ over all
pairs and all of their places at once, where Agarwal's AllPairs weighs ratios of two places. It is maximised by Newton's
method. Pairs seen a few times each are enough.
"""

from __future__ import annotations

import numpy as np

PRIOR_VARIANCE = 1.0
"""Of the difference of log θ between neighbouring places: places without data follow their neighbours."""
STEPS = 50


def estimate_propensities(
    pair: np.ndarray, position: np.ndarray, impressions: np.ndarray, clicks: np.ndarray, *, positions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Propensities θ relative to place 1, and their standard errors.

    Args:
        pair: (R,) number of the pair of query and item, from 0.
        position: (R,) place, from 1.
        impressions, clicks: (R,) of the pair at the place.
        positions: K, the number of places.

    Returns:
        (K,) θ with θ_1 = 1, (K,) standard errors by the delta method; errors of places beyond the data are large.
    """
    place, pairs = position - 1, int(pair.max(initial=-1)) + 1
    clicks_of_pair = np.bincount(pair, clicks, pairs)
    differences = np.diff(np.eye(positions), axis=0)
    prior = differences.T @ differences / PRIOR_VARIANCE
    log_theta = np.zeros(positions)
    information = prior
    for _ in range(STEPS):
        chance = impressions * np.exp(log_theta[place])
        chance /= np.bincount(pair, chance, pairs)[pair]
        expected = np.bincount(place, clicks_of_pair[pair] * chance, positions)
        shares = np.zeros((pairs, positions))
        shares[pair, place] = chance
        information = np.diag(expected) - (shares * clicks_of_pair[:, None]).T @ shares + prior
        gradient = np.bincount(place, clicks, positions) - expected - prior @ log_theta
        step = np.linalg.solve(information[1:, 1:], gradient[1:])
        log_theta[1:] += np.clip(step, -1, 1)
        if np.abs(step).max(initial=0) < 1e-10:
            break
    theta = np.exp(log_theta)
    variance = np.diag(np.linalg.inv(information[1:, 1:]))
    return theta, theta * np.sqrt(np.concatenate([[0.0], variance]))
