"""Rows of separated values (CSV, TSV and their kin), and which character separates them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from smar_model.errors import InputError
from smar_model.shop.importers.odd_rows import OddRows
from smar_model.shop.importers.text_files import LONGEST_ROW, UTF8, text_lines

Row = dict[str, Any]
"""Column → value, of whatever type the file has."""
Rows = Iterator[tuple[str, Row]]
DELIMITERS = (",", ";", "\t", "|")
_EXCEL_LINE = re.compile(r'"?sep=(.)"?\s*')
"""The first line by which Excel is told what separates; it is no row."""


@dataclass(frozen=True, slots=True)
class Separation:
    """How a file of separated values is written."""

    delimiter: str = ","
    quotes: bool = True
    """Whether a field may be quoted ("a, b"); a quotation mark is a letter like any other where not."""
    encoding: str = UTF8
    skipped_lines: int = 0
    """Lines before that of the columns' names."""
    name: str | None = None
    """What messages call the file; unset, its path."""


def separated_rows(
    path: Path,
    needed: Sequence[str],
    *,
    delimiter: str = ",",
    quotes: bool = True,
    header: Sequence[str] | None = None,
) -> Rows:
    """Rows of a file of separated values in UTF-8.

    Args:
        needed: columns that must be there.
        quotes: whether a field may be quoted ("a, b"); a quotation mark is a letter like any other where not.
        header: the columns of a file whose first line does not name them; where it does, it is passed over.

    Raises:
        InputError: a column is missing, or a row has another number of fields or a quotation that does not end.
    """
    return rows_of(path, needed, Separation(delimiter, quotes), header)


def rows_of(
    path: Path,
    needed: Sequence[str],
    separation: Separation,
    header: Sequence[str] | None = None,
    odd_rows: OddRows | None = None,
) -> Rows:
    """`separated_rows` of a file that is written in any way; of a needed column that stands there twice a row has the
    list of its values where they differ.

    Args:
        odd_rows: judges rows with another number of fields; unset, the first one is refused.
    """
    names = list(header) if header else None
    twice = False
    for where, fields in _records(path, separation):
        if names is None:
            if not any(field.strip() for field in fields):
                continue
            names = _column_names(fields, needed)
            if missing := [name for name in needed if name not in names]:
                raise InputError(
                    f"{where}: no column {', '.join(missing)}; {_columns_that_are_there(names, separation)}"
                )
            twice = any(names.count(name) > 1 for name in needed)
        elif fields and fields != names:
            if odd_rows:
                if (fitting := odd_rows.fitting(where, fields, len(names))) is None:
                    continue
                fields = fitting
            elif len(fields) != len(names):
                raise InputError(f"{where}: {len(fields)} fields, expected {len(names)}; correct or remove the row")
            yield where, _gathered(names, fields) if twice else dict(zip(names, fields, strict=True))
    if odd_rows:
        odd_rows.close()
    if names is None:
        raise InputError(f"{separation.name or path}: empty; download or copy it again")


def find_separation(path: Path, needed: Sequence[str], *, first: str, quotes: bool, encoding: str) -> Separation:
    """The way of writing under which the file has all needed columns; `first` where several do, or none.

    Raises:
        InputError: the file is missing, damaged or not in this encoding.
    """
    line = next(text_lines(path, encoding), "")
    told = told_delimiter(line)
    skipped = 1 if told else 0
    candidates = [told] if told else list(dict.fromkeys([first, *DELIMITERS]))
    best, most = Separation(candidates[0], quotes, encoding, skipped), (0, 0)
    for delimiter in candidates:
        separation = Separation(delimiter, quotes, encoding, skipped)
        try:
            names = next((fields for _, fields in _records(path, separation) if any(fields)), [])
        except InputError:
            continue
        names = _column_names(names, needed)
        count = (sum(name in names for name in needed), len(names) - 1)
        if count[0] == len(needed):
            return separation
        if count > most:
            best, most = separation, count
    return best


def told_delimiter(line: str) -> str | None:
    """What Excel's line `sep=;` says; None for another line."""
    told = _EXCEL_LINE.fullmatch(line)
    return told and told[1]


def _records(path: Path, separation: Separation) -> Iterator[tuple[str, list[str]]]:
    """Fields of each row, and where it stands."""
    csv.field_size_limit(LONGEST_ROW)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if separation.quotes else csv.QUOTE_NONE
    name = separation.name or str(path)
    begun = length = 0

    def limited_lines() -> Iterator[str]:
        nonlocal length
        for line in islice(text_lines(path, separation.encoding, name), separation.skipped_lines, None):
            length += len(line)
            if length > LONGEST_ROW:  # many short lines inside quotation marks
                raise InputError(
                    f"{name} row {begun}: over {LONGEST_ROW:,} characters; a quotation mark that does not end?"
                )
            yield line

    reader = csv.reader(limited_lines(), delimiter=separation.delimiter, quoting=quoting, strict=True)
    while True:
        begun, length = reader.line_num + 1 + separation.skipped_lines, 0
        where = f"{name} row {begun}"
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{where}: {error}; correct or remove the row") from None
        if fields is None:
            return
        yield where, fields


def _column_names(fields: list[str], needed: Sequence[str]) -> list[str]:
    """The names as they stand; without the white space around them where that is what makes the difference."""
    return fields if all(name in fields for name in needed) else [field.strip() for field in fields]


def _columns_that_are_there(names: list[str], separation: Separation) -> str:
    there = f"it has {', '.join(names)}"
    if len(names) > 1:
        return there
    return f"{there}; if another character than {separation.delimiter!r} stands between its columns, name it as `delimiter`"


def _gathered(names: list[str], fields: list[str]) -> Row:
    """A row of a file in which a name stands over several columns."""
    values: dict[str, list[str]] = {}
    for name, field in zip(names, fields, strict=True):
        if field not in values.setdefault(name, []) and field.strip():
            values[name].append(field)
    return {name: each if len(each) > 1 else each[0] if each else "" for name, each in values.items()}
