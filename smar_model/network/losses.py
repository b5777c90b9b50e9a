"""Contrastive losses. Each is a small function with its naive form stated; `tests/network` compares the two."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def duplicates_mask(query_ids: Tensor, item_ids: Tensor) -> Tensor:
    """Which pairs (i, j) of a batch are no negatives: same item or same query, i ≠ j. (B,), (B,) → (B, B) bool."""
    same = (query_ids[:, None] == query_ids[None, :]) | (item_ids[:, None] == item_ids[None, :])
    return same.fill_diagonal_(False)


def likely_false_negatives(scores: Tensor, margin: float) -> Tensor:
    """Which pairs (i, j) the model itself takes for matches: s_ij > s_ii + margin (ROAR, arXiv 2606.01504).

    (B, M) with the positives on the diagonal, M ≥ B → (B, M) bool, never the diagonal. Carries no gradient.
    """
    scores = scores.detach()
    return (scores > scores.diagonal()[:, None] + margin).fill_diagonal_(False)


def in_batch_softmax(
    scores: Tensor,
    scale: Tensor | float,
    excluded: Tensor,
    *,
    further: Tensor | None = None,
    margin: float | None = None,
    each: bool = False,
) -> Tensor:
    """Symmetric in-batch softmax: query i must find item i among the batch's items, and the other way round.

        loss = ½ Σ_i [ −log softmax_j(scale·s_ij)_i − log softmax_j(scale·s_ji)_i ] / B

    Args:
        scores: cosines s_ij of query i and item j, (B, B).
        scale: inverse temperature.
        excluded: pairs left out of both sums, (B, B) bool, never the diagonal.
        further: cosines of query i and items besides the batch's (random or hard negatives), (B, N); they join the
            first sum. −inf leaves a pair out.
        margin: leave out likely false negatives, each direction by its own positive.
        each: the loss of each pair (B,), whose mean is the loss.

    Returns:
        Scalar, or (B,). Pairs left out carry no gradient.
    """
    labels = torch.arange(len(scores), device=scores.device)
    loss = scores.new_zeros(())
    for table, skip in ((scores, excluded), (scores.T, excluded.T)):
        if further is not None and table is scores:
            skip = torch.cat([skip, further.isneginf()], dim=1)
            # −inf times the 0 that comes back would be no number in the gradient of the scale.
            table = torch.cat([table, further.masked_fill(further.isneginf(), 0)], dim=1)
        if margin is not None:
            skip = skip | likely_false_negatives(table, margin)
        # The lowest number in place of −inf: a row whose negatives are all left out has a loss of 0, not NaN.
        logits = (table * scale).masked_fill(skip, torch.finfo(table.dtype).min)
        loss = loss + F.cross_entropy(logits, labels, reduction="none" if each else "mean") / 2
    return loss


def batch_hinge(scores: Tensor, margin: float, excluded: Tensor, *, further: Tensor | None = None) -> Tensor:
    """DPSR's hinge over batch and random negatives (arXiv 2006.02282): mean over negatives of max(0, margin − s_ii + s_ij).

    Args:
        scores: s_ij of query i and item j, (B, B).
        margin: how much better than a negative the positive must be.
        excluded: pairs that are no negatives, (B, B) bool.
        further: scores of query i and random items, (B, N); −inf leaves a pair out.

    Returns:
        Scalar; 0 where the batch has no negative.
    """
    positives = scores.diagonal()[:, None]
    skip = excluded | torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    if further is not None:
        scores, skip = torch.cat([scores, further], dim=1), torch.cat([skip, further.isneginf()], dim=1)
    # Selected before the arithmetic: −inf times 0 would be no number.
    violations = F.relu(margin - positives.expand_as(scores)[~skip] + scores[~skip])
    return violations.mean() if len(violations) else scores.new_zeros(())


def multi_head_scores(heads: Tensor, items: Tensor, temperature: float) -> Tensor:
    """DPSR's score of K query heads e_k and an item g: Σ_k softmax_k(⟨e_k, g⟩ / β) ⟨e_k, g⟩ (arXiv 2006.02282, section 3).

    (B, K, D), (N, D), β → (B, N)
    """
    return soft_maximum(torch.einsum("bkd,nd->bkn", heads, items), temperature)


def soft_maximum(each: Tensor, temperature: float) -> Tensor:
    """Σ_k softmax_k(x_k / β) x_k over the heads: (B, K, N), β → (B, N)"""
    return (F.softmax(each / temperature, dim=1) * each).sum(1)


def over_dimensions(dimensions: Sequence[int], loss: Callable[[Callable[[Tensor], Tensor]], Tensor]) -> Tensor:
    """Mean of a loss over prefixes of the embeddings (Matryoshka, Kusupati et al. 2022, arXiv 2205.13147).

    Args:
        dimensions: lengths of the prefixes; none: the embeddings as they are.
        loss: given what cuts embeddings (…, D) to a prefix and makes them unit vectors again.
    """
    if not dimensions:
        return loss(lambda embeddings: embeddings)
    cuts = [lambda embeddings, d=d: F.normalize(embeddings[..., :d], dim=-1) for d in dimensions]
    return torch.stack([loss(cut) for cut in cuts]).mean(0)
