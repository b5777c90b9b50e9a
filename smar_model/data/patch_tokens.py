"""Patch tokens of pictures under a locked vision encoder: arrays on disk, memory-mapped (design, decision 6).

    digests.npy            (M,) digests of the pictures' files, sorted
    00000.npy, 00001.npy …  (R, V, P, C) float16 each: R pictures in that order, V views, P patches, C channels

View 0 is the picture as it is, the others are augmented (`catalogue.picture_view`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smar_model.data.catalogue import MAXIMUM_FRAMES, decode_thumbnail, iterate_pictures
from smar_model.data.token_tables import find_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchTokens:
    digests: np.ndarray
    shards: list[np.ndarray]

    @property
    def views(self) -> int:
        return self.shards[0].shape[1]

    def read(self, pictures: np.ndarray, views: np.ndarray | int) -> np.ndarray:
        """Tokens of one view of each picture: rows (B,), views (B,) → (B, P, C) float16."""
        shard, row = np.divmod(pictures, len(self.shards[0]))
        views = np.broadcast_to(views, pictures.shape)
        out = np.empty((len(pictures), *self.shards[0].shape[2:]), np.float16)
        for number in np.unique(shard):
            here = shard == number
            out[here] = self.shards[number][row[here], views[here]]
        return out


def read_patch_tokens(folder: Path) -> PatchTokens | None:
    """What the stage encode-pictures published; None where there is no picture."""
    files = sorted(folder.glob("[0-9]*.npy"))
    if not files:
        return None
    digests, *shards = (np.asarray(np.load(f, mmap_mode="r")) for f in (folder / "digests.npy", *files))
    return PatchTokens(digests=digests, shards=shards)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemPictures:
    """Which pictures show an item: those of item row i are `pictures[first[i] : first[i] + count[i]]`, the main one first."""

    pictures: np.ndarray
    """(S,) rows of the patch tokens."""
    first: np.ndarray
    count: np.ndarray


def read_item_pictures(files: Sequence[Path], item_ids: np.ndarray, digests: np.ndarray) -> ItemPictures:
    """Pictures of the items of `item_ids`, at most MAXIMUM_FRAMES each, by their rows in `digests`; both sorted bytes."""
    found: list[np.ndarray] = [np.zeros((3, 0), np.int64)]
    for batch in iterate_pictures(files, ["item_id", "frame", "picture_digest"]):
        rows, frames = find_rows(item_ids, batch["item_id"]), np.array(batch["frame"])
        pictures = find_rows(digests, batch["picture_digest"])
        found.append(np.stack([rows, frames, pictures])[:, (rows >= 0) & (frames < MAXIMUM_FRAMES)])
    rows, frames, pictures = np.concatenate(found, axis=1)
    assert (pictures >= 0).all(), "encode-pictures has read the same table"
    count = np.bincount(rows, minlength=len(item_ids))
    return ItemPictures(pictures=pictures[np.lexsort((frames, rows))], first=np.cumsum(count) - count, count=count)


def distinct_pictures(
    files: Sequence[Path], digests: np.ndarray, wanted: np.ndarray, *, together: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows in the sorted `digests` (M,) and pixels (B, 3, H, W) uint8 of the wanted pictures, (M,) bool, each once, at most
    `together` at a time. The next are decoded in a thread while the caller works on these."""

    def decode(thumbnails: list[bytes]) -> np.ndarray:
        return np.stack([decode_thumbnail(data) for data in thumbnails])

    with ThreadPoolExecutor(1, "decode") as thread:
        ready: tuple[np.ndarray, Future[np.ndarray]] | None = None
        for rows, thumbnails in _distinct_thumbnails(files, digests, wanted, together):
            following = rows, thread.submit(decode, thumbnails)
            if ready:
                yield ready[0], ready[1].result()
            ready = following
        if ready:
            yield ready[0], ready[1].result()


def _distinct_thumbnails(
    files: Sequence[Path], digests: np.ndarray, wanted: np.ndarray, together: int
) -> Iterator[tuple[np.ndarray, list[bytes]]]:
    missing, rows, thumbnails = wanted.copy(), list[int](), list[bytes]()
    for batch in iterate_pictures(files, ["picture_digest", "thumbnail"]):
        for row, data in zip(find_rows(digests, batch["picture_digest"]), batch["thumbnail"], strict=True):
            if row >= 0 and missing[row]:
                missing[row] = False
                rows.append(int(row))
                thumbnails.append(data)
                if len(rows) == together:
                    yield np.array(rows), thumbnails
                    rows, thumbnails = [], []
    if rows:
        yield np.array(rows), thumbnails
