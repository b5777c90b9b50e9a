"""The HTTP interface: a JSON API described by `/openapi.json`, a page, health, metrics; the same for a server and for a front.

Requests are parsed and written in one event loop, which waits for nothing: what takes long is done in threads (`bounded_work.py`).
"""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from smar_model.errors import InputError
from smar_model.serving.answer_log import AnswerLog
from smar_model.serving.api_schemas import (
    ENCODE_BODY,
    QUESTION_BODY,
    QUESTION_PARAMETERS,
    BatchAnswer,
    BatchQuestion,
    EncodeAnswer,
    EncodeQuestion,
    PictureName,
    ReadyAnswer,
    SearchAnswer,
    SentEncodeQuestion,
    SentQuestion,
    VersionsAnswer,
    one_question,
)
from smar_model.serving.bounded_work import MAXIMUM_ANSWER, Budget, in_thread
from smar_model.serving.event_item_ids import HeldIds
from smar_model.serving.events import answer_events
from smar_model.serving.metrics import Metrics
from smar_model.serving.middleware import HeadRequests, MeasuredRequests, PiecewiseAnswers

PICTURE_TYPE = "image/jpeg"
MAXIMUM_DETAIL = 1_000
"""Characters of what is wrong with a request."""
MAXIMUM_TELLING = 16
"""Requests that wait for metrics."""
SWITCH_SECONDS = 0.0005
"""How long one thread may keep Python to itself. While a pair is opened, which is much Python, a search asks for it back dozens of times."""


class Service(Protocol):
    """What stands behind the interface: a registry's champion, or the parts of an index."""

    description: str

    def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def search(self, question: BatchQuestion, *, batch: bool) -> Response:
        """JSON of a `BatchAnswer`, or of the only answer."""

    async def encode(self, question: EncodeQuestion) -> Response:
        """JSON of an `EncodeAnswer`."""

    async def versions(self) -> VersionsAnswer: ...

    async def picture(self, name: str) -> bytes:
        """JPEG. Raises HTTPException: there is none, or it cannot be had now."""

    async def ready(self) -> ReadyAnswer: ...


