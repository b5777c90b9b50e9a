"""A vector for each token, trained whole, or from pretrained ones that stay where training meets no token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PADDING = 0
"""Id of the padding token in every tokenizer of this project."""


class TokenVectors(nn.Embedding):
    """Token ids to vectors: (B, L) → (B, L, W); padding's carries no gradient.

    Pretrained vectors are trained by what they differ (`train_difference`): v_t = pretrained_t + d_t, with d_t for the tokens that
    training meets and 0 for all others. So a token that nobody has typed yet keeps its place among its neighbours, weight decay
    draws what is trained towards the pretrained vector instead of towards 0, and a step costs what the tokens of the training data cost,
    however large the vocabulary is.
    """

    difference: nn.Parameter | None
    """(1 + tokens that are trained, W); row 0 stays 0."""
    rows: Tensor | None
    """(V,): each token's row of the difference; 0 for those that are not trained."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__(vocabulary, width, padding_idx=PADDING)
        self.register_parameter("difference", None)
        # A function of the training data, so no part of a checkpoint.
        self.register_buffer("rows", None, persistent=False)

    def train_difference(self, tokens: Tensor) -> None:
        """From here on train the vectors of these tokens (ids, without repetition) alone, by what they differ from now."""
        tokens = tokens[tokens != PADDING]
        self.weight.requires_grad_(False)
        self.difference = nn.Parameter(self.weight.new_zeros(1 + len(tokens), self.embedding_dim))
        rows = torch.zeros(self.num_embeddings, dtype=torch.long, device=self.weight.device)
        rows[tokens] = torch.arange(1, 1 + len(tokens), device=self.weight.device)
        self.rows = rows

    @torch.no_grad()
    def fold(self) -> None:
        """Add the difference to the vectors and forget it: what is saved is one table."""
        if self.difference is not None and self.rows is not None:
            self.weight += self.difference[self.rows]
            self.difference = self.rows = None
            self.weight.requires_grad_(True)

    def forward(self, ids: Tensor) -> Tensor:
        vectors = super().forward(ids)
        if self.difference is None or self.rows is None:
            return vectors
        return vectors + F.embedding(self.rows[ids], self.difference, padding_idx=0)

    def weighted_sum(self, ids: Tensor, weights: Tensor) -> Tensor:
        """Σ_l weight · vector, padding left out: (B, L), (B, L) → (B, W). No (B, L, W) is made."""
        # A weight of 0 keeps padding's vector where it is; told its index, torch takes a slower way.
        of_tokens = weights.masked_fill(ids == PADDING, 0)
        total = F.embedding_bag(ids, self.weight, per_sample_weights=of_tokens, mode="sum")
        if self.difference is None or self.rows is None:
            return total
        rows = self.rows[ids]
        of_rows = weights.masked_fill(rows == 0, 0)
        return total + F.embedding_bag(rows, self.difference, per_sample_weights=of_rows, mode="sum")
