"""Augmented looks at pictures: mirrored, shifted, lit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def picture_view(pixels: np.ndarray, digests: Sequence[str], view: int) -> np.ndarray:
    """The same look at a picture each time, by its digest and the number of the view; view 0 is the picture as it is."""
    if view == 0:
        return pixels
    hashes = b"".join(hashlib.sha256(f"{digest}:{view}".encode()).digest() for digest in digests)
    return look(pixels, np.frombuffer(hashes, dtype="<u8").reshape(-1, 4) / 2.0**64)


def look(pixels: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """Pictures (B, 3, H, W) uint8 as four chances each, (B, 4) of [0, 1), mirror, shift (down, right) and light them: by
    up to a tenth. Colours keep their hue: shoppers ask for them."""
    batch, _, height, width = pixels.shape
    mirror, y, x, light = chances.T
    out = np.where(mirror[:, None, None, None] < 0.5, pixels[:, :, :, ::-1], pixels)
    down, right = max(1, height // 10), max(1, width // 10)
    padded = np.pad(out, ((0, 0), (0, 0), (down, down), (right, right)), mode="edge")
    rows = np.floor(y * (2 * down + 1)).astype(int)[:, None] + np.arange(height)
    columns = np.floor(x * (2 * right + 1)).astype(int)[:, None] + np.arange(width)
    shifted = padded[np.arange(batch)[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (B, H, W, 3)
    factor = (0.9 + 0.2 * light).astype(np.float32)[:, None, None, None]
    return np.clip(shifted.transpose(0, 3, 1, 2) * factor, 0, 255).astype(np.uint8)
