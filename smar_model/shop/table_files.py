"""Parquet files of a shop while they are written: by their contract, in batches, with the source that brought them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smar_model.lake.contracts import load_contract

PARQUET: dict[str, Any] = {
    "version": "2.6", "data_page_version": "1.0", "compression": "zstd", "compression_level": 3,
}  # fmt: skip
_SOURCE = b"smar_source"
"""In the metadata of a file that one source has brought as a whole."""


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write one Parquet file whole or not at all; its bytes depend on the table alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing")
    pq.write_table(table, temporary, **PARQUET)
    temporary.replace(path)


def source_of(path: Path) -> str | None:
    """The source that brought the file as a whole; None where nobody says so, or there is no such file."""
    if not path.is_file():
        return None
    source = (pq.read_schema(path).metadata or {}).get(_SOURCE)
    return source.decode() if source else None


class TableFile:
    """One Parquet file by its contract; begins with the rows of another whose item id lacks a prefix."""

    def __init__(
        self, path: Path, table: str, *, begin: Path | None = None, without: str = "", whole_of: str | None = None
    ) -> None:
        """Open it.

        Args:
            begin: file with the rows that stay: those whose item id does not begin with `without`.
            whole_of: the source whose rows the file has alone; it will say so.
        """
        contract = load_contract(table)
        # A log as it is delivered promises nothing about nulls.
        nullable = [field.with_nullable(True) for field in contract.arrow_schema()]
        self._schema = pa.schema(nullable) if table == "click_log" else contract.arrow_schema()
        if whole_of:
            self._schema = self._schema.with_metadata({_SOURCE: whole_of.encode()})
        self.path = path
        self.rows = 0
        self.waiting: list[tuple[Any, ...]] = []
        self.pictures: set[str] = set()
        """File names that the rows begun with list."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = pq.ParquetWriter(path, self._schema, **PARQUET)
        if begin is None or not without or not begin.is_file():
            return
        contract.verify_files([begin])
        for batch in pq.ParquetFile(begin).iter_batches():
            kept = pa.Table.from_batches([batch]).filter(pc.invert(pc.starts_with(batch["item_id"], without)))
            whole = pa.concat_tables([self._schema.empty_table(), kept], promote_options="permissive")
            self._write(whole.cast(self._schema))
            if "images" in kept.column_names:
                self.pictures.update(picture_names(kept))

    def flush(self) -> None:
        if self.waiting:
            # Rows may end before the contract's last columns, which are empty then.
            absent = itertools.repeat([None] * len(self.waiting))
            columns = itertools.chain(zip(*self.waiting, strict=True), absent)
            arrays = [pa.array(values, type=field.type) for values, field in zip(columns, self._schema, strict=False)]
            self._write(pa.Table.from_arrays(arrays, schema=self._schema))
            self.waiting = []

    def _write(self, table: pa.Table) -> None:
        if table.num_rows:
            self._file.write_table(table)
            self.rows += table.num_rows

    def close(self) -> None:
        self.flush()
        self._file.close()


def pictures_of(items: Path) -> set[str]:
    """What a catalogue's rows name as their pictures.

    Raises:
        InputError: the file is no catalogue.
    """
    if not items.is_file():
        return set()
    load_contract("items").verify_files([items])
    return {n for batch in pq.ParquetFile(items).iter_batches(columns=["images"]) for n in picture_names(batch)}


def picture_names(table: pa.Table | pa.RecordBatch) -> Iterator[str]:
    return (name for names in table["images"].to_pylist() for name in names or ())


def is_inner_path(name: str) -> bool:
    """Whether a picture's name is a path inside the pictures' folder, and no URL."""
    path = PurePosixPath(name)
    return "://" not in name and not path.is_absolute() and ".." not in path.parts and bool(path.parts)
