"""What the servers of a part answer to a front: as it comes, from the one of them that answers."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from itertools import count
from typing import Any, NoReturn, TypeVar

import httpx
from fastapi import HTTPException
from pydantic import BaseModel, ValidationError

from smar_model.serving.bounded_work import BUSY, MAXIMUM_ANSWER
from smar_model.serving.http_interface import MAXIMUM_DETAIL

log = logging.getLogger("smar.serving")

Model = TypeVar("Model", bound=BaseModel)

PART_SECONDS = 20.0
"""For the whole answer of a part, by whichever of its servers."""
REPLICA_SECONDS = 5.0
"""For that of a server, where there are others left to ask."""
AVOIDED_SECONDS = 5.0
"""How long a server that did not answer is asked only after the others."""
MAXIMUM_PART_ANSWER = MAXIMUM_ANSWER + 1_000_000
"""Bytes."""


class Refused(HTTPException):
    """A part's own refusal of a request, which is passed on."""


@dataclass(frozen=True, slots=True)
class PartAnswer:
    """What came from a part's address."""

    address: str
    status: int
    content_type: str
    content: bytes

    def as_a(self, kind: type[Model]) -> Model:
        """The answer as JSON of a kind.

        Raises:
            HTTPException: 502, it is none.
        """
        try:
            return kind.model_validate_json(self.content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the answer"
            self.refuse(f"is no {kind.__name__} ({where}: {first['msg']})")

    def refusal(self) -> Refused:
        """A part's own words for what it does not answer.

        Raises:
            HTTPException: 502, what came is no refusal of a part.
        """
        if not 400 <= self.status < 600 or self.status == 500:
            self.refuse("is none of a part")
        try:
            detail = " ".join(_Refusal.model_validate_json(self.content).detail.split())
        except ValidationError:
            self.refuse("is none of a part")
        return Refused(self.status, detail[:MAXIMUM_DETAIL], headers=BUSY if self.status in {429, 503} else None)

    def refuse(self, why: str) -> NoReturn:
        kind = self.content_type.partition(";")[0][:50] or "no type"
        not_answered(
            502,
            self.address,
            f"what it answers (status {self.status}, {kind}, {len(self.content):,} bytes) {why}"[:500],
        )


class _Refusal(BaseModel):
    detail: str


def not_answered(status: int, address: str, why: str) -> NoReturn:
    log.error("%s: %s", address, why)
    raise HTTPException(status, f"{address}: {why}", headers=BUSY)


class Replicas:
    """The servers that hold one part, in turn. One that does not answer, or says that it cannot now, is passed over for another: searches
    change nothing, so that any of them may be asked again."""

    def __init__(self, addresses: str) -> None:
        """
        Args:
            addresses: one, or several with commas between.
        """
        self.addresses = [address.strip().rstrip("/") for address in addresses.split(",")]
        self._turn = count()
        self._failed = dict[str, float]()

    async def ask(self, client: httpx.AsyncClient, method: str, path: str, **options: Any) -> PartAnswer:
        """The first answer that is no 5xx; where all servers give one, the last.

        Raises:
            HTTPException: none answers: 503, the last one not in time; 502, it answers more than a part would, or no HTTP.
        """
        deadline = time.monotonic() + PART_SECONDS
        order = self._order()
        for left, address in zip(range(len(order) - 1, -1, -1), order, strict=True):
            seconds = max(0.1, deadline - time.monotonic())
            try:
                answer = await _fetch(
                    client, method, address, path, min(seconds, REPLICA_SECONDS) if left else seconds, **options
                )
            except HTTPException:
                self._failed[address] = time.monotonic()
                if not left:
                    raise
                continue
            if answer.status < 500 or not left:
                return answer
            self._failed[address] = time.monotonic()
        raise AssertionError("a part has a server")

    def _order(self) -> list[str]:
        """Each first in its turn, but for those that have just failed."""
        first, now = next(self._turn) % len(self.addresses), time.monotonic()
        turned = [*self.addresses[first:], *self.addresses[:first]]
        return sorted(turned, key=lambda address: now - self._failed.get(address, -AVOIDED_SECONDS) < AVOIDED_SECONDS)


async def _fetch(
    client: httpx.AsyncClient, method: str, address: str, path: str, seconds: float, **options: Any
) -> PartAnswer:
    content = bytearray()
    try:
        async with (
            asyncio.timeout(seconds),
            client.stream(method, f"{address}/{path}", follow_redirects=False, **options) as answer,
        ):
            async for piece in answer.aiter_bytes():
                content += piece
                if len(content) > MAXIMUM_PART_ANSWER:
                    not_answered(502, address, f"answers more than {MAXIMUM_PART_ANSWER:,} bytes")
            return PartAnswer(address, answer.status_code, answer.headers.get("content-type", ""), bytes(content))
    except TimeoutError:
        not_answered(503, address, f"does not answer within {seconds:.0f} s")
    except (httpx.RemoteProtocolError, httpx.DecodingError) as error:
        not_answered(502, address, f"does not answer ({type(error).__name__}: {error})"[:300])
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        not_answered(503, address, f"does not answer ({type(error).__name__})")
