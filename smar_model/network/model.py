"""The network: query tower, item text tower, item image tower, item multimodal tower, prediction header.

Score of a query q and an item s (SMAR, sections 2.2 and 2.4): Q(q)·S_m(s) where P(q) = 1, Q(q)·S_t(s) where P(q) = 0; in
general Q·S_t + p(q)·c(s)·Q·(S_m − S_t), with p between and with an item's own confidence c in its picture.
The vision encoder stands before the image tower and can be run apart (`picture_patches`), so that a locked one
encodes each picture once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from timm.models import get_model_args
from torch import Tensor, nn
from transformers import AutoConfig

from smar_model.data.encoder_tokens import read_encoder_tokenizer
from smar_model.errors import InputError
from smar_model.network.aligned_pair import AlignedImageProjection, LastStateProjection, read_projection
from smar_model.network.descriptors import PictureDescriptors, choose_fields
from smar_model.network.fusion import FUSIONS, Reranker, pooled
from smar_model.network.losses import multi_head_scores
from smar_model.network.picture_encoder import Grid, PictureEncoder, make_picture_encoder
from smar_model.network.pretrained_text import PretrainedRate, PretrainedTextTower, TextForm, cut_config
from smar_model.network.pretrained_words import begin_with_words
from smar_model.network.towers import (
    ImageTower,
    MeanOfWords,
    PlacedImageTower,
    Projection,
    TextTower,
    masked_mean,
    places_with_pictures,
    train_part,
)
from smar_model.network.variants import HEAD_TEMPERATURE, find_variant
from smar_model.settings import Network

SEGMENTS = ("title", "category", "brand", "attributes")

INITIAL_SCALE = 20.0
SCALE_BOUNDS = (5.0, 50.0)
"""Inverse temperature; published ones lie at 15–20 (Que2Search) to 50 (ROAR, τ = 0.02)."""
INITIAL_CONFIDENCE = 2.0
"""Logit of c(item) before training: a picture counts .88 until something speaks against it."""

MOST_PLACED_NUMBERS = 4_096
"""Of a picture, that a placed image tower takes at once: its first layer has 4 · width weights for each."""
PLACE_CHANNELS = 64
"""To which more are brought first, each place alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What must be known besides the weights to build the network again; saved as network.json."""

    network: Network
    vocabulary: int
    query_length: int
    item_length: int
    picture_width: int
    picture_height: int
    text_encoder: dict[str, Any] | None = None
    """Configuration of the whole `transformers` encoder that the text towers are cut from, where they are."""
    text_form: TextForm | None = None
    """None with a text encoder: a model of before there was one, whose towers have all of the encoder's layers each."""
    vision_encoder: str | None = None
    """timm architecture; None: a variant without pictures, or one that reads them by descriptors alone."""
    vision_arguments: dict[str, Any] | None = None
    """What the folder of a pretrained one says of its architecture beside that name."""
    vision_came_with_weights: bool = False
    aligned: int | None = None
    """Dimension of the space that both pretrained encoders are in, of a pair such as CLIP (`aligned_pair.py`)."""
    picture_grid: Grid | None = None
    """Rows and columns of the patch tokens' places; None: as the encoder, or the pictures' size, has them."""
    place_channels: int | None = None
    """To what a placed image tower first brings a place's channels; None: it takes all channels of all places at once."""


