"""Rows of separated values that have another number of fields than there are columns: a few are left out, many refuse the file."""

from __future__ import annotations

from smar_model.errors import InputError
from smar_model.shop.shop_writer import ShopWriter

MOST_SHARE = 0.01
"""Of a file's rows that may be left out; an export that breaks more often is not the catalogue."""
_EXAMPLES = 3


class OddRows:
    """Looks at the fields of each row of a file, and says at its end what became of those that do not fit."""

    def __init__(self, writer: ShopWriter | None, delimiter: str) -> None:
        """Begin a file.

        Args:
            writer: its summary is told; None in a reading that only prepares another.
            delimiter: what separates the file's fields.
        """
        self._writer, self._delimiter = writer, delimiter
        self._rows = self._odd = 0
        self._examples: list[str] = []

    def fitting(self, where: str, fields: list[str], columns: int) -> list[str] | None:
        """The row's fields, without empty ones after the last column; None where their number is another."""
        self._rows += 1
        if len(fields) == columns:
            return fields
        if len(fields) > columns and not any(field.strip() for field in fields[columns:]):
            if self._writer:
                self._writer.change("rows with empty fields after the last column, which were dropped", where)
            return fields[:columns]
        self._odd += 1
        if len(self._examples) < _EXAMPLES:
            self._examples.append(f"{where}: {len(fields)} fields, expected {columns}")
        return None

    def close(self) -> None:
        """Count what was left out.

        Raises:
            InputError: it was more than MOST_SHARE of the rows.
        """
        if not self._odd:
            return
        hint = f"does a text hold {self._delimiter!r} without quotation marks?"
        if self._odd > MOST_SHARE * self._rows:
            shown = "; ".join(self._examples)
            raise InputError(
                f"{shown} ({self._odd:,} of {self._rows:,} rows in all); {hint} Correct or remove these rows"
            )
        if self._writer:
            reason = f"rows with another number of fields than there are columns: {hint}"
            self._writer.leave_out(reason, "; ".join(self._examples), count=self._odd)
