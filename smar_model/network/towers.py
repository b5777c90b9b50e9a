"""The towers: text to states, pictures to states, each pooled to one unit vector (SMAR, section 2.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.models import group_parameters
from torch import Tensor, nn

from smar_model.network.token_vectors import PADDING, TokenVectors
from smar_model.settings import Trained

TOKEN_SCALE = 0.5
"""Standard deviation of a token's embedding before training."""
ROWS_TOGETHER = 64
"""Texts of about one length that go through a transformer together: 64 take two thirds of the time that 256 of all lengths do."""


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
    """Token ids (B, L) to states (B, L, W) and their mask (B, L). Segments tell title, category, brand and attributes apart.

    Without layers a state is its token's own vector.
    """

    def __init__(
        self, *, vocabulary: int, length: int, segments: int, width: int, heads: int, layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.tokens = TokenVectors(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.segments = nn.Embedding(segments, width)
        self.dropout = nn.Dropout(dropout)
        self.transformer = transformer(width, heads, layers, dropout) if layers else None
        # Words outweigh their places at first: equal words then score high before anything is learned.
        nn.init.normal_(self.tokens.weight, std=TOKEN_SCALE)
        for table in (self.positions, self.segments):
            nn.init.normal_(table.weight, std=0.02)
        with torch.no_grad():
            self.tokens.weight[PADDING].zero_()

    def forward(self, ids: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        mask = visible(ids)
        places = torch.arange(ids.shape[1], device=ids.device)
        states = self.dropout(self.tokens(ids) + self.positions(places) + self.segments(segments))  # (B, L, W)
        if self.transformer is None:
            return states, mask
        encode = self.transformer
        return by_length(
            lambda part, shown: encode(part, src_key_padding_mask=~shown), states, mask, training=self.training
        ), mask

    def share_tokens(self, tokens: TokenVectors) -> None:
        """Have the vectors of another tower."""
        self.tokens = tokens


def by_length(encode: Callable[[Tensor, Tensor], Tensor], states: Tensor, mask: Tensor, *, training: bool) -> Tensor:
    """`encode(states (B, L, W), mask (B, L))` over texts of about one length at a time: most of a batch would be padding, whose states are
    then 0.

    In training on a CPU alone: a GPU would wait for the lengths, and outside of training what a text comes with must not show,
    were it in the last bits.
    """
    if not training or len(states) <= ROWS_TOGETHER or states.is_cuda or torch.compiler.is_compiling():
        return encode(states, mask)
    lengths = (mask * torch.arange(1, mask.shape[1] + 1)).amax(1)
    order = lengths.argsort(stable=True)
    parts = []
    for rows in order.split(ROWS_TOGETHER):
        width = int(lengths[rows[-1]])
        part = encode(states.index_select(0, rows)[:, :width], mask.index_select(0, rows)[:, :width])
        parts.append(F.pad(part, (0, 0, 0, mask.shape[1] - width)))
    return torch.cat(parts).index_select(0, order.argsort())


class MeanOfWords(TextTower):
    """The mean of a TextTower's states without layers, as one state (B, 1, W), where nothing asks for single words: they are summed
    in their tables, no (B, L, W) is made. Dropout falls on the mean.

    A step takes a fraction of a transformer's time, and where few minutes are all there are it has learned more at their end
    (`text_transformer` and `text_only_words` in `benchmarks/quality.md`).
    """

    def forward(self, ids: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        mask = visible(ids)
        weights = mask / mask.sum(1, keepdim=True)  # (B, L)
        words = self.tokens.weighted_sum(ids, weights)
        places = weights @ self.positions.weight[: ids.shape[1]]
        by_segment = weights.new_zeros(len(ids), self.segments.num_embeddings).scatter_add_(1, segments, weights)
        states = self.dropout(words + places + by_segment @ self.segments.weight)
        return states.unsqueeze(1), mask[:, :1]


class ImageTower(nn.Module):
    """Patch tokens of the vision encoder to states: (B, P, C) → (B, P, W), or of up to F frames (B, F, P, C) → (B, F·P, W).

    Frames are an item's pictures, or pictures of its video, in one sequence; all but the first carry a frame embedding.
    An item without a picture gets one learned state in every place of its first frame, so that it is a state like others
    to fusion and never zeros (design, decision 7).
    """

    def __init__(
        self, *, channels: int, patches: int, frames: int, width: int, heads: int, layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.places = patches
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, width)
        self.positions = nn.Parameter(torch.randn(patches, width) * 0.02)
        self.no_picture = nn.Parameter(torch.randn(width) * 0.02)
        self.further_frames = nn.Parameter(torch.zeros(frames - 1, 1, width)) if frames > 1 else None
        self.transformer = transformer(width, heads, layers, dropout) if layers else None

    def forward(self, patches: Tensor, has_picture: Tensor) -> Tensor:
        mask = places_with_pictures(has_picture, self.places)
        if patches.ndim == 3:
            patches, has_picture = patches[:, None], has_picture[:, None]
        states = torch.where(has_picture[..., None, None], self.project(self.norm(patches)), self.no_picture)
        states = states + self.positions  # (B, F, P, W)
        states = add_frames(states, self.further_frames).flatten(1, 2)
        if self.transformer is None:
            return states
        return self.transformer(states, src_key_padding_mask=None if mask is None else ~mask)


class PlacedImageTower(nn.Module):
    """Patch tokens to one state that knows where each stands: (B, P, C) → (B, 1, W), of up to F frames (B, F, P, C) → (B, F, W).

    Pictures of a shop show a product in one pose, in the middle: a small network over all places at once reads them from far fewer
    pictures than attention does, which must first learn what places mean (`docs/vision.md`). As in ImageTower an item without a
    picture gets a learned state, and all frames but the first carry an embedding.
    """

    places = 1

    def __init__(
        self, *, channels: int, patches: int, frames: int, width: int, dropout: float, narrow: int | None = None
    ) -> None:
        """
        Args:
            narrow: channels of each place to go on with, by one linear layer for all places; None: all.
        """
        super().__init__()
        inside = 4 * width
        self.narrow = nn.Sequential(nn.Linear(channels, narrow), nn.LayerNorm(narrow), nn.GELU()) if narrow else None
        self.layers = nn.Sequential(
            nn.Linear(patches * (narrow or channels), inside),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(inside, width),
            nn.LayerNorm(width),
        )
        self.no_picture = nn.Parameter(torch.randn(width) * 0.02)
        self.further_frames = nn.Parameter(torch.zeros(frames - 1, width)) if frames > 1 else None

    def forward(self, patches: Tensor, has_picture: Tensor) -> Tensor:
        if patches.ndim == 3:
            patches, has_picture = patches[:, None], has_picture[:, None]
        if self.narrow is not None:
            patches = self.narrow(patches)
        states = torch.where(has_picture[..., None], self.layers(patches.flatten(2)), self.no_picture)  # (B, F, W)
        return add_frames(states, self.further_frames)


def add_frames(states: Tensor, further_frames: Tensor | None) -> Tensor:
    """Add to the states (B, F, …) of all frames but the first their embeddings (≥ F − 1, …)."""
    if further_frames is None or states.shape[1] == 1:
        return states
    return torch.cat([states[:, :1], states[:, 1:] + further_frames[: states.shape[1] - 1]], dim=1)


def places_with_pictures(has_picture: Tensor, patches: int) -> Tensor | None:
    """Which states of the image tower count: (B, F) → (B, F·P) bool, the first frame's always; None for one frame (B,)."""
    if has_picture.ndim == 1:
        return None
    counts = has_picture.clone()
    counts[:, 0] = True
    return counts.repeat_interleave(patches, dim=1)


def train_part(encoder: nn.Module, trained: Trained, last_blocks: int) -> None:
    """Lock an encoder whole (`locked`), up to its last blocks (`partly`) or not at all (`tuned`)."""
    if trained == "tuned":
        return
    encoder.requires_grad_(False)  # `RetrievalModel.train` keeps it in evaluation mode
    if trained == "partly":
        for name in _last_parameters(encoder, last_blocks):
            encoder.get_parameter(name).requires_grad_(True)


def _last_parameters(encoder: nn.Module, blocks: int) -> list[str]:
    """Names of the parameters of the last blocks: timm knows its models' blocks; in others they are the longest list."""
    if matcher := getattr(encoder, "group_matcher", None):
        block_of = group_parameters(encoder, matcher(), reverse=True)
        kept = sorted(set(block_of.values()))[-blocks:]
        return [name for name, block in block_of.items() if block in kept]
    lists = [(name, module) for name, module in encoder.named_modules() if isinstance(module, nn.ModuleList)]
    name, longest = max(lists, key=lambda found: len(found[1]))
    kept_prefixes = tuple(f"{name}.{n}." for n in range(max(0, len(longest) - blocks), len(longest)))
    return [n for n, _ in encoder.named_parameters() if n.startswith(kept_prefixes)]
