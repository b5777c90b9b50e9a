"""Rows of a feed of separated values, with several spellings of its columns and columns that come more than once."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from smar_model.errors import InputError
from smar_model.shop.importers.delimited_text import DELIMITERS, Separation, rows_of
from smar_model.shop.importers.text_files import find_encoding, text_lines

FeedRow = dict[str, list[str]]
"""Field → its texts that are not blank, in the order of their columns."""


def feed_rows(
    name: str, file: Path, *, key_of: Callable[[str], str], known: Collection[str], needed: Collection[str]
) -> Iterator[tuple[str, FeedRow]]:
    """Rows of a file, whatever its encoding and whatever separates its columns.

    Args:
        name: of the file, for messages.
        key_of: a column's field, from the name that it has.
        known: fields by which the right separator is found.
        needed: fields that must be there.

    Raises:
        InputError: the file lacks a field, has a row with more or fewer columns, or is no such text.
    """
    encoding = find_encoding(file)
    first = next((line for line in text_lines(file, encoding) if line.strip()), "")
    headers = {delimiter: next(csv.reader([first], delimiter=delimiter), []) for delimiter in DELIMITERS}
    delimiter = max(headers, key=lambda d: (sum(key_of(column) in known for column in headers[d]), len(headers[d])))
    columns = headers[delimiter]
    fields = {column: key_of(column) for column in columns}
    if missing := [field for field in needed if field not in fields.values()]:
        raise InputError(
            f"{name} row 1: no column {' or '.join(missing)}; it has {', '.join(columns)[:300]}. Is it the file that was meant?"
        )
    for where, row in rows_of(file, columns, Separation(delimiter, True, encoding)):
        found: FeedRow = {}
        for column, field in fields.items():
            values = row[column] if isinstance(row[column], list) else [row[column]]
            found.setdefault(field, []).extend(text for value in values if (text := value.strip()))
        yield where.replace(str(file), name, 1), found
