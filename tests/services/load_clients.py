"""Clients that ask a server one query after another, each over a connection of its own, and check every answer."""

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
    """From sending a request to having all of its answer."""
    answers_of: dict[Pair, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    """The first hundred: another status than 200, a broken connection, or an answer that no one pair gives."""


def run_clients(address: str, expected: dict[Pair, dict[str, list[float]]], *, clients: int, until: float) -> Seen:
    """Ask until that time (`time.time()`).

    Args:
        expected: pair → query → scores of its hits, which every answer of that pair must have.
    """
    return uvloop.run(_run(address, expected, clients, until))


async def _run(address: str, expected: dict[Pair, dict[str, list[float]]], clients: int, until: float) -> Seen:
    seen = Seen()
    await asyncio.gather(*(_client(n, address, expected, until, seen) for n in range(clients)))
    return seen


async def _client(
    number: int, address: str, expected: dict[Pair, dict[str, list[float]]], until: float, seen: Seen
) -> None:
    chance, where = random.Random(number), urlparse(address)
    queries = list(next(iter(expected.values())))
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        while time.time() < until:
            query = chance.choice(queries)
            started = time.perf_counter()
            writer.write(f"GET /search?k=10&q={quote(query)} HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(head.partition("content-length:")[2].split("\r\n")[0])
            body = await reader.readexactly(length)
            seen.seconds.append(time.perf_counter() - started)
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