class RetrievalModel(nn.Module):
    """All towers. Text is given as ids (B, L), 0 is padding; embeddings are unit vectors (B, D).

    Pictures are given as patch tokens (B, P, C) with `has_picture` (B,), or of several frames (B, F, P, C) with (B, F).
    """

    header_temperature: Tensor
    """Divides the header's logits, so that P(q) is calibrated; found after fine-tuning."""

    def __init__(
        self,
        shape: Shape,
        *,
        is_new: bool = False,
        text_encoder: Path | None = None,
        vision_encoder: Path | None = None,
    ) -> None:
        """
        Args:
            is_new: whether the shape leaves open what follows from the pictures' size and the encoder; it is in `shape` after.
            text_encoder, vision_encoder: folders of pretrained encoders, whose weights the towers begin with.
        """
        super().__init__()
        network, text = shape.network, shape.network.text
        self.shape = shape
        self.variant = find_variant(network)
        # The order of what follows is that of the draws: another one would begin with other weights.
        self.query_tower = self._text_tower(shape.query_length, 1, text.layers("query"), text_encoder)
        self.query_projection = self._text_projection(text_encoder)
        self.header = nn.Sequential(nn.Linear(text.width, text.width), nn.GELU(), nn.Linear(text.width, 1))
        self.register_buffer("header_temperature", torch.tensor(1.0))
        self.item_text_tower = self._text_tower(shape.item_length, len(SEGMENTS), text.layers("item"), text_encoder)
        # Queries and item texts share words and projection, so that lexical match is where learning begins.
        self.text_projection = self.query_projection
        if shape.text_encoder is None or shape.text_form:
            self.item_text_tower.share_tokens(self.query_tower.tokens)
        self.further_heads = nn.ModuleList(
            Projection(text.width, network.dimension) for _ in range(self.variant.heads - 1)
        )
        if self.variant.fusion:
            self.vision = self._vision(vision_encoder, is_new=is_new)
            if is_new:
                self.shape = replace(shape, **self._picture_parts())
            self.image_tower = self._image_tower()
            self.image_projection = self._image_projection()
            self.fusion = FUSIONS[self.variant.fusion](text.width, text.heads, network.dropout)
            # S_m begins as S_t (fusion adds nothing at first) and learns what pictures add.
            self.multimodal_projection = self.text_projection
        if self.variant.item_confidence:
            last = nn.Linear(text.width, 1)
            nn.init.zeros_(last.weight)
            nn.init.constant_(last.bias, INITIAL_CONFIDENCE)
            self.confidence_head = nn.Sequential(nn.Linear(2 * text.width, text.width), nn.GELU(), last)
        if self.variant.reranker:
            self.reranker = Reranker(network.dimension)
        self.log_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))

    def _text_tower(
        self, length: int, segments: int, layers: int, pretrained: Path | None
    ) -> TextTower | PretrainedTextTower:
        shape, text = self.shape, self.shape.network.text
        if shape.text_encoder:
            form, config = shape.text_form, shape.text_encoder
            return PretrainedTextTower(
                cut_config(config, layers, dropout=shape.network.dropout) if form else AutoConfig.for_model(**config),
                form,
                segments=segments,
                width=text.width,
                trained=text.trained,
                last_blocks=text.last_blocks,
                folder=pretrained / "text" if pretrained else None,
                padding=read_encoder_tokenizer(pretrained).padding if pretrained else 0,
            )
        words = self.variant.text_tower == "words"
        # Cross-attention is asked by each word.
        kind = MeanOfWords if words and self.variant.fusion != "cross_attention" else TextTower
        tower = kind(
            vocabulary=shape.vocabulary,
            length=length,
            segments=segments,
            width=text.width,
            heads=text.heads,
            layers=0 if words else layers,
            dropout=shape.network.dropout,
        )
        if pretrained:
            begin_with_words(tower.tokens, pretrained)
        return tower

    def _text_projection(self, pretrained: Path | None) -> Projection | LastStateProjection:
        width, dimension = self.shape.network.text.width, self.shape.network.dimension
        if self.shape.aligned is None:
            return Projection(width, dimension)
        projection = LastStateProjection(width, dimension)
        if pretrained:
            projection.begin(read_projection(pretrained, "text"))
        return projection

    def _image_projection(self) -> Projection | AlignedImageProjection:
        width, dimension = self.shape.network.text.width, self.shape.network.dimension
        if self.shape.aligned is None:
            return Projection(width, dimension)
        return AlignedImageProjection(width, self.shape.aligned, dimension)

    def _vision(self, pretrained: Path | None, *, is_new: bool) -> PictureDescriptors | PictureEncoder:
        shape, network = self.shape, self.shape.network
        if network.frames > 1 and not self.vision_locked:
            raise InputError(
                f"network.frames {network.frames}: several pictures at once need a vision encoder that is locked "
                "(network.vision.trained: locked), and adapted (adapted: true) or pretrained; or set frames to 1"
            )
        if self.variant.descriptors == "alone":
            height, width = shape.picture_height, shape.picture_width
            return PictureDescriptors(
                height, width, grid=choose_fields(height, width) if is_new else shape.picture_grid
            )
        vision = make_picture_encoder(
            network,
            height=shape.picture_height,
            width=shape.picture_width,
            descriptors=self.variant.descriptors,
            architecture=shape.vision_encoder,
            grid="choose" if is_new else shape.picture_grid,
            came_with_weights=shape.vision_came_with_weights,
            folder=pretrained / "vision" if pretrained else None,
            arguments=shape.vision_arguments,
            aligned=shape.aligned,
        )
        if pretrained and vision.projection is not None:
            vision.projection.load_state_dict(read_projection(pretrained, "vision"))
        if network.vision.trained == "partly":
            train_part(vision.encoder, "partly", network.vision.last_blocks)
        return vision

    def _picture_parts(self) -> dict[str, Any]:
        """What of the shape follows from the pictures' size and the encoder."""
        shape, vision = self.shape, self.vision
        parts: dict[str, Any] = {}
        if isinstance(vision, PictureEncoder):
            architecture = vision.encoder.pretrained_cfg.get("architecture") or shape.network.vision.name
            parts = {"vision_encoder": architecture, "picture_grid": vision.grid}
            if shape.vision_came_with_weights:
                arguments = get_model_args(vision.encoder)
                parts["vision_arguments"] = {n: value for n, value in arguments.items() if n != "num_classes"}
        else:
            parts = {"picture_grid": choose_fields(shape.picture_height, shape.picture_width)}
        if self.variant.image_tower == "placed" and vision.patches * vision.channels > MOST_PLACED_NUMBERS:
            parts["place_channels"] = PLACE_CHANNELS
        return parts

    def _image_tower(self) -> ImageTower | PlacedImageTower:
        network, text = self.shape.network, self.shape.network.text
        patches = self.vision.patches - (self.shape.aligned is not None)
        sizes = {"channels": self.vision.channels, "patches": patches, "frames": network.frames}
        if self.variant.image_tower == "placed":
            narrow = self.shape.place_channels
            return PlacedImageTower(**sizes, width=text.width, dropout=network.dropout, narrow=narrow)
        return ImageTower(
            **sizes, width=text.width, heads=text.heads, layers=network.image_layers, dropout=network.dropout
        )

    @property
    def scale(self) -> Tensor:
        """Learned inverse temperature, kept within its bounds."""
        return self.log_scale.exp().clamp(*SCALE_BOUNDS)

    @property
    def vision_locked(self) -> bool:
        """Whether the vision encoder stays as adapt-vision left it, so that each picture is encoded once: one that was adapted, or
        came with weights, or has nothing to learn."""
        if self.variant.descriptors == "alone":
            return True
        known = self.variant.adapted or self.shape.vision_came_with_weights
        return known and self.shape.network.vision.trained == "locked"

    @property
    def begins_with_pretrained_tokens(self) -> bool:
        """Whether the text towers share token vectors of a pretrained encoder, which training moves only where it meets the token."""
        named = self.shape.network.text.pretrained is not None
        return named and (self.shape.text_encoder is None or self.shape.text_form is not None)

    def pretrained_rates(self) -> dict[nn.Parameter, PretrainedRate]:
        """Learning rates of the weights that come from pretrained encoders."""
        rates: dict[nn.Parameter, PretrainedRate] = {}
        text = self.shape.network.text
        for tower in (self.query_tower, self.item_text_tower):
            if isinstance(tower, PretrainedTextTower):
                for parameter, depth in tower.depths().items():
                    rate = PretrainedRate(peak=text.learning_rate, share=text.layer_decay**depth)
                    rates.setdefault(parameter, rate)
        if self.shape.vision_came_with_weights and self.variant.fusion and isinstance(self.vision, PictureEncoder):
            rate = PretrainedRate(peak=self.shape.network.vision.learning_rate, share=1.0)
            rates |= dict.fromkeys(self.vision.parameters(), rate)
        return rates

    def train(self, mode: bool = True) -> RetrievalModel:
        """Locked parts stay in evaluation mode: their batch statistics and their dropout are locked too."""
        super().train(mode)
        for module in self.modules():
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                module.eval()
        return self

    def encode_queries(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, L) to embeddings Q (B, D), of K heads (B, K, D), and the prediction header's logits (B,)."""
        states, mask = self.query_tower(ids, torch.zeros_like(ids))
        queries = self.query_projection(states, mask)
        if self.further_heads:
            queries = torch.stack([queries, *(head(states, mask) for head in self.further_heads)], dim=1)
        return queries, self.header(masked_mean(states, mask)).squeeze(-1)

    def scores(self, queries: Tensor, items: Tensor) -> Tensor:
        """Queries (B, D) or (B, K, D) with items (N, D) → (B, N)."""
        return queries @ items.T if queries.ndim == 2 else multi_head_scores(queries, items, HEAD_TEMPERATURE)

    def encode_texts(self, ids: Tensor, segments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Item texts (B, L) to states H_t (B, L, W), their mask (B, L) and embeddings S_t (B, D); L = 1 of a mean of words."""
        states, mask = self.item_text_tower(ids, segments)
        return states, mask, self.text_projection(states, mask)

    def encode_images(self, patches: Tensor, has_picture: Tensor) -> tuple[Tensor, Tensor]:
        """Patch tokens to states H_i, (B, P, W) or (B, F·P, W), P = 1 of a placed tower, and embeddings S_i (B, D)."""
        embeddings = None
        if self.shape.aligned is not None:
            embeddings, patches = patches[..., 0, : self.shape.aligned], patches[..., 1:, :]
        states = self.image_tower(patches, has_picture)
        mask = self.image_mask(has_picture)
        if mask is None:
            mask = states.new_ones(states.shape[:2], dtype=torch.bool)
        if embeddings is None:
            return states, self.image_projection(states, mask)
        return states, self.image_projection(embeddings, has_picture, states, mask)

    def image_mask(self, has_picture: Tensor) -> Tensor | None:
        """Which of `encode_images`' states count, (B, F·P) bool; None where all do, of one frame (B,)."""
        return places_with_pictures(has_picture, self.image_tower.places)

    def fuse(self, text: Tensor, text_mask: Tensor, image: Tensor, image_mask: Tensor | None = None) -> Tensor:
        """States of both to embeddings S_m (B, D); the image's mask is that of several frames (`image_mask`)."""
        return self.multimodal_projection(*self.fusion(text, image, text_mask, image_mask))

    def confidence(self, text: Tensor, text_mask: Tensor, image: Tensor, image_mask: Tensor | None = None) -> Tensor:
        """c(item), how much its picture counts, from the states of both: (B,). For a variant with item confidence."""
        both = torch.cat(pooled(text, image, text_mask, image_mask), dim=-1)
        return self.confidence_head(both).squeeze(-1).sigmoid()

    def picture_patches(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), 0–1, to patch tokens (B, P, C)."""
        return self.vision(pictures)

    @torch.no_grad()
    def probability(self, logits: Tensor) -> Tensor:
        """P(q), that the query is one for which pictures matter, calibrated: header's logits (B,) → (B,). Without routing
        nothing trains the header, and this is what `route` says."""
        if self.variant.routing == "none":
            return self.route(logits)
        return (logits / self.header_temperature).sigmoid()

    @torch.no_grad()
    def route(self, logits: Tensor) -> Tensor:
        """The share of S_m that search uses, header's logits (B,) → (B,): P(q) ≥ .5 as 0 or 1 under hard routing; under soft
        routing the very share that the retrieval loss has trained, no forecast and so without the temperature; without
        routing 1, or 0 where there are no pictures."""
        if self.variant.routing == "none":
            return torch.full_like(logits, float(self.variant.fusion is not None))
        return (logits >= 0).float() if self.variant.routing == "hard" else logits.sigmoid()
