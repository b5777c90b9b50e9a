"""What a new catalogue no longer has of a source's former items; and that a feed which was cut off does not empty a shop."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from smar_model.errors import InputError
from smar_model.shop.import_summary import LeftOut

LEAST_SHARE = 0.5
"""Of the items that a feed had before: one with fewer has probably been cut off, or is one file of several."""


def removed_items(old: Path, new: Path, *, prefix: str, refuse_below: float) -> LeftOut | None:
    """The items of a former catalogue that a new one lacks; None where it has all of them.

    Memory holds the new catalogue's ids and a batch of the old one.

    Args:
        prefix: what the source's ids begin with; empty where the whole catalogue is its own.
        refuse_below: share of the source's former items that it must still have; 0 where any is right.

    Raises:
        InputError: the source has fewer.
    """
    if not old.is_file():
        return None
    left = pq.read_table(new, columns=["item_id"])["item_id"]
    before = 0
    removed: LeftOut | None = None
    for batch in pq.ParquetFile(old).iter_batches(columns=["item_id"]):
        mine = batch["item_id"].filter(pc.starts_with(batch["item_id"], prefix))
        before += len(mine)
        gone = mine.filter(pc.invert(pc.is_in(mine, value_set=left)))
        if len(gone):
            removed = removed or LeftOut(repr(gone[0].as_py()))
            removed.count += len(gone)
    after = pc.sum(pc.starts_with(left, prefix)).as_py() or 0
    if after < refuse_below * before:
        raise InputError(
            f"{old}: it has {before:,} items of this source, and these files have {after:,}; "
            "give all files of the feed in one command, or replace them nevertheless with --replace"
        )
    return removed
