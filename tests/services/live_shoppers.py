"""Simulated shoppers who ask a running server over HTTP and send what they do, and keep a book of all that they were told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as with_fields
from typing import Any

import httpx
import numpy as np

from smar_model.shop.shoppers import LIST_LENGTH, Shoppers, Wishes

BATCH = 40
"""Requests of a client, one after the other, before their shoppers react."""
DWELL_SECONDS = 1.2
"""From a batch's last list to its first click: what comes sooner is no person's (`sql/extract_clicks_days.sql`)."""
EVENTS_AT_ONCE = 100
PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    request_id: str
    query: str
    version: str
    items: tuple[str, ...]
    at: float
    """`time.time()` when all of the answer was there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acted:
    event: str
    request_id: str
    item_id: str
    position: int
    at: float
    """When it was taken; of what got no answer, when it was given up."""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.event, self.request_id, self.item_id


@dataclass(slots=True)
class Book:
    answered: list[Answered] = field(default_factory=list)
    unanswered: int = 0
    """Requests whose connection broke: the server may have written their lists or not."""
    taken: list[Acted] = field(default_factory=list)
    """Events that were answered with 202."""
    in_doubt: list[Acted] = field(default_factory=list)
    """Events whose connection broke; nobody sends them again."""


def send_shoppers(
    address: str,
    shoppers: Shoppers,
    requests: int,
    book: Book,
    *,
    clients: int,
    seed: int,
    meanwhile: Callable[[], Awaitable[None]],
) -> None:
    """Let so many requests be asked and reacted to, over as many connections as there are clients; `meanwhile` runs beside them."""
    wishes = shoppers.wish(requests, np.random.default_rng(seed))
    places = {item: row for row, item in enumerate(shoppers.item_ids)}

    async def run() -> None:
        shares = np.array_split(np.arange(requests), clients)
        async with httpx.AsyncClient(
            base_url=address, timeout=60, limits=httpx.Limits(max_connections=clients)
        ) as http:
            work = [
                _client(http, shoppers, wishes, share, places, book, np.random.default_rng([seed, number]))
                for number, share in enumerate(shares)
            ]
            await asyncio.gather(meanwhile(), *work)

    asyncio.run(run())


async def _client(
    http: httpx.AsyncClient,
    shoppers: Shoppers,
    wishes: Wishes,
    rows: Sequence[int],
    places: dict[str, int],
    book: Book,
    rng: np.random.Generator,
) -> None:
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        lists = [await _ask(http, wishes, row, book) for row in batch]
        await asyncio.sleep(DWELL_SECONDS)
        of_batch = with_fields(
            wishes,
            visits=wishes.visits.iloc[batch],
            queries=[wishes.queries[row] for row in batch],
            named=[wishes.named[row] for row in batch],
            matches=wishes.matches[batch],
        )
        shown = np.array([[places[item] for item in each.items] for each in lists])
        happened = shoppers.react(of_batch, shown, rng)
        events = [
            {
                "event": event,
                "request_id": lists[request].request_id,
                "item_id": str(shoppers.item_ids[item]),
                "position": position,
                "query": lists[request].query,
                **_who(wishes, batch[request]),
            }
            for request, event, item, position in happened[["request", "event", "item", "position"]].itertuples(
                index=False
            )
            if event != "impression"
        ]
        # Clicks come before carts, and these before orders, as `react` gives them.
        for first in range(0, len(events), EVENTS_AT_ONCE):
            await _send(http, events[first : first + EVENTS_AT_ONCE], book)


def _who(wishes: Wishes, row: int) -> dict[str, str]:
    visit = wishes.visits.iloc[row]
    return {"user": f"shopper-{int(visit['shopper'])}", "session": f"visit-{int(visit['visit'])}"}


async def _ask(http: httpx.AsyncClient, wishes: Wishes, row: int, book: Book) -> Answered:
    """A list for a wish; asked again, as another request, until there is one."""
    asked = {"q": wishes.queries[row], "k": LIST_LENGTH, **_who(wishes, row)}
    while True:
        try:
            answer = await http.get("/search", params=asked)
        except httpx.ConnectError:  # nothing has been sent
            await asyncio.sleep(PAUSE_SECONDS)
            continue
        except httpx.TransportError:
            book.unanswered += 1
            continue
        if answer.status_code == 503:  # no champion is open yet
            await asyncio.sleep(PAUSE_SECONDS)
            continue
        assert answer.status_code == 200, answer.text
        said = answer.json()
        book.answered.append(
            Answered(
                request_id=said["request_id"],
                query=said["query"],
                version=said["version"],
                items=tuple(hit["item_id"] for hit in said["hits"]),
                at=time.time(),
            )
        )
        return book.answered[-1]


async def _send(http: httpx.AsyncClient, events: list[dict[str, Any]], book: Book) -> None:
    while True:
        try:
            answer = await http.post("/events", json={"events": events})
        except httpx.ConnectError:
            await asyncio.sleep(PAUSE_SECONDS)
            continue
        except httpx.TransportError:
            answer = None
        if answer is not None:
            assert (answer.status_code, answer.json()) == (202, {"taken": len(events)}), answer.text
        acted = [
            Acted(**{name: event[name] for name in ("event", "request_id", "item_id", "position")}, at=time.time())
            for event in events
        ]
        (book.in_doubt if answer is None else book.taken).extend(acted)
        return
