"""How a pair of encoders that are in one space already (CLIP, SigLIP) begins in SMAR: Q, S_t and S_i are what the pair makes of a text and a
picture, so that a query finds pictures before anything has been trained.

A picture's embedding by the pair comes with its patch tokens, as the first of them (`PictureEncoder`), so a locked pair encodes each picture
once. What the image tower makes of the other tokens is added to it, from nothing on.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from smar_model.errors import InputError
from smar_model.network.pair_texts import last_place
from smar_model.network.towers import masked_mean
from smar_model.settings import Network

PROJECTION = "projection.safetensors"
TURN_SEED = 20_260
"""Of the axes that are kept where `network.dimension` is less than the pair's: the same for texts and pictures, in every model."""


def aligned_dimension(
    network: Network, *, text_encoder: Path | None, vision_encoder: Path | None, hidden: int, layers: int
) -> int | None:
    """Dimension of the space that both encoders are in; None: they are no aligned pair.

    Args:
        hidden, layers: of the text encoder.

    Raises:
        InputError: they are, and the network's sizes would cut the text tower off its projection.
    """
    if not text_encoder or text_encoder != vision_encoder or not (text_encoder / "text" / PROJECTION).is_file():
        return None
    space = len(read_projection(text_encoder, "text")["weight"])
    text, name = network.text, network.text.pretrained
    wanted = {
        "network.text.width": (text.width, hidden),
        "network.text.query_layers": (text.layers("query"), layers),
        "network.text.item_layers": (text.layers("item"), layers),
    }
    for setting, (found, right) in wanted.items():
        if found != right:
            raise InputError(
                f"{setting} is {found}: texts and pictures of {name!r} are in one space with {right}; set it so"
            )
    if network.dimension > space:
        raise InputError(
            f"network.dimension is {network.dimension}: the space of {name!r} has {space}; set it to that at most"
        )
    return space


def read_projection(folder: Path, side: str) -> dict[str, Tensor]:
    """`weight` (D, W) and perhaps `bias` (D,) of a side of a pair, `text` or `vision`."""
    return load_file(folder / side / PROJECTION)


def kept_axes(space: int, dimension: int) -> Tensor:
    """Orthonormal rows (dimension, space): all of the space where they are as many; of fewer, inner products keep their expectation."""
    if dimension == space:
        return torch.eye(space)
    drawn = torch.randn(space, dimension, generator=torch.Generator().manual_seed(TURN_SEED), dtype=torch.float64)
    return torch.linalg.qr(drawn).Q.T.float()


class LastStateProjection(nn.Module):
    """The state at a text's last token to a unit vector: (B, L, W), (B, L) → (B, D); of states that were pooled, the one there is."""

    def __init__(self, width: int, dimension: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, dimension)

    @torch.no_grad()
    def begin(self, projection: dict[str, Tensor]) -> None:
        axes = kept_axes(len(projection["weight"]), self.linear.out_features)
        self.linear.weight.copy_(axes @ projection["weight"])
        self.linear.bias.copy_(axes @ projection["bias"] if "bias" in projection else torch.zeros(len(axes)))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        # Not by a range over the batch, which an exported tower would have of the length that it was exported with.
        place = last_place(mask)[:, None, None].expand(-1, 1, states.shape[-1])
        return F.normalize(self.linear(states.gather(1, place).squeeze(1)), dim=-1)


class AlignedImageProjection(nn.Module):
    """A picture's embedding by the pair and the image tower's states to S_i: (B, A) or (B, F, A), (B, P, W), (B, P) → (B, D)."""

    def __init__(self, width: int, space: int, dimension: int) -> None:
        super().__init__()
        self.linear = nn.Linear(space, dimension, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(kept_axes(space, dimension))
        self.learned = nn.Linear(width, dimension)
        nn.init.zeros_(self.learned.weight)
        nn.init.zeros_(self.learned.bias)
        self.no_picture = nn.Parameter(torch.randn(space) / space**0.5)

    def forward(self, embeddings: Tensor, has_picture: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        embeddings = torch.where(has_picture[..., None], embeddings, self.no_picture)
        if embeddings.ndim == 3:  # of several frames, those with a picture; the first counts always
            counts = has_picture.clone()
            counts[:, 0] = True
            embeddings = masked_mean(embeddings, counts)
        return F.normalize(self.linear(embeddings) + self.learned(masked_mean(states, mask)), dim=-1)
