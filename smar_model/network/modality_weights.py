"""How much each of pretraining's three losses counts: set, learned, or found for each pair."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from smar_model.errors import InputError

Weighting = Literal["per_department", "uncertainty", "per_pair"]
HIDDEN = 32
BOUND = math.log(10)
"""A learned weight stays within a tenth and ten times of where it began."""


class ModalityWeights(nn.Module):
    """Weights of L_t, L_i and L_m for each pair of a batch. Part of training, not of the published model.

    `per_department`: one triple for visual departments, another for the others (SMAR's figure 3 found different best ones).
    `uncertainty`: exp(−s) with a learned s for each loss, which pays s/2 (Kendall et al. 2018, arXiv 1705.07115): what stays
    unsure counts less.
    `per_pair`: the same with s from the pair's own embeddings. They enter without gradient: a model that could lower its
    loss by moving embeddings to where weights are small would collapse.
    """

    visual: Tensor
    start: Tensor

    def __init__(
        self,
        weighting: Weighting,
        weights: tuple[float, float, float],
        *,
        dimension: int,
        other_weights: tuple[float, float, float] | None = None,
        visual: Tensor | None = None,
    ) -> None:
        """
        Args:
            weights: α, β, γ to begin with; under `per_department` those of visual departments.
            dimension: of the embeddings.
            other_weights: under `per_department`, those of other departments.
            visual: under `per_department`, whether each item row is of a visual department, (N,) bool.

        Raises:
            InputError: a learned weight would begin at 0, from where it cannot move.
        """
        super().__init__()
        self.weighting = weighting
        if weighting in ("uncertainty", "per_pair") and min(weights) <= 0:
            raise InputError(
                f"training.modality_weights {weights}: with modality_weighting {weighting} each must be above 0"
            )
        self.register_buffer("start", torch.tensor([other_weights or weights, weights]), persistent=False)
        self.register_buffer("visual", torch.ones(1, dtype=torch.bool) if visual is None else visual, persistent=False)
        if weighting == "uncertainty":
            self.raw = nn.Parameter(torch.zeros(3))
        elif weighting == "per_pair":
            out = nn.Linear(HIDDEN, 3)
            nn.init.zeros_(out.weight)
            nn.init.zeros_(out.bias)
            self.score = nn.Sequential(nn.Linear(5 * dimension, HIDDEN), nn.GELU(), out)

    def forward(self, embeddings: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Weights (B, 3), and what they cost besides (B, 3): log-variances under a learned weighting, else 0."""
        queries = embeddings["queries"]
        if self.weighting == "per_department":
            weights = self.start[self.visual[embeddings["item_keys"]].long()]
            return weights, torch.zeros_like(weights)
        start = self.start[1].expand(len(queries), 3)
        if self.weighting == "uncertainty":
            raw = self.raw.expand(len(queries), 3)
        else:
            q, t, v = (embeddings[name].detach() for name in ("queries", "texts", "images"))
            raw = self.score(torch.cat([q, t, v, q * t, q * v], dim=-1))
        log_variance = BOUND * torch.tanh(raw)
        return start * torch.exp(-log_variance), log_variance / 2
