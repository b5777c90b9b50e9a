"""Fields of the events that trackers write: times, ids and places, in the forms in which they come."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from smar_model.delivery.times import parse_time
from smar_model.errors import InputError

EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
"""No log of a web shop is older; a time outside was written in another unit, or is none."""
MOST_PLACES = 2**31 - 1
"""What the log's column `position` holds."""
LONGEST_ID = 1_000
"""Characters of an id."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIGITS = re.compile(r"-?\d{9,19}(?:\.\d+)?")
_PER_SECOND = (1, 10**3, 10**6, 10**9)


def time_of(value: Any) -> datetime | None:
    """A time of ISO 8601 (UTC where it names no zone) or a number since 1970 in whatever unit puts it between EARLIEST
    and LATEST; None where it is neither.
    """
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        value = float(value) if "." in value else int(value)
    if isinstance(value, bool) or value is None:
        return None
    try:
        if isinstance(value, int | float):
            return _since_1970(value)
        time = value.astimezone(UTC) if isinstance(value, datetime) else parse_time(str(value))
    except (ValueError, OverflowError):
        return None
    return time if EARLIEST <= time < LATEST else None


def _since_1970(value: float) -> datetime | None:
    for units in _PER_SECOND:
        seconds = value / units
        if EARLIEST.timestamp() <= seconds < LATEST.timestamp():
            whole = value * 1_000_000 // units if isinstance(value, int) else round(seconds * 1_000_000)
            return _EPOCH + timedelta(microseconds=int(whole))
    return None


def microseconds(time: datetime) -> int:
    """Since 1970."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def time_at(since_1970: int) -> datetime:
    """The time of so many microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=since_1970)


def id_of(value: Any) -> str | None:
    """An id as text, trimmed; a whole number is that number without a fraction. None for what is empty or no id: a list,
    an object, NaN, half of a surrogate pair, or a text of over LONGEST_ID characters.
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        return None
    text = value.strip()
    return text if 0 < len(text) <= LONGEST_ID and _is_whole(text) else None


def text_of(value: Any) -> str | None:
    """A text as typed; None for what is none, or half of a surrogate pair."""
    return value if isinstance(value, str) and _is_whole(value) else None


def place_of(value: Any) -> int | None:
    """A place in a list as a whole number that a log holds; None where it is none."""
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        return None
    if isinstance(number, bool) or not isinstance(number, int | float) or number != number:
        return None
    return int(number) if abs(number) < MOST_PLACES and int(number) == number else None


def _is_whole(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


class ItemIdPattern:
    """What of a tracker's item id is the shop's: the group of a regular expression."""

    def __init__(self, pattern: str | None) -> None:
        """Take a pattern; None for ids as they stand.

        Raises:
            InputError: it is no regular expression with one group.
        """
        self._pattern: re.Pattern[str] | None = None
        if pattern is None:
            return
        try:
            self._pattern = re.compile(pattern)
        except re.error as error:
            raise InputError(f"--item-id-pattern {pattern!r}: no regular expression ({error})") from None
        if self._pattern.groups != 1:
            raise InputError(
                f"--item-id-pattern {pattern!r}: put one pair of parentheses around the id, as in 'shopify_.._([0-9]+)_[0-9]+'"
            )

    def item_id(self, item_id: str | None) -> str | None:
        """The id; as it stands where the pattern does not match all of it."""
        found = self._pattern.fullmatch(item_id) if self._pattern and item_id else None
        return found[1] if found else item_id
