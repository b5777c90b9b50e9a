"""The one reader of times that shops write as text: ISO 8601, as BigQuery writes it too, or a format of the shop's own."""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo

_BEFORE_OFFSET = re.compile(r"\s+(?=[+-]\d\d(?::?\d\d)?$)")


class NoZoneError(ValueError):
    """A time that could be read, but says no zone."""


def parse_time(text: str, *, zone: tzinfo | None = UTC, format: str | None = None) -> datetime:
    """The time in UTC that a text says.

    Without `format` it may be `2026-11-19T09:18:26Z`, `2026-11-19 09:18:26.5 UTC` (BigQuery), `2026-11-19 09:18:26+02`
    (Postgres), `2026-11-19 11:18:26 +0200` (Ruby), or a day alone, which is its midnight. More than six digits of a
    second's fraction are cut.

    Args:
        zone: that of a text which names none; None refuses such a text.
        format: how the text is written, by the signs of `datetime.strptime`.

    Raises:
        NoZoneError: it names no zone, and `zone` is None.
        ValueError: it is no such time, or one outside the years 1 to 9999.
    """
    text = text.strip()
    time = datetime.strptime(text, format) if format else _parse_iso(text)
    if time.tzinfo is None:
        if zone is None:
            raise NoZoneError(f"{text[:40]!r} says no zone")
        time = time.replace(tzinfo=zone)
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text[:40]!r} is outside the years 1 to 9999") from None


def _parse_iso(text: str) -> datetime:
    # Python takes any sign between day and time, so a count of milliseconds would be a day of 1795.
    if text[:8].isdigit() and text[8:9] not in ("", "T", "t", " "):
        raise ValueError(f"{text[:40]!r} is no time")
    if text.endswith((" UTC", " GMT")):
        text = f"{text[:-4]}+00:00"
    elif text[-6:].count(" ") or text[-7:-6] == " ":
        text = _BEFORE_OFFSET.sub("", text)
    return datetime.fromisoformat(text)
