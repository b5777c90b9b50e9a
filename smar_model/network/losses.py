"""Contrastive losses. Each is a small function with its naive form stated; `tests/network` compares the two."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def duplicates_mask(query_ids: Tensor, item_ids: Tensor) -> Tensor:
    """Which pairs (i, j) of a batch are no negatives: same item or same query, i ≠ j. (B,), (B,) → (B, B) bool."""
    same = (query_ids[:, None] == query_ids[None, :]) | (item_ids[:, None] == item_ids[None, :])
    return same.fill_diagonal_(False)


def in_batch_softmax(scores: Tensor, scale: Tensor | float, excluded: Tensor) -> Tensor:
    """Symmetric in-batch softmax: query i must find item i among the batch's items, and the other way round.

        loss = ½ Σ_i [ −log softmax_j(scale·s_ij)_i − log softmax_j(scale·s_ji)_i ] / B

    Args:
        scores: cosines s_ij of query i and item j, (B, B).
        scale: inverse temperature.
        excluded: pairs left out of both sums, (B, B) bool, never the diagonal.

    Returns:
        Scalar. Excluded pairs carry no gradient.
    """
    logits = scores * scale
    labels = torch.arange(len(scores), device=scores.device)
    lowest = torch.finfo(logits.dtype).min
    forward = F.cross_entropy(logits.masked_fill(excluded, lowest), labels)
    backward = F.cross_entropy(logits.T.masked_fill(excluded.T, lowest), labels)
    return (forward + backward) / 2
