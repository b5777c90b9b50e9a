"""What is probed of pictures: a vector for each, from an encoder, an image tower, descriptors or a histogram of colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smar_model.errors import InputError
from smar_model.network.descriptors import PictureDescriptors, choose_fields
from smar_model.network.model import RetrievalModel
from smar_model.network.picture_encoder import PictureEncoder
from smar_model.training.device import device

BINS = 8
"""Of the colour histogram, each of red, green and blue."""
ENCODING_BATCH = 256

Size = tuple[int, int]
"""Height and width in pixels."""


class ImageStates(nn.Module):
    """Pictures (B, 3, H, W), 0–1, to the states of a model's image tower (B, P, W)."""

    def __init__(self, model: RetrievalModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pictures: Tensor) -> Tensor:
        has_picture = torch.ones(len(pictures), dtype=torch.bool, device=pictures.device)
        return self.model.encode_images(self.model.picture_patches(pictures), has_picture)[0]


class EncoderTokens(nn.Module):
    """Pictures (B, 3, H, W), 0–1, to an encoder's patch tokens (B, P, C), without the descriptors that stand beside them."""

    def __init__(self, vision: PictureEncoder) -> None:
        super().__init__()
        self.vision = vision
        self.channels = vision.channels - (vision.descriptors.channels if vision.descriptors is not None else 0)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.vision(pictures)[..., : self.channels]


class OneToken(nn.Module):
    """Patch tokens side by side (B, P, C) → (B, 1, P·C)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.flatten(1).unsqueeze(1)


def all_places(height: int, width: int) -> nn.Module:
    return nn.Sequential(PictureDescriptors(height, width, grid=choose_fields(height, width)), OneToken())


def adapted_part(model: RetrievalModel) -> nn.Module:
    return EncoderTokens(model.vision) if isinstance(model.vision, PictureEncoder) else ImageStates(model)


def colour_histogram(pixels: np.ndarray) -> np.ndarray:
    """Square roots of the shares of BINS³ colours: (N, 3, H, W) uint8 → (N, BINS³)."""
    bins = pixels.astype(np.int64) * BINS // 256
    codes = ((bins[:, 0] * BINS + bins[:, 1]) * BINS + bins[:, 2]).reshape(len(pixels), -1)
    counts = np.stack([np.bincount(row, minlength=BINS**3) for row in codes])
    return np.sqrt(counts / codes.shape[1])


def generic_encoder(folder: Path) -> tuple[EncoderTokens, Size]:
    """An encoder that has never seen this shop, from a folder of weights as timm saves them, and its pictures' size.

    Raises:
        InputError: it is no such folder.
    """
    try:
        encoder = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
        _, height, width = timm.data.resolve_model_data_config(encoder)["input_size"]
        return EncoderTokens(PictureEncoder(encoder, height, width)), (height, width)
    except Exception as error:
        raise InputError(f"{folder}: not a timm model (config.json, model.safetensors): {error}") from error


@torch.no_grad()
def encode(encoder: nn.Module, pixels: np.ndarray, *, size: Size | None = None) -> np.ndarray:
    """Mean of each picture's patch tokens: (N, 3, H, W) uint8 → (N, C); enlarged to `size` first, where given."""
    encoder = encoder.to(device()).eval()
    parts = []
    for start in range(0, len(pixels), ENCODING_BATCH):
        pictures = torch.from_numpy(pixels[start : start + ENCODING_BATCH]).to(device()).float() / 255
        if size:
            pictures = F.interpolate(pad_to_square(pictures), size, mode="bicubic", antialias=True).clamp(0, 1)
        parts.append(encoder(pictures).mean(1).cpu())
    return torch.cat(parts).double().numpy()


def pad_to_square(pictures: Tensor) -> Tensor:
    """White at both sides of what is shorter, as thumbnails have it: (B, 3, H, W) → (B, 3, S, S)."""
    height, width = pictures.shape[2:]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    return F.pad(pictures, (left, side - width - left, top, side - height - top), value=1.0)
