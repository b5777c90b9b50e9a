"""Item text states and image states to one multimodal state sequence.

Every fusion of text and picture begins by passing the text through unchanged: the multimodal embedding starts as the
text embedding and learns what the picture adds.

All share one form: text (B, L, W), image (B, P, W), their masks (B, L) and (B, P) → states (B, M, W), mask (B, M). The
image's mask is None where every place counts. All but SMAR's join one vector of each: t and v (B, W) → (B, W).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smar_model.network.towers import masked_mean

EXPERTS = 4


def pooled(text: Tensor, image: Tensor, text_mask: Tensor, image_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """One vector t and one vector v for each item, (B, W) each."""
    return masked_mean(text, text_mask), image.mean(1) if image_mask is None else masked_mean(image, image_mask)


def begin_at_zero(*layers: nn.Linear) -> None:
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


class CrossAttention(nn.Module):
    """SMAR, section 2.2: H_t asks (Q), H_i answers (K, V); the text keeps its states and adds what it saw."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_text = nn.LayerNorm(width)
        self.norm_image = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.norm_out = nn.LayerNorm(width)
        out = nn.Linear(4 * width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), out)
        begin_at_zero(self.attention.out_proj, out)

    def forward(
        self, text: Tensor, image: Tensor, text_mask: Tensor, image_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        image = self.norm_image(image)
        unseen = None if image_mask is None else ~image_mask
        seen, _ = self.attention(self.norm_text(text), image, image, key_padding_mask=unseen, need_weights=False)
        states = text + seen
        return states + self.feed_forward(self.norm_out(states)), text_mask


class VectorFusion(nn.Module):
    """Joins the pooled text t and the pooled picture v, (B, W) each, to a sequence of one state (B, 1, W)."""

    def forward(
        self, text: Tensor, image: Tensor, text_mask: Tensor, image_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        joined = self.join(*pooled(text, image, text_mask, image_mask))
        return joined.unsqueeze(1), text_mask.new_ones(len(text_mask), 1)

    def join(self, t: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError


class Concatenation(VectorFusion):
    """The naive baseline of both papers: pooled text beside pooled picture, one linear layer."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * width, width)
        begin_at_zero(self.linear)
        with torch.no_grad():
            self.linear.weight[:, :width] = torch.eye(width)

    def join(self, t: Tensor, v: Tensor) -> Tensor:
        return self.linear(torch.cat([t, v], dim=-1))


class LinearMap(VectorFusion):
    """SMAR -nc: pooled H_t and H_i through one linear layer with as many parameters as the cross-attention.

    The layer 2W → W is kept as the product of two matrices by way of 4W places, nothing between them: 12W² + 5W numbers
    against the cross-attention's 12W² + 15W.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.into = nn.Linear(2 * width, 4 * width)
        self.out = nn.Linear(4 * width, width)
        begin_at_zero(self.out)
        with torch.no_grad():
            self.into.weight[:width] = torch.eye(width, 2 * width)
            self.into.bias[:width] = 0
            self.out.weight[:, :width] = torch.eye(width)

    def join(self, t: Tensor, v: Tensor) -> Tensor:
        return self.out(self.into(torch.cat([t, v], dim=-1)))


class WeightedSum(VectorFusion):
    """Weights of the two modalities by softmax, chosen for each item by both (Que2Search): 2·(w_t·t + w_v·Vv)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.weigh = nn.Linear(2 * width, 2)
        self.image = nn.Linear(width, width)
        begin_at_zero(self.weigh, self.image)

    def join(self, t: Tensor, v: Tensor) -> Tensor:
        weights = 2 * self.weigh(torch.cat([t, v], dim=-1)).softmax(-1)  # (B, 2)
        return weights[:, :1] * t + weights[:, 1:] * self.image(v)


class SmallNetwork(VectorFusion):
    """Late fusion by a small MLP: t + MLP([t ; v])."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        out = nn.Linear(2 * width, width)
        self.layers = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Dropout(dropout), out)
        begin_at_zero(out)

    def join(self, t: Tensor, v: Tensor) -> Tensor:
        return t + self.layers(torch.cat([t, v], dim=-1))


class BeyondText(VectorFusion):
    """Beyond Text, stage 2, without the query: p = Attention(t, v)·W, the text asking both modalities' vectors."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)  # its out_proj is W
        begin_at_zero(self.attention.out_proj)

    def join(self, t: Tensor, v: Tensor) -> Tensor:
        both = self.norm(torch.stack([t, v], dim=1))  # (B, 2, W)
        seen, _ = self.attention(both[:, :1], both, both, need_weights=False)
        return t + seen.squeeze(1)


class Mixture(VectorFusion):
    """A light, gated mixture of experts: t + Σ_e g_e([t ; v])·expert_e([t ; v]), the gate by softmax."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * width, EXPERTS)
        self.into = nn.Linear(2 * width, EXPERTS * width)
        self.out = nn.Parameter(torch.zeros(EXPERTS, width, width))

    def join(self, t: Tensor, v: Tensor) -> Tensor:
        both = torch.cat([t, v], dim=-1)
        shares = self.gate(both).softmax(-1)  # (B, E)
        hidden = F.gelu(self.into(both)).unflatten(-1, (EXPERTS, -1))  # (B, E, W)
        return t + torch.einsum("be,bew,ewo->bo", shares, hidden, self.out)


class ImageAlone(nn.Module):
    """No fusion: the item is its picture (DPSR-i)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()

    def forward(
        self, text: Tensor, image: Tensor, text_mask: Tensor, image_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return image, image.new_ones(image.shape[:2], dtype=torch.bool) if image_mask is None else image_mask


FUSIONS: dict[str, type[nn.Module]] = {
    "cross_attention": CrossAttention,
    "concat": Concatenation,
    "linear": LinearMap,
    "weighted_sum": WeightedSum,
    "mlp": SmallNetwork,
    "beyond_text": BeyondText,
    "mixture": Mixture,
    "image": ImageAlone,
}


class Reranker(nn.Module):
    """Beyond Text, stage 2, with the query: p(q) = Attention(q; t, v)·W, score Q·p(q)/‖p(q)‖.

    It sees the query, so nothing of it can be indexed: it scores every query with every item that it is given.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.query = nn.Linear(dimension, dimension)
        self.key = nn.Linear(dimension, dimension)
        self.value = nn.Linear(dimension, dimension)  # W, taken inside the sum
        begin_at_zero(self.value)

    def forward(self, queries: Tensor, texts: Tensor, images: Tensor) -> Tensor:
        """Q (B, D), S_t and S_i (N, D) → (B, N)."""
        both = torch.stack([texts, images], dim=1)  # (N, 2, D)
        asked = torch.einsum("bd,nmd->bnm", self.query(queries), self.key(both))
        shares = (asked / both.shape[-1] ** 0.5).softmax(-1)
        fused = F.normalize(texts + torch.einsum("bnm,nmd->bnd", shares, self.value(both)), dim=-1)
        return torch.einsum("bd,bnd->bn", queries, fused)
