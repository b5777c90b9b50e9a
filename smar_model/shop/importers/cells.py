"""What a cell of a shop's table says: a text, several texts, an id, a place, a time; whatever type the file gives it.

Nothing is turned into text that is none: NaN is empty, a whole float is that integer, a list or object where one text
belongs is refused. What is changed in a way that could matter is counted.
"""

from __future__ import annotations

import ast
import html
import json
import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from smar_model.delivery.times import parse_time
from smar_model.errors import InputError
from smar_model.shop.importers.delimited_text import Row
from smar_model.shop.importers.event_fields import MOST_PLACES
from smar_model.shop.importers.html_texts import without_tags
from smar_model.shop.importers.item_ids import has_lost_digits, lost_digits
from smar_model.shop.importers.table_mapping import Choice, ItemId, Parts, ShownItems, Text, Time

NULL_MARKERS = frozenset({r"\N", "NULL", "NaN", "nan", "<NA>", "NaT", "#N/A"})
"""What databases, pandas and Excel write into an empty cell. `None`, `NA` and `null` may be names, and are not among them."""
QUERY_NULL_MARKERS = frozenset({r"\N", "<NA>"})
"""In queries: shoppers look for nan bread, and type NULL."""
Count = Callable[[str, str], None]
"""Is told what was done, in words of the plural, and where: as `ShopWriter.change` is."""


def ignore(_what: str, _example: str) -> None:
    """The `Count` of a first reading, which the second one tells of."""


_UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_EXACT = 2**53
_WHOLE_FLOAT = re.compile(r"([+-]?\d+)\.0+")
_EXACT_DIGITS = 15
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_STRING = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_PYTHON_LIST = re.compile(rf"\[\s*(?:(?:{_STRING})(?:\s*,\s*|\s+|(?=\])))+\]")
"""A list of texts as Python writes it, or NumPy without commas."""


class Cells:
    """Reads the cells of a table's rows; `where` is the row's place in messages."""

    def __init__(self, count: Count, null_markers: list[str] | None = None) -> None:
        """Read with the markers of empty cells that the mapping names, or with the usual ones."""
        self._count = count
        self._markers = NULL_MARKERS if null_markers is None else frozenset(null_markers)
        self._query_markers = QUERY_NULL_MARKERS if null_markers is None else self._markers

    def text(self, where: str, rule: Text, row: Row) -> str | None:
        """One text without white space around it; None where the cell is empty.

        Raises:
            InputError: the cell holds a list or an object.
        """
        if rule.column is None:
            return rule.value or None
        text = self._one(where, rule, row)
        return self._unless_marker(where, rule, text.strip(), self._markers) if text else None

    def written(self, where: str, rule: Text, row: Row) -> str | None:
        """A text that people read, as a title: with its HTML entities decoded, and without HTML's tags."""
        text = self.text(where, rule, row)
        if not text:
            return None
        bare = without_tags(decoded(text))
        if bare != decoded(text):
            self._count("texts with HTML tags, which were taken out", f"{where}: {text[:60]!r}")
            bare = " ".join(bare.split())
        return bare or None

    def query(self, where: str, rule: Text, row: Row) -> str | None:
        """What somebody typed, as it is."""
        if rule.column is None:
            return rule.value or None
        text = self._one(where, rule, row)
        if not text or self._unless_marker(where, rule, text.strip(), self._query_markers) is None:
            return None
        return text

    def choice(self, where: str, rule: Choice, row: Row) -> str | None:
        """A text, replaced where the rule knows it."""
        text = self.text(where, rule, row)
        return text if text is None else rule.values.get(text, text)

    def item_id(self, where: str, rule: ItemId, row: Row) -> str | None:
        """An item's id; a number that a float was made of is the integer again.

        Raises:
            InputError: it is a list or an object, or a number of which the last digits are lost.
        """
        text = self.text(where, rule, row)
        return self._as_id(where, rule, text) if text else None

    def shown_items(self, where: str, rule: ShownItems, row: Row) -> list[str | None]:
        """The items of an event: one, or none; of a list that is to be spread all.

        Raises:
            InputError: as `item_id`.
        """
        if not rule.is_spread:
            return [self.item_id(where, rule, row)]
        return [self._as_id(where, rule, text) for text in self._several(where, rule, row, rule.split)]

    def places(self, where: str, rule: Text, row: Row, count: int) -> list[int | None]:
        """Places of so many items that were shown together: from the row's place on, or those of a list.

        Raises:
            InputError: as `place`, or the list has another length.
        """
        listed = _listed(row.get(rule.column)) if rule.column is not None and count != 1 else None
        if listed is None:
            first = self.place(where, rule, row)
            return [None if first is None else self._as_place(where, str(first + n)) for n in range(count)]
        if len(listed) != count:
            raise InputError(f"{where}: {len(listed)} positions for {count} items; correct or remove the row")
        return [self._as_place(where, str(_plain(place))) for place in listed]

    def parts(self, where: str, rule: Parts, row: Row) -> list[str]:
        """Several texts, those of a list as they are.

        Raises:
            InputError: the cell holds an object, or a list that holds more than texts and numbers.
        """
        return self._several(where, rule, row, rule.split)

    def list_or_text(self, where: str, rule: Parts, row: Row) -> tuple[list[str], bool]:
        """The texts of a list, or the one text of a cell, and whether it was a list."""
        is_list = rule.column is not None and _listed(row.get(rule.column)) is not None
        return self._several(where, rule, row, None), is_list

    def place(self, where: str, rule: Text, row: Row) -> int | None:
        """A place in a list of results; None where the cell is empty.

        Raises:
            InputError: it is no whole number, or one that the log's column cannot hold.
        """
        text = self.text(where, rule, row)
        return None if text is None else self._as_place(where, text)

    def time(self, where: str, rule: Time, row: Row) -> datetime | None:
        """A time; None where the cell is empty.

        Raises:
            InputError: it is none, or not written as the rule says.
        """
        value = rule.value if rule.column is None else _plain(row.get(rule.column))
        if isinstance(value, str):
            value = self._unless_marker(where, rule, value.strip(), self._markers)
        if value is None:
            return None
        try:
            return _time(value, rule)
        except (TypeError, ValueError, OverflowError):
            raise InputError(f"{where}: {_shown(value)} is not {_expected(rule)}") from None

    def _one(self, where: str, rule: Text, row: Row) -> str | None:
        value = row.get(rule.column)  # type: ignore[arg-type]  # rules with a column alone come here
        if value is None or type(value) is str:
            return value
        value = _plain(value)
        if isinstance(value, list | tuple | dict | bytes):
            kind = {dict: "an object", bytes: "bytes that are no text"}.get(type(value), "a list")
            advice = (
                f"; `{{column: {rule.column}, spread: true}}` makes an event of each item"
                if isinstance(rule, ShownItems)
                else "; take one text out of it in the export"
            )
            raise InputError(
                f"{where}: column {rule.column} holds {kind}, {_shown(value)}, in place of one text{advice}"
            )
        return None if value is None else _as_text(value)

    def _several(self, where: str, rule: Text, row: Row, split: str | None) -> list[str]:
        if rule.column is None:
            return rule.value.split(split) if split and rule.value else [rule.value or ""]
        value = row.get(rule.column)
        parts = _listed(value)
        if parts is None:
            text = self._one(where, rule, row)
            parts = [] if text is None else [*text.split(split)] if split else [text]
        texts = []
        for part in map(_plain, parts):
            if isinstance(part, list | tuple | dict | bytes):
                raise InputError(
                    f"{where}: column {rule.column} holds a list of more than texts, {_shown(part)}; "
                    "take the texts out of it in the export"
                )
            text = "" if part is None else _as_text(part).strip()
            if text and self._unless_marker(where, rule, text, self._markers):
                texts.append(text)
        return texts

    def _as_place(self, where: str, text: str) -> int:
        try:
            place = int(whole(text))
            if "_" in text or not -MOST_PLACES <= place <= MOST_PLACES:
                raise ValueError
        except ValueError:
            raise InputError(
                f"{where}: position {text[:40]!r} is not a whole number within {MOST_PLACES:,}; correct the row"
            ) from None
        return place

    def _unless_marker(self, where: str, rule: Text, text: str, markers: frozenset[str]) -> str | None:
        if text in markers:
            self._count("cells with a mark of emptiness, read as empty", f"{where}: {rule.column} is {text}")
            return None
        return text or None

    def _as_id(self, where: str, rule: ItemId, text: str) -> str:
        float_of_integer = _WHOLE_FLOAT.fullmatch(text)
        if has_lost_digits(text) or (float_of_integer and len(float_of_integer[1]) > _EXACT_DIGITS):
            raise lost_digits(where, "item_id", text, column=rule.column)
        if float_of_integer:
            self._count("item ids written as a float, read as the integer", f"{where}: {text!r}")
            text = float_of_integer[1]
        if rule.digits and text.isdigit() and len(text) < rule.digits:
            self._count("item ids that had lost their zeros at the left", f"{where}: {text!r}")
            text = text.zfill(rule.digits)
        return text


