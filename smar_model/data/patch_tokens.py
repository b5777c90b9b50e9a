"""Patch tokens of pictures under a locked vision encoder: arrays on disk, memory-mapped (design, decision 6).

    digests.npy            (M,) digests of the pictures' files, sorted
    00000.npy, 00001.npy …  (R, V, P, C) float16 each: R pictures in that order, V views, P patches, C channels

View 0 is the picture as it is, the others are augmented (`picture_views.picture_view`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


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
