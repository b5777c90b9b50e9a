"""Training pairs (query, item) from their tables, a piece at a time: synthetic queries, and clicks by their weight."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

CART_WEIGHT, ORDER_WEIGHT = 1.0, 2.0
"""What a cart and an order add to the weight of a click."""
NO_BUCKET = (0.0, 0.0)
PIECE = 32_768
"""Rows held in memory at a time."""


def in_novel_bucket(kind: Literal["query", "item"], keys: Sequence[str], bucket: tuple[float, float]) -> np.ndarray:
    """Which queries or items a comparison run keeps out of training, (N,) bool: those whose hash lies between these shares of its
    range (`Segments.novel_range`). The function of the same name in `sql/assign_segments.sql` is its twin."""
    if bucket[0] == bucket[1]:
        return np.zeros(len(keys), dtype=bool)
    hashes = np.fromiter((zlib.crc32(f"{kind}:{key}".encode()) for key in keys), dtype=np.int64, count=len(keys))
    return (hashes >= bucket[0] * 2**32) & (hashes < bucket[1] * 2**32)


def synthetic_pairs(files: Sequence[Path], *, novel_bucket: tuple[float, float] = NO_BUCKET) -> Iterator[pd.DataFrame]:
    """Columns query and item_id of the synthetic queries, without those in the novel bucket."""
    for piece in iterate_rows(files, ["query", "item_id"]):
        yield _leave_out_novel(piece.to_pandas(), novel_bucket)


def clicked_pairs(
    files: Sequence[Path], days: Sequence[date], *, novel_bucket: tuple[float, float] = NO_BUCKET
) -> Iterator[pd.DataFrame]:
    """Columns query, item_id and weight of the given days' clicks: clicks freed of position bias, carts and orders.

    A pair that was clicked on several days comes once for each.
    """
    columns = ["day", "query", "item_id", "clicks", "carts", "orders", "weight"]
    wanted = pa.array(list(days), pa.date32())
    for piece in iterate_rows(files, columns):
        clicked = pc.and_(pc.is_in(piece["day"], value_set=wanted), pc.greater(piece["clicks"], 0))
        frame = piece.filter(clicked).select(columns[1:]).to_pandas()
        frame["weight"] += CART_WEIGHT * frame["carts"] + ORDER_WEIGHT * frame["orders"]
        yield _leave_out_novel(frame[["query", "item_id", "weight"]], novel_bucket)


def iterate_rows(files: Sequence[Path], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Rows of Parquet files, `PIECE` of them at a time, whatever the size of their row groups."""
    for file in files:
        with pq.ParquetFile(file, buffer_size=1 << 20) as parquet:
            yield from parquet.iter_batches(PIECE, columns=columns)


def _leave_out_novel(frame: pd.DataFrame, bucket: tuple[float, float]) -> pd.DataFrame:
    return frame[
        ~(in_novel_bucket("query", frame["query"], bucket) | in_novel_bucket("item", frame["item_id"], bucket))
    ]
