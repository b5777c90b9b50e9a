"""The towers: text to states, pictures to states, each pooled to one unit vector (SMAR, section 2.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig

PADDING = 0
"""Id of the padding token in every tokenizer that this project trains."""


TOKEN_SCALE = 0.5
"""Standard deviation of a token's embedding before training."""


def visible(ids: Tensor) -> Tensor:
    """Places that hold a token, (B, L) bool; the first always counts, as attention over nothing is not a number."""
    mask = ids != PADDING
    mask[:, 0] = True
    return mask


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over positions whose mask is true: (B, L, W), (B, L) → (B, W)."""
    weight = mask.unsqueeze(-1).to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1)


class Projection(nn.Module):
    """Pooled states to a unit vector: (B, L, W), (B, L) → (B, D)."""

    def __init__(self, width: int, dimension: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, dimension)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return F.normalize(self.linear(masked_mean(states, mask)), dim=-1)


def transformer(width: int, heads: int, layers: int, dropout: float) -> nn.TransformerEncoder:
    """Pre-norm transformer over (B, L, W)."""
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)


class TextTower(nn.Module):
    """Token ids to states: (B, L) → (B, L, W). Segments tell title, category, brand and attributes apart."""

    def __init__(
        self, *, vocabulary: int, length: int, segments: int, width: int, heads: int, layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=PADDING)
        self.positions = nn.Embedding(length, width)
        self.segments = nn.Embedding(segments, width)
        self.dropout = nn.Dropout(dropout)
        self.transformer = transformer(width, heads, layers, dropout)
        # Words outweigh their places at first: equal words then score high before anything is learned.
        nn.init.normal_(self.tokens.weight, std=TOKEN_SCALE)
        for table in (self.positions, self.segments):
            nn.init.normal_(table.weight, std=0.02)
        with torch.no_grad():
            self.tokens.weight[PADDING].zero_()

    def forward(self, ids: Tensor, segments: Tensor, mask: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        states = self.tokens(ids) + self.positions(places) + self.segments(segments)  # (B, L, W)
        return self.transformer(self.dropout(states), src_key_padding_mask=~mask)


class PretrainedTextTower(nn.Module):
    """A `transformers` encoder in the same place; segments are added to its word embeddings."""

    def __init__(
        self, config: PreTrainedConfig, *, segments: int, width: int, folder_or_name: str | None = None
    ) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder_or_name) if folder_or_name else AutoModel.from_config(config)
        inner = config.hidden_size
        self.segments = nn.Embedding(segments, inner)
        nn.init.zeros_(self.segments.weight)  # begin as the encoder was trained
        self.project = nn.Identity() if inner == width else nn.Linear(inner, width)

    def forward(self, ids: Tensor, segments: Tensor, mask: Tensor) -> Tensor:
        words = self.encoder.get_input_embeddings()(ids) + self.segments(segments)
        return self.project(self.encoder(inputs_embeds=words, attention_mask=mask.long()).last_hidden_state)


class ImageTower(nn.Module):
    """Patch tokens of the vision encoder to states: (B, P, C) → (B, P, W).

    An item without a picture gets one learned state in every place, so that it is a state like others to
    fusion and never zeros (design, decision 7).
    """

    def __init__(self, *, channels: int, patches: int, width: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, width)
        self.positions = nn.Parameter(torch.randn(patches, width) * 0.02)
        self.no_picture = nn.Parameter(torch.randn(width) * 0.02)
        self.transformer = transformer(width, heads, layers, dropout) if layers else None

    def forward(self, patches: Tensor, has_picture: Tensor) -> Tensor:
        states = torch.where(has_picture[:, None, None], self.project(self.norm(patches)), self.no_picture)
        states = states + self.positions
        return self.transformer(states) if self.transformer else states
