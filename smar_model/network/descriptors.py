"""Pictures read without learning: histograms of colours and of edges field by field, and finer colours of the whole picture.

Alone, they take the place of a vision encoder where none comes with weights and time is short; beside one, they tell colours that its
levels blur (`docs/vision.md`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIELD = 16
"""Side of a field in pixels."""
MOST_FIELDS = 24
"""Of FIELD pixels: those of 60×80 are 20."""
MANY_FIELDS = 16
LEAST_SIDE = 48
"""Pictures with larger fields than FIELD are shrunk before they are read, but to no less."""
CELLS = 2
"""Cells of a field, each way, in which edges are counted apart."""
DIRECTIONS = 8
LEVELS = 3
"""Of red, green and blue: 27 colours."""
FINE_LEVELS = 6
"""Likewise of the whole picture, 216 colours: what tells navy from blue. With them a linear probe names the colour of four more
products in a hundred (`docs/vision.md`)."""
SMALLEST_DEVIATION = 0.05
"""Of the square root of a share; a rarer one does not count for more."""
FITTED_TOGETHER = 64
FAINT = 0.02
"""Contrast below which edges no longer count fully."""


class PictureDescriptors(nn.Module):
    """Pictures (B, 3, H, W), 0–1, to patch tokens (B, P, C) as an encoder gives them: P fields, C = 27 + 4·8 + ⌈216 / P⌉ shares.

    The last ones are the whole picture's, dealt out among the fields, so that a network over all fields sees each once.
    Once it has met the shop's pictures (`fit`), each share counts by how far it lies from its mean there, in standard deviations.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, height: int, width: int, *, grid: tuple[int, int] | None = None) -> None:
        """
        Args:
            grid: rows and columns of fields; None: of FIELD pixels each.
        """
        super().__init__()
        self.rows, self.columns = grid or fields_of(height, width)
        # A quarter of the time at 128×128, and a linear probe reads the same of it.
        self.shrink = 1
        if grid:
            sides = (height // (FIELD * self.rows), width // (FIELD * self.columns), min(height, width) // LEAST_SIDE)
            self.shrink = max(1, min(sides))
        self.patches = self.rows * self.columns
        self.whole = math.ceil(FINE_LEVELS**3 / self.patches)
        self.channels = LEVELS**3 + CELLS**2 * DIRECTIONS + self.whole
        self.register_buffer("mean", torch.zeros(self.patches, self.channels))
        self.register_buffer("deviation", torch.ones(self.patches, self.channels))

    @torch.no_grad()
    def fit(self, pictures: Tensor) -> None:
        """Take mean and standard deviation of each share from pictures (N, 3, H, W), 0–1, N ≥ 2."""
        shares = torch.cat([self._shares(part) for part in pictures.split(FITTED_TOGETHER)])
        self.mean.copy_(shares.mean(0))
        self.deviation.copy_(shares.std(0).clamp(min=SMALLEST_DEVIATION))

    def forward(self, pictures: Tensor) -> Tensor:
        return (self._shares(pictures) - self.mean) / self.deviation

    def _shares(self, pictures: Tensor) -> Tensor:
        if self.shrink > 1:
            pictures = F.avg_pool2d(pictures, self.shrink)
        colours = colour_histograms(pictures, self.rows, self.columns)
        edges = edge_histograms(pictures, CELLS * self.rows, CELLS * self.columns)
        fields = torch.cat([colours, F.pixel_unshuffle(edges, CELLS)], dim=1).flatten(2).transpose(1, 2)
        fine = whole_colours(pictures)
        fine = F.pad(fine, (0, self.patches * self.whole - fine.shape[1]))
        return torch.cat([fields, fine.view(-1, self.patches, self.whole)], dim=-1)


def fields_of(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of fields of FIELD pixels."""
    return math.ceil(height / FIELD), math.ceil(width / FIELD)


def choose_fields(height: int, width: int) -> tuple[int, int] | None:
    """Grid of the fields of a large picture, about MANY_FIELDS, however many pixels it has; None: fields of FIELD pixels are not more.

    What a network over all fields costs grows with their number: 64 of a picture of 128×128 pixels cost three times what 16 do, and a linear
    probe reads as much of colours from both, three points more of types from 64 (`docs/vision.md`).
    """
    if math.prod(fields_of(height, width)) <= MOST_FIELDS:
        return None
    side = math.sqrt(height * width / MANY_FIELDS)
    return max(1, round(height / side)), max(1, round(width / side))


def colour_histograms(pictures: Tensor, rows: int, columns: int) -> Tensor:
    """Share of each of 27 colours in each field of a grid: pictures (B, 3, H, W), 0–1 → (B, 27, rows, columns).

    The colours are black, half and full of red, green and blue, in all combinations; a pixel counts for those around it, the more
    the nearer. Square roots, so that a colour of few pixels is seen too. Pixels are taken four together, for a quarter of the time.
    """
    red_and_green, blue = _nearness(pictures, LEVELS)
    colours = (red_and_green.unsqueeze(2) * blue.unsqueeze(1)).flatten(1, 2)
    return F.adaptive_avg_pool2d(colours, (rows, columns)).sqrt()


def whole_colours(pictures: Tensor) -> Tensor:
    """Likewise the share of each of 216 colours in the whole picture: (B, 3, H, W), 0–1 → (B, 216)."""
    red_and_green, blue = (near.flatten(2) for near in _nearness(pictures, FINE_LEVELS))
    return (red_and_green @ blue.mT / blue.shape[-1]).flatten(1).sqrt()


def _nearness(pictures: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """How near each four pixels are to each pair of levels of red and green, and to each of blue: (B, levels², H/2, W/2), (B, levels, H/2, W/2)."""
    pictures = F.avg_pool2d(pictures, 2, ceil_mode=True)
    values = torch.linspace(0, 1, levels, device=pictures.device)
    near = (1 - (levels - 1) * (pictures.unsqueeze(2) - values.view(1, 1, -1, 1, 1)).abs()).clamp(min=0)
    red, green, blue = near.unbind(1)
    return (red.unsqueeze(2) * green.unsqueeze(1)).flatten(1, 2), blue


def edge_histograms(pictures: Tensor, rows: int, columns: int) -> Tensor:
    """How strong edges of each direction are in each cell of a grid: pictures (B, 3, H, W), 0–1 → (B, 8, rows, columns).

    Oriented gradients (Dalal and Triggs 2005): an edge counts by its contrast for the two directions around its own, of half a
    circle. Relative to the whole picture's mean contrast, square roots.
    """
    grey = pictures.mean(1, keepdim=True)
    across = F.pad(grey[..., 2:] - grey[..., :-2], (1, 1))
    down = F.pad(grey[..., 2:, :] - grey[..., :-2, :], (0, 0, 1, 1))
    contrast = (across.square() + down.square()).sqrt()
    direction = torch.atan2(down, across) % math.pi / math.pi * DIRECTIONS
    below = direction.floor()
    share = direction - below
    below = below.long() % DIRECTIONS
    edges = grey.new_zeros(len(grey), DIRECTIONS, *grey.shape[2:])
    edges.scatter_(1, below, contrast * (1 - share)).scatter_add_(1, (below + 1) % DIRECTIONS, contrast * share)
    cells = F.adaptive_avg_pool2d(edges, (rows, columns))
    return (cells / (contrast.mean((2, 3), keepdim=True) + FAINT)).sqrt()
