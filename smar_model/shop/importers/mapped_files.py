"""Rows of a file that a mapping names, in whatever format, encoding and separation it is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smar_model.errors import InputError
from smar_model.shop.importers.delimited_text import Separation, find_separation, rows_of
from smar_model.shop.importers.delivered_files import refuse_spreadsheet
from smar_model.shop.importers.odd_rows import OddRows
from smar_model.shop.importers.published_rows import Rows, json_rows, parquet_rows, refuse_missing_columns
from smar_model.shop.importers.table_mapping import File, Text
from smar_model.shop.importers.text_files import NAMES, UTF8, find_encoding
from smar_model.shop.shop_writer import ShopWriter

ENDINGS = {"csv": "csv", "tsv": "tsv", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet"}


class MappedFile:
    """A file, and how it is written."""

    def __init__(self, folder: Path, table: File, columns: Sequence[Text | None], writer: ShopWriter) -> None:
        """Find out how it is written.

        Args:
            columns: all that will be read.
            writer: its summary says what was found that is not as a rule.

        Raises:
            InputError: the file is missing or damaged, or of no format or encoding that is known.
        """
        self._path, self._writer = folder / table.file, writer
        writer.files.append(self._path)
        refuse_spreadsheet(self._path)
        ending = self._path.name.lower().removesuffix(".gz").rsplit(".", 1)[-1]
        if not (format := table.format or ENDINGS.get(ending)):
            raise InputError(f"{self._path}: which format is it? Set `format` to csv, tsv, jsonl or parquet")
        self._format, self._encoding = format, table.encoding or UTF8
        self._names = _names(columns)
        if format == "parquet":
            refuse_missing_columns(self._path, self._names)
            return
        if table.encoding is None and (found := find_encoding(self._path)) != UTF8:
            self._encoding = found
            writer.note(f"{self._path}: read as {NAMES[found]} text; `encoding` names another")
        if format == "jsonl":
            return
        usual = "\t" if format == "tsv" else ","
        self._separation = Separation(table.delimiter or usual, table.quotes, self._encoding)
        if table.delimiter is None:
            self._separation = find_separation(
                self._path, self._names, first=usual, quotes=table.quotes, encoding=self._encoding
            )
            if (delimiter := self._separation.delimiter) != usual:
                writer.note(f"{self._path}: {delimiter!r} stands between its columns; `delimiter` names another")

    def rows(self, columns: Sequence[Text | None], *, counted: bool = True) -> Rows:
        """Each row, with these of the columns at least.

        Args:
            counted: whether the summary is told of rows that do not fit; a second reading tells it again.

        Raises:
            InputError: the file is damaged, lacks a column, or has a row that cannot be read.
        """
        match self._format:
            case "parquet":
                yield from parquet_rows(self._path, dict.fromkeys(_names(columns), "any"))
            case "jsonl":
                met: set[str] = set()
                for where, row in json_rows(self._path, self._encoding):
                    met |= row.keys()
                    yield where, row
                if missing := [name for name in self._names if name not in met]:
                    raise InputError(f"{self._path}: no row has {', '.join(missing)}; correct the name in the mapping")
            case _:
                odd_rows = OddRows(self._writer if counted else None, self._separation.delimiter)
                yield from rows_of(self._path, self._names, self._separation, odd_rows=odd_rows)


def _names(columns: Sequence[Text | None]) -> list[str]:
    return list(dict.fromkeys(rule.column for rule in columns if rule and rule.column is not None))
