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
    _, _, height, width = pixels.shape
    mirror, y, x, light = chances.T
    down, right = max(1, height // 10), max(1, width // 10)
    rows = np.floor(y * (2 * down + 1)).astype(int)
    columns = np.floor(x * (2 * right + 1)).astype(int)
    # A picture at a time, its light by a table of 256 values: a tenth of the time of arithmetic on all pixels.
    lit = np.clip(np.arange(256) * (0.9 + 0.2 * light).astype(np.float32)[:, None], 0, 255).astype(np.uint8)
    out = np.empty_like(pixels)
    for number, picture in enumerate(pixels):
        turned = picture[:, :, ::-1] if mirror[number] < 0.5 else picture
        padded = np.pad(turned, ((0, 0), (down, down), (right, right)), mode="edge")
        top, left = rows[number], columns[number]
        np.take(lit[number], padded[:, top : top + height, left : left + width], out=out[number])
    return out