def decoded(text: str) -> str:
    """The text with its HTML entities decoded: those with a semicolon, so that `&copy=1` in an address stays."""
    return _ENTITY.sub(lambda entity: html.unescape(entity[0]), text) if "&" in text else text


def whole(text: str) -> str:
    """`3.0` as `3`; another text as it is."""
    match = _WHOLE_FLOAT.fullmatch(text)
    return match[1] if match else text


def _plain(value: object) -> object:
    """None for NaN and Infinity, an integer for a whole float, text for bytes that are UTF-8."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) < _MOST_EXACT else value
    if isinstance(value, Decimal):
        if not value.is_finite():
            return None
        return int(value) if value == value.to_integral_value() else value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, datetime) and value != value:  # pandas' NaT
        return None
    return value


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _listed(value: object) -> list[object] | None:
    """The list that a cell holds, as one or as a text; None where it holds something else."""
    if isinstance(value, list | tuple):
        return list(value)
    if not isinstance(value, str) or not (text := value.strip()).startswith("[") or not text.endswith("]"):
        return None
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        if not _PYTHON_LIST.fullmatch(text):
            return None
        try:
            return [ast.literal_eval(string) for string in re.findall(_STRING, text)]
        except (ValueError, SyntaxError):  # an escape that Python does not know
            return None
    return parsed if isinstance(parsed, list) else None


def _time(value: object, rule: Time) -> datetime:
    """Raises TypeError, ValueError or OverflowError where the value is not what the rule says."""
    if rule.unit:
        number = int(value) if isinstance(value, str) and value.isdigit() else value
        micros = number * _UNITS[rule.unit] if isinstance(number, int) else float(str(number)) * _UNITS[rule.unit]
        return _EPOCH + timedelta(microseconds=micros)
    zone = ZoneInfo(rule.zone)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=zone)).astimezone(UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=zone).astimezone(UTC)
    if rule.format is None and not isinstance(value, str):
        raise TypeError
    return parse_time(str(value), zone=zone, format=rule.format)


def _expected(rule: Time) -> str:
    if rule.unit:
        return f"a number ({rule.unit} since 1970); correct the row or `unit`"
    if rule.format:
        return f"a time written as {rule.format}; correct the row or `format`"
    return "a time such as 2026-11-19T12:00:00Z; correct the row, or name its `format`, or its `unit` since 1970"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
