"""Clients that ask a server queries, each over a connection of its own, and check every answer.

Either each asks its next query as soon as it has an answer, or requests arrive at a rate, as shoppers come, whether or not the server keeps up:
then a request's time counts from its arrival, also while no connection is free for it.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from urllib.parse import quote, urlparse

import uvloop

Pair = tuple[str, str, str]
"""Version, digest of its model, digest of its index."""


@dataclass
class Seen:
    seconds: list[float] = field(default_factory=list)
    """From a request's arrival to having all of its answer, of those that were answered."""
    shed: int = 0
    """Turned away: 503 with a Retry-After."""
    answers_of: dict[Pair, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    """The first hundred: another status than 200, a broken connection, or an answer that no one pair gives."""


def run_clients(
    address: str,
    expected: dict[Pair, dict[str, list[float]]],
    *,
    clients: int,
    until: float,
    rate: float | None = None,
) -> Seen:
    """Ask until that time (`time.time()`).

    Args:
        expected: pair → query → scores of its hits, which every answer of that pair must have.
        rate: requests that arrive a second, at exponential distances; None: the next one arrives when one is answered.
    """
    return uvloop.run(_run(address, expected, clients, until, rate))


async def _run(
    address: str, expected: dict[Pair, dict[str, list[float]]], clients: int, until: float, rate: float | None
) -> Seen:
    seen = Seen()
    arrivals: asyncio.Queue[float | None] | None = asyncio.Queue() if rate else None
    asked = [_client(n, address, expected, until, seen, arrivals) for n in range(clients)]
    if arrivals is not None and rate:
        asked.append(_arrive(arrivals, rate, until, clients))
    await asyncio.gather(*asked)
    return seen


async def _arrive(arrivals: asyncio.Queue[float | None], rate: float, until: float, clients: int) -> None:
    """Put arrivals in the queue, and at the end None for each client."""
    chance, due, end = random.Random(0), time.perf_counter(), time.perf_counter() + until - time.time()
    while (due := due + chance.expovariate(rate)) < end:
        await asyncio.sleep(due - time.perf_counter())
        arrivals.put_nowait(due)
    for _ in range(clients):
        arrivals.put_nowait(None)


async def _client(
    number: int,
    address: str,
    expected: dict[Pair, dict[str, list[float]]],
    until: float,
    seen: Seen,
    arrivals: asyncio.Queue[float | None] | None,
) -> None:
    chance, where = random.Random(number), urlparse(address)
    queries = list(next(iter(expected.values())))
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        while True:
            arrived = await arrivals.get() if arrivals else time.perf_counter() if time.time() < until else None
            if arrived is None:
                break
            query = chance.choice(queries)
            writer.write(f"GET /search?k=10&q={quote(query)} HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(head.partition("content-length:")[2].split("\r\n")[0])
            body = await reader.readexactly(length)
            if head.startswith("http/1.1 503") and "\r\nretry-after:" in head:
                seen.shed += 1
                continue
            seen.seconds.append(time.perf_counter() - arrived)
            if problem := _problem(head, body, query, expected, seen):
                _fail(seen, problem)
    except (OSError, asyncio.IncompleteReadError) as error:
        _fail(seen, f"client {number}: {type(error).__name__}: {error}")
    finally:
        writer.close()


def _problem(
    head: str, body: bytes, query: str, expected: dict[Pair, dict[str, list[float]]], seen: Seen
) -> str | None:
    if not head.startswith("http/1.1 200"):
        return f"{head.splitlines()[0]}: {body[:200]!r}"
    answer = json.loads(body)
    pair = (answer["version"], answer["model_digest"], answer["index_digest"])
    if pair not in expected:
        return f"an answer of a pair that there is not: {pair}"
    seen.answers_of[pair] = seen.answers_of.get(pair, 0) + 1
    scores, wanted = [hit["score"] for hit in answer["hits"]], expected[pair][query]
    if len(scores) != len(wanted) or any(abs(a - b) > 1e-4 for a, b in zip(scores, wanted, strict=True)):
        return f"{query!r}: {pair} says {scores}, alone it says {wanted}"
    return None


def _fail(seen: Seen, problem: str) -> None:
    if len(seen.failures) < 100:
        seen.failures.append(problem)
