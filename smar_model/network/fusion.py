"""Item text states and image states to one multimodal state sequence.

Every fusion begins by passing the text through unchanged: the multimodal embedding starts as the text embedding and
learns what the picture adds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smar_model.network.towers import masked_mean


class CrossAttention(nn.Module):
    """SMAR, section 2.2: H_t asks (Q), H_i answers (K, V); the text keeps its states and adds what it saw.

    (B, L, W), (B, P, W) → (B, L, W)
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_text = nn.LayerNorm(width)
        self.norm_image = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.norm_out = nn.LayerNorm(width)
        out = nn.Linear(4 * width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), out)
        for last in (self.attention.out_proj, out):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, text: Tensor, image: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        image = self.norm_image(image)
        seen, _ = self.attention(self.norm_text(text), image, image, need_weights=False)
        states = text + seen
        return states + self.feed_forward(self.norm_out(states)), text_mask


class Concatenation(nn.Module):
    """The naive baseline of both papers: pooled text beside pooled picture, one linear layer.

    (B, L, W), (B, P, W) → (B, 1, W)
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * width, width)
        with torch.no_grad():
            self.linear.weight[:, :width] = torch.eye(width)
            self.linear.weight[:, width:] = 0

    def forward(self, text: Tensor, image: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        pooled = torch.cat([masked_mean(text, text_mask), image.mean(1)], dim=-1)
        states = self.linear(pooled).unsqueeze(1)
        return states, text_mask.new_ones(len(text_mask), 1)


FUSIONS = {"cross_attention": CrossAttention, "concat": Concatenation}
