"""Published prices and stock, as servers and searches read them.

<home>/stock/<model>/<digest>.parquet   a table by schemas/stock.yaml, never changed
<home>/stock/<model>/current.json       which of them counts, replaced in one step once it is on the disk, or in the object store
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, TypeAdapter

from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.lake.records import parse_record
from smar_model.lake.shared_files import fetched, read_bytes
from smar_model.settings import Settings, home


class StockPointer(BaseModel):
    """current.json"""

    model_config = ConfigDict(frozen=True)

    digest: str
    """SHA-256 of the table's file."""
    items: int
    published_at: float
    """Seconds since 1970."""
    source: str
    tables: tuple[str, ...]
    """Digests of those that are kept, this one first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StockTable:
    pointer: StockPointer
    rows: pa.Table
    """By schemas/stock.yaml, one row an item."""


_FORM = TypeAdapter(StockPointer)


def stock_folder(settings: Settings) -> Path:
    return home() / "stock" / quote(settings.release.model, safe="")


def current_stock(settings: Settings) -> StockPointer | None:
    """Which table counts; None: there is none.

    Raises:
        InputError: current.json is damaged.
    """
    path = stock_folder(settings) / "current.json"
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return None
    pointer: StockPointer = parse_record(content, _FORM, path=path, what_to_do="run `smar refresh-stock` again")
    return pointer


def load_stock(settings: Settings, pointer: StockPointer) -> StockTable:
    """The table that a pointer names, verified.

    Raises:
        InputError: it is missing or damaged.
    """
    path = stock_folder(settings) / f"{pointer.digest}.parquet"
    mend = "run `smar refresh-stock` again"
    try:
        content = fetched(path).read_bytes()
        if hashlib.sha256(content).hexdigest() != pointer.digest:
            raise InputError(f"{path}: damaged: its content is not what its name says; {mend}")
        rows = pq.ParquetFile(io.BytesIO(content)).read()  # `pq.read_table` would import pandas
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); {mend}") from error
    return StockTable(pointer=pointer, rows=rows.cast(load_contract("stock").arrow_schema()))
