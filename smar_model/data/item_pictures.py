"""Which pictures show an item, and their pixels: the one reader of the table `pictures` of prepare-items."""

from __future__ import annotations

import io
import os
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from smar_model.data.sorted_keys import as_bytes, find_rows

MAXIMUM_FRAMES = 4
"""Pictures of one item that its embedding uses."""
ROWS_AT_A_TIME = 1_000
DECODING_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemPictures:
    """Which pictures show an item: those of item row i are `pictures[first[i] : first[i] + count[i]]`, the main one first."""

    pictures: np.ndarray
    """(S,) rows of the sorted digests."""
    first: np.ndarray
    count: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnails:
    """Pictures of items: those of item row i are `first[i] … first[i] + count[i] − 1`, the main one first."""

    pixels: np.ndarray
    """(M, 3, H, W) uint8."""
    first: np.ndarray
    count: np.ndarray


def iterate_pictures(
    files: Sequence[Path], columns: Sequence[str], *, frames: int | None = MAXIMUM_FRAMES
) -> Iterator[pa.RecordBatch]:
    """Columns of the pictures table, without the pictures that say nothing about their item: to the model an item with such
    pictures alone is one without, whose learned state it gets.

    Args:
        frames: pictures of an item, from its main one on; None: all.
    """
    for file in files:
        with pq.ParquetFile(file, buffer_size=1 << 20) as parquet:
            for batch in parquet.iter_batches(ROWS_AT_A_TIME, columns=[*columns, "frame", "uninformative"]):
                shown = pc.is_null(batch["uninformative"])
                if frames is not None:
                    shown = pc.and_(shown, pc.less(batch["frame"], frames))
                yield batch.filter(shown).select(list(columns))


def find_pictures(files: Sequence[Path]) -> np.ndarray:
    """Digests of all pictures that training or embedding may look at, (M,) bytes, sorted."""
    found = [np.zeros(0, "S64")]
    found += [as_bytes(batch["picture_digest"]) for batch in iterate_pictures(files, ["picture_digest"])]
    return np.unique(np.concatenate(found))


def read_item_pictures(files: Sequence[Path], item_ids: np.ndarray, digests: np.ndarray) -> ItemPictures:
    """Pictures of the items of `item_ids`, at most MAXIMUM_FRAMES each, by their rows in `digests`; both sorted bytes."""
    found = [np.zeros((3, 0), np.int64)]
    for batch in iterate_pictures(files, ["item_id", "frame", "picture_digest"]):
        rows, pictures = (
            find_rows(keys, as_bytes(batch[name]))
            for keys, name in ((item_ids, "item_id"), (digests, "picture_digest"))
        )
        found.append(np.stack([rows, batch["frame"].to_numpy(), pictures])[:, rows >= 0])
    rows, frames, pictures = np.concatenate(found, axis=1)
    assert (pictures >= 0).all(), "the digests are of the same table"
    count = np.bincount(rows, minlength=len(item_ids))
    return ItemPictures(pictures=pictures[np.lexsort((frames, rows))], first=np.cumsum(count) - count, count=count)


def read_thumbnails(files: Sequence[Path], item_ids: np.ndarray, *, scratch: Path | None = None) -> Thumbnails:
    """Decode the thumbnails of the given items (sorted bytes), at most MAXIMUM_FRAMES each, in their order.

    Args:
        scratch: a folder for a file that holds the pixels instead of memory; the file goes when nobody reads it any more.
    """
    found = [np.zeros((2, 0), np.int64)]
    for batch in iterate_pictures(files, ["item_id", "frame"]):
        rows = find_rows(item_ids, as_bytes(batch["item_id"]))
        found.append(np.stack([rows, batch["frame"].to_numpy()])[:, rows >= 0])
    rows, frames = np.concatenate(found, axis=1)
    places = iter(np.argsort(np.lexsort((frames, rows))))
    pixels = np.zeros((0, 3, 1, 1), dtype=np.uint8)
    for batch in iterate_pictures(files, ["item_id", "thumbnail"]):
        for data in batch["thumbnail"].filter(pa.array(find_rows(item_ids, as_bytes(batch["item_id"])) >= 0)):
            picture = decode_thumbnail(data.as_py())
            if not len(pixels):
                pixels = _room((len(rows), *picture.shape), scratch)
            pixels[next(places)] = picture
    count = np.bincount(rows, minlength=len(item_ids))
    return Thumbnails(pixels=pixels, first=np.cumsum(count) - count, count=count)


def _room(shape: tuple[int, ...], scratch: Path | None) -> np.ndarray:
    if scratch is None:
        return np.empty(shape, dtype=np.uint8)
    with tempfile.TemporaryFile(dir=scratch) as file:  # has no name; its pages live as long as the mapping
        return np.asarray(np.memmap(file, dtype=np.uint8, mode="w+", shape=shape))


def decode_thumbnail(data: bytes) -> np.ndarray:
    """JPEG bytes to (3, H, W) uint8."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)


def distinct_pictures(
    files: Sequence[Path], digests: np.ndarray, wanted: np.ndarray, *, together: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows in the sorted `digests` (M,) and pixels (B, 3, H, W) uint8 of the wanted pictures, (M,) bool, each once, at most
    `together` at a time. The next are decoded in threads while the caller works on these: one thread decodes some two thousand pictures
    of 128×128 a second, fewer than a GPU encodes."""

    def decode(thumbnails: Sequence[bytes]) -> np.ndarray:
        return np.stack([decode_thumbnail(data) for data in thumbnails])

    with ThreadPoolExecutor(DECODING_THREADS, "decode") as threads:
        coming: deque[tuple[np.ndarray, Future[np.ndarray]]] = deque()
        found = _distinct_thumbnails(files, digests, wanted)
        while part := list(islice(found, together)):
            rows, thumbnails = zip(*part, strict=True)
            coming.append((np.array(rows), threads.submit(decode, thumbnails)))
            if len(coming) > DECODING_THREADS:
                ready, pixels = coming.popleft()
                yield ready, pixels.result()
        for ready, pixels in coming:
            yield ready, pixels.result()


def _distinct_thumbnails(files: Sequence[Path], digests: np.ndarray, wanted: np.ndarray) -> Iterator[tuple[int, bytes]]:
    missing = wanted.copy()
    for batch in iterate_pictures(files, ["picture_digest", "thumbnail"], frames=None):
        for place, row in enumerate(find_rows(digests, as_bytes(batch["picture_digest"])).tolist()):
            if row >= 0 and missing[row]:
                missing[row] = False
                yield row, batch["thumbnail"][place].as_py()
