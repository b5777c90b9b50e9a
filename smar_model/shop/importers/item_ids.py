"""What spreadsheets do to ids, and how it is told: digits that are gone, and the apostrophe that was to save them."""

from __future__ import annotations

import re

from smar_model.errors import InputError

_LOST_DIGITS = re.compile(r"[+-]?\d(?:[.,]\d+[eE]\+?|[eE]\+)\d{2,}")
_APOSTROPHE = re.compile(r"['’](?=\d)")


def has_lost_digits(text: str) -> bool:
    """Whether a text is a number as `4.00556E+12`, of which nobody knows the last digits."""
    return _LOST_DIGITS.fullmatch(text) is not None


def refuse_lost_digits(where: str, column: str, text: str | None) -> None:
    """Refuse an id that has lost digits.

    Raises:
        InputError: it has.
    """
    if text and has_lost_digits(text):
        raise lost_digits(where, column, text, column=column)


def lost_digits(where: str, name: str, text: str, *, column: str | None) -> InputError:
    """What is said of an id, by its `name`, that has lost digits in a column of the file."""
    return InputError(
        f"{where}: {name} {text[:40]!r} is a number whose last digits a spreadsheet or a float has dropped; "
        f"export the column {column} as text"
    )


def without_apostrophe(text: str) -> str:
    """`'00123`, which a spreadsheet takes for a text, as `00123`."""
    return _APOSTROPHE.sub("", text, count=1) if text[:1] in "'’" else text
