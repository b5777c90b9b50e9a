"""Rows of a feed of separated values, with several spellings of its columns and columns that come more than once."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from smar_model.errors import InputError
from smar_model.shop.importers.delimited_text import DELIMITERS, Separation, rows_of, told_delimiter
from smar_model.shop.importers.delivered_files import refuse_page
from smar_model.shop.importers.odd_rows import OddRows
from smar_model.shop.importers.text_files import NAMES, UTF8, find_encoding, text_lines
from smar_model.shop.shop_writer import ShopWriter

FeedRow = dict[str, list[str]]
"""Field → its texts that are not blank, in the order of their columns."""


def feed_rows(
    name: str,
    file: Path,
    writer: ShopWriter,
    *,
    key_of: Callable[[str], str],
    known: Collection[str],
    needed: Collection[str],
) -> Iterator[tuple[str, FeedRow]]:
    """Rows of a file, whatever its encoding and whatever separates its columns.

    Args:
        name: of the file, for messages.
        writer: its summary says how the file was read, and which rows were not.
        key_of: a column's field, from the name that it has.
        known: fields by which the right separator is found.
        needed: fields that must be there.

    Raises:
        InputError: the file lacks a field, has more than a few rows with more or fewer columns, or is no such text.
    """
    with file.open("rb") as raw:
        refuse_page(name, raw.read(512))
    encoding = find_encoding(file, name)
    if encoding != UTF8:
        writer.note(f"{name}: read as {NAMES[encoding]} text")
    lines = (line for line in text_lines(file, encoding, name) if line.strip())
    first = next(lines, "")
    told = told_delimiter(first)
    if told:
        first = next(lines, "")
    candidates = [told] if told else DELIMITERS
    headers = {delimiter: next(csv.reader([first], delimiter=delimiter), []) for delimiter in candidates}
    delimiter = max(headers, key=lambda d: (sum(key_of(column) in known for column in headers[d]), len(headers[d])))
    columns = headers[delimiter]
    fields = {column: key_of(column) for column in columns}
    if missing := [field for field in needed if field not in fields.values()]:
        raise InputError(
            f"{name} row 1: no column {' or '.join(missing)}; it has {', '.join(columns)[:300]}. Is it the file that was meant?"
        )
    separation = Separation(delimiter, True, encoding, skipped_lines=1 if told else 0, name=name)
    for where, row in rows_of(file, columns, separation, odd_rows=OddRows(writer, delimiter)):
        found: FeedRow = {}
        for column, field in fields.items():
            values = row[column] if isinstance(row[column], list) else [row[column]]
            found.setdefault(field, []).extend(text for value in values if (text := value.strip()))
        yield where, found
