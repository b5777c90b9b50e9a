"""The catalogue, read from the table of prepare-items."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from smar_model.data.query_text import maskable_numbers
from smar_model.data.sorted_keys import as_bytes
from smar_model.data.training_pairs import iterate_rows
from smar_model.errors import InputError


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


def read_item_digests(
    files: Sequence[Path], column: Literal["text_digest", "content_digest"]
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of a catalogue's items, sorted bytes (N,), and the first 128 bits of their digests, (N, 2) uint64.

    Raises:
        InputError: there is no item, or prepare-items of an older version made the catalogue, without digests.
    """
    if column not in pq.read_schema(files[0]).names:
        raise InputError(
            f"{files[0]}: has no column {column}, as an older version made it; run `smar prepare-items` for this run again"
        )
    ids, digests = [np.zeros(0, np.bytes_)], [np.zeros((0, 2), np.uint64)]
    for piece in iterate_rows(files, ["item_id", column]):
        ids.append(as_bytes(piece["item_id"]))
        hexadecimal = "".join(piece[column].to_pylist())
        digests.append(np.frombuffer(bytes.fromhex(hexadecimal), np.uint64).reshape(-1, 4)[:, :2])
    item_ids = np.concatenate(ids)
    if not len(item_ids):
        raise InputError("catalogue: no item to embed; check items.parquet")
    order = np.argsort(item_ids, kind="stable")
    return item_ids[order], np.concatenate(digests)[order]
