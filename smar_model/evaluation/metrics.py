"""Ranking metrics, one value a query, as trec_eval defines them.

All take a `JudgedRanking` of Q queries to a depth D and return (Q,) float64. A query without results, or without any
relevant item, has the value 0. Compared with trec_eval itself in tests/evaluation/test_metrics.py.
"""

from __future__ import annotations

import numpy as np

from smar_model.evaluation.relevance import JudgedRanking


def recall(judged: JudgedRanking, k: int, *, capped: bool = False) -> np.ndarray:
    """Recall@k = relevant items among the first k / relevant items.

    Args:
        capped: divide by min(k, relevant items) instead, so that 1 can be reached where more than k are relevant.
    """
    found = (_first(judged, k) > 0).sum(axis=1)
    possible = np.minimum(judged.relevant, k) if capped else judged.relevant
    return found / np.maximum(possible, 1)


def precision(judged: JudgedRanking, k: int) -> np.ndarray:
    """P@k = relevant items among the first k / k, also where fewer than k were found."""
    return (_first(judged, k) > 0).sum(axis=1) / k


def f1(judged: JudgedRanking, k: int, *, capped: bool = False) -> np.ndarray:
    """F1@k = 2 · P@k · Recall@k / (P@k + Recall@k), query by query; `capped` as in `recall`."""
    p, r = precision(judged, k), recall(judged, k, capped=capped)
    return np.divide(2 * p * r, p + r, out=np.zeros(len(p)), where=p + r > 0)


def ndcg(judged: JudgedRanking, k: int) -> np.ndarray:
    """nDCG@k = DCG@k / ideal DCG@k, DCG@k = Σ_{r ≤ k} grade_r / log2(r + 1).

    The gain is the grade itself (trec_eval's ndcg_cut), not 2^grade − 1. Järvelin and Kekäläinen 2002.
    """
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = judged.ideal[:, :k] @ discount
    return np.divide(_first(judged, k) @ discount, ideal, out=np.zeros(len(ideal)), where=ideal > 0)


def average_precision(judged: JudgedRanking, k: int, *, capped: bool = False) -> np.ndarray:
    """AP@k = Σ_{r ≤ k, item r relevant} P@r / relevant items; its mean is MAP. `capped` as in `recall`."""
    hits = _first(judged, k) > 0
    precisions = np.cumsum(hits, axis=1) / np.arange(1, k + 1)
    possible = np.minimum(judged.relevant, k) if capped else judged.relevant
    return (precisions * hits).sum(axis=1) / np.maximum(possible, 1)


def reciprocal_rank(judged: JudgedRanking) -> np.ndarray:
    """1 / rank of the first relevant item, to the depth judged; its mean is MRR."""
    hits = judged.gains > 0
    return np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0)


def first_relevant_rank(judged: JudgedRanking) -> np.ndarray:
    """(Q,) int32 rank of the first relevant item, 1 is the top; 0 where none was found."""
    hits = judged.gains > 0
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0).astype(np.int32)


def _first(judged: JudgedRanking, k: int) -> np.ndarray:
    if not 1 <= k <= judged.gains.shape[1]:
        raise ValueError(f"k = {k}: the ranking was judged to depth {judged.gains.shape[1]}")
    return judged.gains[:, :k]
