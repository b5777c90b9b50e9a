"""Vision encoders: pictures to patch tokens, of one level of a timm model or of several, with colour descriptors beside them if asked for.

Early levels of an encoder tell colours and textures, late ones what a thing is. Several are pooled to one grid, which is that of the
last one or a coarser one, where a picture would take more than BYTES.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smar_model.errors import InputError
from smar_model.network.descriptors import PictureDescriptors
from smar_model.settings import Network

Grid = tuple[int, int]
"""Rows and columns of places."""

BYTES = 1 << 16
"""Of a picture's patch tokens in half precision, at most: a million pictures in one view are 64 GB."""
PRETRAINED_LEVELS = 3


class PictureEncoder(nn.Module):
    """A timm model without its head: pictures (B, 3, H, W), 0–1, to patch tokens (B, P, C).

    With one level and no grid they are its output as it comes, prefix tokens of a ViT among them. On a grid each level has mean 0 and
    variance 1 over its channels at each place, and stands beside the others; descriptors come last.
    """

    encoder: Any
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: Any,
        height: int,
        width: int,
        *,
        levels: int = 1,
        grid: Grid | Literal["choose"] | None = "choose",
        beside: bool = False,
        came_with_weights: bool = False,
        aligned: int | None = None,
    ) -> None:
        """
        Args:
            levels: of the encoder's, from the last one on.
            grid: of the places; `choose`: none where the encoder's output can be taken as it comes.
            beside: whether descriptors stand beside the encoder's channels.
            aligned: dimension of the space into which the encoder of a pair puts a picture: its embedding there, of length 1, is the first
                token, filled up with zeros.
        """
        super().__init__()
        self.levels = _last_levels(encoder, levels) if levels > 1 else None
        if self.levels:
            encoder.prune_intermediate_layers(self.levels, prune_norm=False, prune_head=aligned is None)
        self.encoder = encoder.to(memory_format=torch.channels_last)
        self.came_with_weights = came_with_weights
        self.projection = nn.Linear(encoder.num_features, aligned, bias=False) if aligned else None
        # Saved with the weights: an encoder from a folder may come with a normalisation of its own.
        self.register_buffer("mean", torch.tensor(encoder.pretrained_cfg["mean"]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(encoder.pretrained_cfg["std"]).view(1, 3, 1, 1))
        self.grid = None if grid == "choose" else grid
        self.descriptors: PictureDescriptors | None = None
        blank = torch.zeros(1, 3, height, width)
        with torch.no_grad():
            was_training = self.encoder.training
            self.encoder.eval()
            if grid == "choose" and (self.levels or beside or 2 * self._encoded(blank)[0].numel() > BYTES):
                self.grid = self._choose_grid(blank, height, width, beside=beside)
            if beside:
                assert self.grid is not None
                self.descriptors = PictureDescriptors(height, width, grid=self.grid)
            self.patches, self.channels = self.forward(blank).shape[1:]
            self.encoder.train(was_training)

    def forward(self, pictures: Tensor) -> Tensor:
        states, levels = self._encoded(pictures)
        tokens = self._places(pictures, states, levels)
        if self.projection is None:
            return tokens
        embeddings = F.normalize(self.projection(self.encoder.forward_head(states, pre_logits=True)), dim=-1)
        first = F.pad(embeddings, (0, tokens.shape[-1] - embeddings.shape[-1]))
        return torch.cat([first[:, None], tokens], dim=1)

    def _encoded(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The encoder's last states, empty where only its levels are asked for, and the levels as maps (B, C, h, w)."""
        normalised = self._normalised(pictures)
        if not self.levels:
            return self.encoder.forward_features(normalised), []
        alone = self.projection is None
        found = self.encoder.forward_intermediates(
            normalised, indices=self.levels, norm=False, output_fmt="NCHW", intermediates_only=alone
        )
        return (normalised.new_empty(0), list(found)) if alone else (found[0], list(found[1]))

    def _places(self, pictures: Tensor, states: Tensor, levels: list[Tensor]) -> Tensor:
        """Tokens of the places (B, P, C)."""
        if self.grid is None:
            return _as_it_comes(states)
        tokens = []
        for level in levels or [self._map(pictures, states)]:
            places = F.adaptive_avg_pool2d(level, self.grid).flatten(2).transpose(1, 2)  # (B, P, C)
            tokens.append(F.layer_norm(places, places.shape[-1:]))
        if self.descriptors is not None:
            tokens.append(self.descriptors(pictures))
        return torch.cat(tokens, dim=-1)

    @torch.no_grad()
    def move_towards(self, other: dict[str, Tensor], share: float) -> None:
        """Put the encoder's weights on the line from `other`, its state dict at another time, to where they are, at `share` of the way
        (WiSE-FT, arXiv 2109.01903)."""
        for name, weight in self.encoder.state_dict().items():
            if weight.is_floating_point():
                weight.copy_(torch.lerp(other[name].to(weight.device), weight, share))

    def train(self, mode: bool = True) -> PictureEncoder:
        """Batch statistics of an encoder that came with weights are of far more pictures than a batch has: they stay."""
        super().train(mode)
        if self.came_with_weights:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def _map(self, pictures: Tensor, states: Tensor) -> Tensor:
        """Last states as a map (B, C, h, w), without prefix tokens."""
        if states.ndim == 4:
            channels_last = getattr(self.encoder, "output_fmt", "NCHW") == "NHWC"
            return states.permute(0, 3, 1, 2) if channels_last else states
        states = states[:, getattr(self.encoder, "num_prefix_tokens", 0) :]
        rows, columns = self.encoder.patch_embed.dynamic_feat_size(pictures.shape[2:])
        return states.transpose(1, 2).unflatten(2, (rows, columns))

    def _normalised(self, pictures: Tensor) -> Tensor:
        # Convolutions are a sixth faster with channels last.
        return ((pictures - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def _choose_grid(self, blank: Tensor, height: int, width: int, *, beside: bool) -> Grid:
        """The coarsest level's grid, or that in smaller proportion, until a picture's tokens take no more than BYTES."""
        states, levels = self._encoded(blank)
        maps = levels or [self._map(blank, states)]
        rows, columns = maps[-1].shape[2:]
        channels, longest = sum(level.shape[1] for level in maps), max(rows, columns)
        for side in range(longest, 0, -1):
            grid = max(1, round(rows * side / longest)), max(1, round(columns * side / longest))
            more = PictureDescriptors(height, width, grid=grid).channels if beside else 0
            if 2 * (math.prod(grid) + (self.projection is not None)) * (channels + more) <= BYTES:
                break
        return grid


def _as_it_comes(states: Tensor) -> Tensor:
    return states.flatten(2).transpose(1, 2) if states.ndim == 4 else states


def _last_levels(encoder: Any, count: int) -> list[int]:
    """Which levels, as timm numbers them: the last ones of a pyramid; of a ViT, whose blocks have one size, evenly spaced ones."""
    strides = [level["reduction"] for level in encoder.feature_info]
    there = len(strides)
    if count > there:
        raise ValueError(f"network.vision.levels {count}: it has {there}")
    if strides[0] != strides[-1]:
        return list(range(there - count, there))
    return [math.ceil((number + 1) * there / count) - 1 for number in range(count)]


def make_picture_encoder(
    network: Network,
    *,
    height: int,
    width: int,
    descriptors: str,
    architecture: str | None = None,
    grid: Grid | Literal["choose"] | None = "choose",
    came_with_weights: bool = False,
    folder: Path | None = None,
    arguments: Mapping[str, Any] | None = None,
    aligned: int | None = None,
) -> PictureEncoder:
    """Build the encoder that settings name.

    Args:
        descriptors: `none` or `beside`.
        architecture: of a model that was made before, with its `grid`; counts instead of the name.
        came_with_weights: of a model that was made before, whether its encoder did.
        folder: with an encoder's weights, as timm keeps them; None: it begins with nothing, or its weights are read after.
        arguments: of a model that was made before, what its folder said of its architecture.
        aligned: as in `PictureEncoder`.

    Raises:
        InputError: timm knows no such model, its weights cannot be read, or it does not take the pictures' size.
    """
    vision = network.vision
    options = {**(arguments or {}), **vision.options}
    what = (
        f"network.vision.pretrained {vision.pretrained!r} ({folder})"
        if folder
        else f"network.vision.name {vision.name!r}"
    )
    came_with_weights = came_with_weights or folder is not None
    levels = vision.levels or (PRETRAINED_LEVELS if came_with_weights else 1)
    try:
        name = f"local-dir:{folder}" if folder else architecture or vision.name
        encoder = timm.create_model(name, pretrained=folder is not None, num_classes=0, **options)
        return PictureEncoder(
            encoder,
            height,
            width,
            levels=levels,
            grid=grid,
            beside=descriptors == "beside",
            came_with_weights=came_with_weights,
            aligned=aligned,
        )
    except Exception as error:
        raise InputError(f"{what} (options {options}) at {width}×{height} pixels: {error}") from error
