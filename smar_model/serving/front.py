"""`smar serve --front`: one address for servers that hold a part of the index each (`smar serve --part`).

A request goes to all parts at once; the best of what they find are the best. While releases change, parts may for a moment answer
with different pairs of model and index: then all are asked again, so that no answer is mixed. The front itself holds no model and
follows no registry.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse

from smar_model.serving.app import (
    BatchAnswer,
    BatchQuestion,
    DepartmentSize,
    HitAnswer,
    OneQuestion,
    ReadyAnswer,
    SearchAnswer,
    VersionsAnswer,
    new_app,
)
from smar_model.serving.metrics import Metrics

log = logging.getLogger("smar.serving")

AGREE_SECONDS = 10.0
"""Parts follow the registry every two seconds, by default; after so many without agreement something is wrong."""
PAUSE_SECONDS = 0.1
ANSWER_SECONDS = 30.0


class Refused(Exception):
    """A part's own refusal of a request, to be passed on."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class Parts:
    """The servers behind a front."""

    def __init__(self, addresses: Sequence[str], client: httpx.AsyncClient | None = None) -> None:
        self.addresses = [address.rstrip("/") for address in addresses]
        self.client = client or httpx.AsyncClient(timeout=ANSWER_SECONDS, limits=httpx.Limits(max_connections=None))

    async def ask(self, method: str, path: str, *, refusal: int | None = None, **options: Any) -> list[dict[str, Any]]:
        """Answers of all parts, in their order; without those that refuse with the status `refusal`, unless all do.

        Raises:
            Refused: one of them does, with another status, or all of them.
            HTTPException: one of them does not answer.
        """
        answers = await asyncio.gather(
            *(self.client.request(method, f"{address}/{path}", **options) for address in self.addresses),
            return_exceptions=True,
        )
        found, refused = [], []
        for address, answer in zip(self.addresses, answers, strict=True):
            if isinstance(answer, BaseException):
                log.error("%s: %s: %s", address, type(answer).__name__, answer)
                raise HTTPException(503, f"{address}: does not answer ({type(answer).__name__})")
            if answer.status_code == 200:
                found.append(answer.json())
            else:
                refused.append(Refused(answer.status_code, str(answer.json().get("detail"))))
        if refused and (not found or any(each.status != refusal for each in refused)):
            raise refused[0]
        return found

    async def search(self, question: BatchQuestion) -> BatchAnswer:
        """What one server with the whole index would answer.

        Raises:
            Refused: as `ask`.
            HTTPException: likewise, or the parts do not come to serve the same pair.
        """
        started, deadline = time.perf_counter(), time.monotonic() + AGREE_SECONDS
        body = question.model_dump(mode="json")
        while True:
            # A department may have no item in some of the parts.
            given = await self.ask("POST", "search", json=body, refusal=422 if question.departments else None)
            answers = [BatchAnswer.model_validate(one).answers for one in given]
            pairs = {(one.version, one.model_digest, one.index_digest) for each in answers for one in each}
            if len(pairs) == 1:
                break
            if time.monotonic() > deadline:
                served = ", ".join(sorted(f"version {v} with index {str(index)[:12]}" for v, _, index in pairs))
                raise HTTPException(503, f"the parts do not serve the same: {served}")
            await asyncio.sleep(PAUSE_SECONDS)
        merged = [merge(of_query, question.k) for of_query in zip(*answers, strict=True)]
        return BatchAnswer(answers=merged, milliseconds=1_000 * (time.perf_counter() - started))


def merge(answers: Sequence[SearchAnswer], k: int) -> SearchAnswer:
    """The k best hits of all parts: by score, then by item id, as one index orders them."""
    hits = sorted((hit for answer in answers for hit in answer.hits), key=lambda hit: (-hit.score, hit.item_id))
    ranked = [HitAnswer(**hit.model_dump() | {"rank": rank}) for rank, hit in enumerate(hits[:k], start=1)]
    return answers[0].model_copy(update={"hits": ranked})


def create_front(addresses: Sequence[str], client: httpx.AsyncClient | None = None) -> FastAPI:
    """The application. It answers what `create_app` does, under the same paths.

    Args:
        addresses: of the parts, all of one index.
        client: by which they are asked; None: one of its own.
    """
    parts, metrics = Parts(addresses, client), Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await parts.client.aclose()

    app = new_app("Text queries to a shop's items, answered by the parts of an index.", metrics, lifespan)

    @app.get("/search", response_model=SearchAnswer, tags=["search"])
    async def search(question: OneQuestion) -> Any:
        """The best items for one query."""
        return (await parts.search(question)).answers[0]

    @app.post("/search", response_model=BatchAnswer, tags=["search"])
    async def search_batch(question: BatchQuestion) -> Any:
        """The best items for each of many queries."""
        return await parts.search(question)

    @app.get("/versions", response_model=VersionsAnswer, tags=["search"])
    async def versions() -> Any:
        """What can be asked, as the first part says, and departments of all."""
        given = [VersionsAnswer.model_validate(one) for one in await parts.ask("GET", "versions")]
        sizes: dict[str, int] = {}
        for department in (department for each in given for department in each.departments):
            sizes[department.name] = sizes.get(department.name, 0) + department.items
        ordered = sorted(sizes.items(), key=lambda size: (-size[1], size[0]))
        departments = [DepartmentSize(name=name, items=items) for name, items in ordered]
        return given[0].model_copy(update={"departments": departments})

    @app.get("/picture", response_class=Response, tags=["search"], responses={200: {"content": {"image/jpeg": {}}}})
    async def picture(name: Annotated[str, Query(min_length=1, max_length=4_096)]) -> Response:
        """A picture of the shop, by way of the first part."""
        answer = await parts.client.get(f"{parts.addresses[0]}/picture", params={"name": name})
        kept = {key: answer.headers[key] for key in ("content-type", "cache-control") if key in answer.headers}
        return Response(answer.content, answer.status_code, headers=kept)

    @app.get("/readyz", response_model=ReadyAnswer, tags=["operation"], responses={503: {"model": ReadyAnswer}})
    async def readyz() -> Any:
        """Whether all parts are ready with the same pair."""
        try:
            given = [ReadyAnswer.model_validate(one) for one in await parts.ask("GET", "readyz")]
        except (Refused, HTTPException) as error:
            nothing = dict.fromkeys(("version", "model_digest", "index_digest"))
            problem = {"ready": False, "is_champion": False, "problems": [str(error.detail)]}
            return JSONResponse(nothing | problem, 503)
        agree = len({(one.version, one.model_digest, one.index_digest) for one in given}) == 1
        problems = [problem for one in given for problem in one.problems]
        problems += [] if agree else ["the parts do not serve the same"]
        champion = all(one.is_champion for one in given)
        ready = given[0].model_copy(update={"ready": agree, "is_champion": champion, "problems": problems})
        return JSONResponse(ready.model_dump(), 200 if agree else 503)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"detail": error.detail}, error.status)

    return app
