"""Signs of a sick model that ranking metrics show late: a wrong gate, collapsed embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np


def gate_quality(probability: np.ndarray, is_visual: np.ndarray, *, bins: int = 10) -> dict[str, Any]:
    """How well the prediction header P(q) tells visual queries from others.

    Args:
        probability: (Q,) P(q).
        is_visual: (Q,) bool.

    Returns:
        `auc` (None where all queries are of one kind), `accuracy` at 0.5, `calibration_error` (mean distance of
        P(q) from the share of visual queries over equal-width bins, weighted by queries; Naeini et al. 2015), and
        `bins` of {low, high, queries, mean_probability, visual_share} without empty ones.
    """
    bin_of = np.minimum((probability * bins).astype(int), bins - 1)
    rows = []
    for number in np.unique(bin_of):
        inside = bin_of == number
        rows.append(
            {
                "low": float(number / bins),
                "high": float((number + 1) / bins),
                "queries": int(inside.sum()),
                "mean_probability": float(probability[inside].mean()),
                "visual_share": float(is_visual[inside].mean()),
            }
        )
    error = sum(row["queries"] * abs(row["mean_probability"] - row["visual_share"]) for row in rows)
    return {
        "auc": area_under_curve(probability, is_visual),
        "accuracy": float(((probability >= 0.5) == is_visual).mean()),
        "calibration_error": error / len(probability),
        "bins": rows,
    }


def area_under_curve(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Probability that a positive scores above a negative, ties counted half; None where one kind is missing."""
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    return float((mean_rank[place][positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def embedding_health(embeddings: np.ndarray, *, seed: int, pairs: int = 10_000) -> dict[str, float]:
    """Whether the directions of (N, D) vectors use their space.

    Returns:
        `mean_cosine` of random pairs of items (near 1: all items look the same), and `effective_rank`, the exponential of
        the entropy of the singular values' shares (Roy and Vetterli 2007), between 1 and D. Not centred: a
        collapse to one vector must show as rank 1.
    """
    items = len(embeddings)
    random = np.random.default_rng(seed)
    first = random.integers(0, items, pairs)
    second = (first + random.integers(1, max(items, 2), pairs)) % items
    # S_m is shorter than 1 where an item's confidence in its picture is folded into it.
    values = embeddings / np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    cosine = np.einsum("pd,pd->p", values[first], values[second])
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(values.T @ values), 0, None))
    shares = singular[singular > 0] / singular.sum()
    return {"mean_cosine": float(cosine.mean()), "effective_rank": float(np.exp(-(shares * np.log(shares)).sum()))}
