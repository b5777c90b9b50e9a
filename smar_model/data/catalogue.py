"""The catalogue and its thumbnails, read from the tables of prepare-items."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from PIL import Image

from smar_model.data.query_text import maskable_numbers

MAXIMUM_FRAMES = 4
"""Pictures of one item that its embedding uses."""


def read_catalogue(files: Sequence[Path], *, before: datetime | None = None) -> pd.DataFrame:
    """Rows of the catalogue sorted by item id; with `before`, only those last changed earlier (training)."""
    table = ds.dataset([str(f) for f in files]).to_table()
    frame = table.to_pandas(maps_as_pydicts="strict")
    if before is not None:
        frame = frame[frame["updated_at"] < before]
    return frame.sort_values("item_id", ignore_index=True)


def numbers_in_catalogue(catalogue: pd.DataFrame) -> set[str]:
    """Numbers in ids, titles and attributes that no mask takes out of a query (`query_text.normalise_query`)."""
    values = (str(value) for attributes in catalogue["attributes"] for value in dict(attributes).values())
    return maskable_numbers(chain(catalogue["item_id"], catalogue["title"], values))


def read_catalogue_numbers(files: Sequence[Path]) -> list[str]:
    """Likewise, sorted, in the memory of a few rows."""
    batches = ds.dataset([str(f) for f in files]).to_batches(columns=["item_id", "title", "attributes"])
    return sorted(set().union(*(numbers_in_catalogue(batch.to_pandas()) for batch in batches)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnails:
    """Pictures of items: those of item row i are `first[i] … first[i] + count[i] − 1`, the main one first."""

    pixels: np.ndarray
    """(M, 3, H, W) uint8."""
    first: np.ndarray
    count: np.ndarray


def read_thumbnails(
    files: Sequence[Path], item_ids: Sequence[str], *, maximum_frames: int | None = None, scratch: Path | None = None
) -> Thumbnails:
    """Decode the thumbnails of the given items, in their order.

    Args:
        scratch: a folder for a file that holds the pixels instead of memory; the file goes when nobody reads it any more.
    """
    rows = {item: row for row, item in enumerate(item_ids)}
    maximum_frames = maximum_frames or np.iinfo(np.int32).max
    owners: list[int] = []
    frames: list[int] = []
    for batch in iterate_pictures(files, ["item_id", "frame"]):
        for item, frame in zip(batch["item_id"], batch["frame"], strict=True):
            if item in rows and frame < maximum_frames:
                owners.append(rows[item])
                frames.append(frame)
    order = np.lexsort((frames, owners)) if owners else np.zeros(0, dtype=int)
    count = np.bincount(np.array(owners, dtype=int), minlength=len(item_ids))
    places = iter(np.argsort(order))
    pixels = np.zeros((0, 3, 1, 1), dtype=np.uint8)
    for batch in iterate_pictures(files, ["item_id", "frame", "thumbnail"]):
        for item, frame, data in zip(batch["item_id"], batch["frame"], batch["thumbnail"], strict=True):
            if item in rows and frame < maximum_frames:
                picture = decode_thumbnail(data)
                if not len(pixels):
                    pixels = _room((len(owners), *picture.shape), scratch)
                pixels[next(places)] = picture
    return Thumbnails(pixels=pixels, first=np.cumsum(count) - count, count=count)


def _room(shape: tuple[int, ...], scratch: Path | None) -> np.ndarray:
    if scratch is None:
        return np.empty(shape, dtype=np.uint8)
    with tempfile.TemporaryFile(dir=scratch) as file:  # has no name; its pages live as long as the mapping
        return np.asarray(np.memmap(file, dtype=np.uint8, mode="w+", shape=shape))


def iterate_pictures(files: Sequence[Path], columns: Sequence[str]) -> Iterator[dict[str, list]]:
    """Columns of the pictures table, a thousand rows at a time, without the pictures that say nothing about their item:
    to the model an item with such pictures alone is one without, whose learned state it gets."""
    for file in files:
        with pq.ParquetFile(file, buffer_size=1 << 20) as parquet:
            for batch in parquet.iter_batches(1_000, columns=[*columns, "uninformative"]):
                yield batch.filter(batch["uninformative"].is_null()).select(list(columns)).to_pydict()


def decode_thumbnail(data: bytes) -> np.ndarray:
    """JPEG bytes to (3, H, W) uint8."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)


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
