"""The catalogue and its thumbnails, read from the tables of prepare-items."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from PIL import Image

MAXIMUM_FRAMES = 4
"""Pictures of one item that its embedding uses."""


def read_catalogue(files: Sequence[Path], *, before: datetime | None = None) -> pd.DataFrame:
    """Rows of the catalogue sorted by item id; with `before`, only those last changed earlier (training)."""
    table = ds.dataset([str(f) for f in files]).to_table()
    frame = table.to_pandas(maps_as_pydicts="strict")
    if before is not None:
        frame = frame[frame["updated_at"] < before]
    return frame.sort_values("item_id", ignore_index=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnails:
    """Pictures of items: those of item row i are `first[i] … first[i] + count[i] − 1`, the main one first."""

    pixels: np.ndarray
    """(M, 3, H, W) uint8."""
    first: np.ndarray
    count: np.ndarray


def read_thumbnails(files: Sequence[Path], item_ids: Sequence[str], *, maximum_frames: int | None = None) -> Thumbnails:
    """Decode the thumbnails of the given items, in their order."""
    rows = {item: row for row, item in enumerate(item_ids)}
    owners: list[int] = []
    frames: list[int] = []
    pixels: list[np.ndarray] = []
    for batch in iterate_pictures(files):
        for item, frame, data in zip(batch["item_id"], batch["frame"], batch["thumbnail"], strict=True):
            if item in rows and (maximum_frames is None or frame < maximum_frames):
                owners.append(rows[item])
                frames.append(frame)
                pixels.append(decode_thumbnail(data))
    order = np.lexsort((frames, owners)) if owners else np.zeros(0, dtype=int)
    count = np.bincount(np.array(owners, dtype=int), minlength=len(item_ids))
    stacked = np.stack(pixels)[order] if pixels else np.zeros((0, 3, 1, 1), dtype=np.uint8)
    return Thumbnails(pixels=stacked, first=np.cumsum(count) - count, count=count)


def iterate_pictures(files: Sequence[Path]) -> Iterator[dict[str, list]]:
    """Columns item_id, frame and thumbnail of the pictures table, a thousand rows at a time."""
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(1_000, columns=["item_id", "frame", "thumbnail"]):
            yield batch.to_pydict()


def decode_thumbnail(data: bytes) -> np.ndarray:
    """JPEG bytes to (3, H, W) uint8."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)


def augment(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A fresh look at each picture, (B, 3, H, W) uint8: mirrored or not, shifted up to a tenth, lit ±10 %.

    Colours keep their hue: shoppers ask for them.
    """
    batch, _, height, width = pixels.shape
    out = np.where(random.random((batch, 1, 1, 1)) < 0.5, pixels[:, :, :, ::-1], pixels)
    down, right = max(1, height // 10), max(1, width // 10)
    padded = np.pad(out, ((0, 0), (0, 0), (down, down), (right, right)), mode="edge")
    y = random.integers(0, 2 * down + 1, batch)[:, None] + np.arange(height)
    x = random.integers(0, 2 * right + 1, batch)[:, None] + np.arange(width)
    shifted = padded[np.arange(batch)[:, None, None], :, y[:, :, None], x[:, None, :]]  # (B, H, W, 3)
    light = random.uniform(0.9, 1.1, (batch, 1, 1, 1)).astype(np.float32)
    return np.clip(shifted.transpose(0, 3, 1, 2) * light, 0, 255).astype(np.uint8)
