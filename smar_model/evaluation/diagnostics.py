"""Signs of a sick model that ranking metrics show late: collapsed embeddings, a gate that cannot tell."""

from __future__ import annotations

import numpy as np


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
