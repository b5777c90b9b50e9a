"""Rows of the log: what was shown and what shoppers did, as JSON lines of `click_log`'s contract, hashed and masked."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from smar_model.data.query_text import beginning, normalise_query
from smar_model.serving.shopper_ids import ShopperIds

SHIPPED = "shipped"
"""Routing of an answer for which none was asked."""
KEPT_CHARACTERS = 501
"""Of a query; extract-clicks sets aside whatever has over 500."""
READ_CHARACTERS = 1_000
"""Of a query, before it is masked: no number or address that begins in what is kept ends behind these."""
Team = Literal["champion", "challenger"]


class Place(NamedTuple):
    """A place in a list."""

    item_id: str
    version: str
    team: Team | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownList:
    """An answer as it was given."""

    request_id: str
    query: str
    user: str | None
    session: str | None
    routing: str | None
    places: Sequence[Place]
    catalogue_numbers: Collection[str] = frozenset()

    @property
    def rows(self) -> int:
        return len(self.places)

    @property
    def kind(self) -> str:
        return "impression"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What a shopper did with an item of an answer."""

    kind: Literal["click", "cart", "order"]
    request_id: str
    item_id: str
    position: int
    query: str
    user: str | None
    session: str | None
    catalogue_numbers: Collection[str] = frozenset()

    @property
    def rows(self) -> int:
        return 1


Entry = ShownList | Action


def new_request_id() -> str:
    """32 hexadecimal digits that nobody can guess."""
    return secrets.token_hex(16)


def day_of(time: float) -> str:
    """UTC day of a moment in seconds since the epoch, YYYY-MM-DD."""
    return datetime.fromtimestamp(time, UTC).date().isoformat()


def write_rows(time: float, entry: Entry, ids: ShopperIds) -> bytes:
    """JSON lines, each with its line end."""
    moment = datetime.fromtimestamp(time, UTC)
    query = normalise_query(beginning(entry.query, READ_CHARACTERS), entry.catalogue_numbers)[:KEPT_CHARACTERS]
    common = {
        "event_time": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "event": entry.kind,
        "request_id": entry.request_id,
        "session_id": ids.session(entry.session, entry.user, entry.request_id, moment.date().isoformat()),
        "user_id": ids.user(entry.user, entry.request_id),
        "query": query,
        "routing": (entry.routing or SHIPPED) if isinstance(entry, ShownList) else None,
    }
    head = json.dumps(common)[:-1]  # once, as all rows of a list have it in common
    places: Sequence[Place]
    if isinstance(entry, Action):
        places, first = [Place(entry.item_id, "", None)], entry.position
    else:
        places, first = entry.places, 1
    lines = [
        f'{head}, "item_id": {json.dumps(place.item_id)}, "position": {position}, '
        f'"version": {_text(place.version)}, "team": {_text(place.team)}}}\n'
        for position, place in enumerate(places, start=first)
    ]
    return "".join(lines).encode()


def _text(value: str | None) -> str:
    """Versions and teams need no escapes."""
    return f'"{value}"' if value else "null"