def make_app(
    service: Service,
    metrics: Metrics,
    *,
    answer_log: AnswerLog | None = None,
    catalogue_numbers: Callable[[], Collection[str]] = frozenset,
    held_ids: Callable[[], Sequence[HeldIds]] = tuple,
) -> FastAPI:
    """The application; it starts and stops the service, and the log of its answers, with itself.

    Args:
        catalogue_numbers: no mask takes these from the queries of events.
        held_ids: what the pairs that are open say of the items of events.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sys.setswitchinterval(SWITCH_SECONDS)
        # What was imported stays: to look through it for garbage takes a third of a second, in which nobody is answered.
        gc.freeze()
        service.start()
        if answer_log:
            answer_log.start()
        yield
        await service.stop()
        if answer_log:
            await asyncio.to_thread(answer_log.close)

    # Its pages of documentation would load scripts from elsewhere; its description would be written anew for each who asks.
    app = FastAPI(
        title="SMAR search",
        version="1",
        description=service.description,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.metrics = metrics
    app.state.draining = False
    app.add_middleware(PiecewiseAnswers)
    app.add_middleware(MeasuredRequests, metrics=metrics)
    app.add_middleware(HeadRequests)
    _answer_searches(app, service)
    answer_events(app, answer_log, catalogue_numbers, held_ids)
    _tell_how_it_is(app, service, metrics, answer_log)

    @app.exception_handler(InputError)
    async def bad_input(request: Request, error: InputError) -> JSONResponse:
        return _unusable(str(error))

    @app.exception_handler(RequestValidationError)
    async def bad_request(request: Request, error: RequestValidationError) -> JSONResponse:
        """Without the input, which may be long, or no text that JSON can hold."""
        return _unusable(
            "; ".join(f"{'.'.join(map(str, e['loc'][1:])) or 'request'}: {e['msg']}" for e in error.errors())
        )

    return app


def _unusable(detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail[:MAXIMUM_DETAIL].encode("utf-8", "replace").decode()}, 422)


def _answer_searches(app: FastAPI, service: Service) -> None:
    @app.get("/search", response_model=SearchAnswer, tags=["search"], openapi_extra=QUESTION_PARAMETERS)
    async def search(request: Request) -> Any:
        """The best items for one query."""
        return await service.search(one_question(request), batch=False)

    @app.post("/search", response_model=BatchAnswer, tags=["search"], openapi_extra=QUESTION_BODY)
    async def search_batch(question: SentQuestion) -> Any:
        """The best items for each of many queries."""
        return await service.search(question, batch=True)

    @app.post("/encode", response_model=EncodeAnswer, tags=["search"], openapi_extra=ENCODE_BODY)
    async def encode(question: SentEncodeQuestion) -> Any:
        """What another engine, which holds the vectors of `smar export`, is asked with for each of many queries."""
        return await service.encode(question)

    @app.get("/versions", tags=["search"])
    async def versions() -> VersionsAnswer:
        """What can be asked, and departments and example queries of the champion."""
        return await service.versions()

    @app.get("/picture", response_class=Response, tags=["search"], responses={200: {"content": {PICTURE_TYPE: {}}}})
    async def picture(name: PictureName) -> Response:
        """A picture of the shop, small, by its name in the catalogue."""
        content = await service.picture(name)  # which browsers may keep
        return Response(content, media_type=PICTURE_TYPE, headers={"Cache-Control": "public, max-age=3600"})

    schema = cache(lambda: json.dumps(app.openapi()).encode())

    @app.get("/openapi.json", include_in_schema=False)
    async def describe() -> Response:
        return Response(schema(), media_type="application/json")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def show_page() -> HTMLResponse:
        page, policy = _page()
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"})


def _tell_how_it_is(app: FastAPI, service: Service, metrics: Metrics, answer_log: AnswerLog | None) -> None:
    # In a thread of its own: writing metrics takes milliseconds, for which no other request should wait.
    telling, to_tell = ThreadPoolExecutor(1, "metrics"), Budget(MAXIMUM_TELLING, "too many ask for metrics; try again")

    @app.get("/healthz", response_class=PlainTextResponse, tags=["operation"])
    async def healthz() -> str:
        """Whether the process lives."""
        return "ok\n"

    @app.get("/readyz", response_model=ReadyAnswer, tags=["operation"], responses={503: {"model": ReadyAnswer}})
    async def readyz() -> JSONResponse:
        """Whether it answers searches (503 before the first champion is open, and before it ends), with which pair, and what is wrong."""
        state = await service.ready()
        if answer_log and (problems := answer_log.problems()):
            state = state.model_copy(update={"problems": [*state.problems, *problems]})
        if app.state.draining:  # no server is ready that has been told to end
            state = state.model_copy(update={"ready": False, "problems": [*state.problems, "it has been told to end"]})
        return JSONResponse(state.model_dump(), 200 if state.ready else 503)

    @app.get("/metrics", response_class=PlainTextResponse, tags=["operation"])
    async def metrics_text() -> Response:
        """For Prometheus."""
        text = await in_thread(telling, to_tell, generate_latest, metrics.shown)
        return Response(text, media_type=CONTENT_TYPE_LATEST)


def write_answers(answers: Iterable[SearchAnswer], started: float, *, batch: bool) -> bytes:
    """JSON of a `BatchAnswer`, or of the only answer. Each answer is made, written and forgotten before the next.

    Raises:
        InputError: it is longer than an answer may be.
    """
    written, size = [], 0
    for answer in answers:
        written.append(answer.model_dump_json().encode())
        size += len(written[-1])
        if size > MAXIMUM_ANSWER:
            raise InputError(f"an answer of more than {MAXIMUM_ANSWER:,} bytes; ask for fewer queries or a smaller k")
    if not batch:
        return written[0]
    milliseconds = 1_000 * (time.perf_counter() - started)
    return b'{"answers":[%b],"milliseconds":%b}' % (b",".join(written), str(milliseconds).encode())


@cache
def _page() -> tuple[str, str]:
    """The page, and the policy that lets a browser run its own script and style and nothing else."""
    page = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    digests = {}
    for element in ("script", "style"):
        content = re.search(f"<{element}>(.*?)</{element}>", page, re.S)
        assert content
        digests[element] = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digests['script']}'; style-src 'sha256-{digests['style']}'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )
    return page, policy
