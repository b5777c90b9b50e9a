"""Table index_items of a catalogue: what an index keeps of each item beside its vector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract

_COLUMNS = ["item_id", "title", "department", "images", "brand", "attributes"]


def read_columns(files: Sequence[Path], columns: Sequence[str]) -> pa.Table:
    """Columns of a table's Parquet files, one file after the other.

    `pyarrow.dataset`, and with it `pq.read_table`, would import pandas.
    """
    tables = []
    for file in files:
        with pq.ParquetFile(file) as opened:
            tables.append(opened.read(columns=list(columns)))
    return pa.concat_tables(tables)


def read_index_items(
    catalogue_files: Sequence[Path], item_ids: list[str], *, offer_files: Sequence[Path] = ()
) -> pa.Table:
    """Table index_items of a catalogue, in the order of `item_ids`, which is sorted.

    Args:
        offer_files: table offers; an item that it lacks has no price.

    Raises:
        InputError: the catalogue has other items.
    """
    table = read_columns(catalogue_files, _COLUMNS)
    # By bytes, as item ids are sorted everywhere.
    order = np.argsort(np.array([i.encode() for i in table["item_id"].to_pylist()], dtype=np.bytes_), kind="stable")
    table = table.take(order)
    if table["item_id"].to_pylist() != item_ids:
        raise InputError(f"embed: made for {len(item_ids)} items that are not this run's; run embed again")
    offers = load_contract("offers").arrow_schema()
    known = read_columns(offer_files, offers.names) if offer_files else offers.empty_table()
    places = pc.index_in(table["item_id"], known["item_id"])
    for field in offers:
        if field.name != "item_id":
            table = table.append_column(field, known[field.name].cast(field.type).take(places))
    contract = load_contract("index_items").arrow_schema()
    table = table.append_column("row", pa.array(range(len(table)), pa.int64()))
    return table.select(contract.names).cast(contract)
