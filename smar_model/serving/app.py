"""The HTTP interface: a JSON API described by `/openapi.json`, a page, health, metrics.

Requests are parsed and written in one event loop; searches run in as many threads as there are cores, each computing with one thread of
its own (`bounded_work.py`). FAISS and torch let go of Python's lock while they compute, so that many clients share the cores in the order they came,
and a search is never slowed down by more threads than there are cores. What a request may cost is known, and bounded, before work on it begins.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field, ValidationError
from starlette.requests import ClientDisconnect

from smar_model.delivery.picture_stores import UnusablePicture
from smar_model.errors import InputError
from smar_model.release.registry import CHALLENGER, CHAMPION
from smar_model.retrieval.search import RoutedBy
from smar_model.serving.bounded_work import BUSY, MAXIMUM_ANSWER, Budget, SearchThreads, in_time
from smar_model.serving.follower import Follower, NotServed
from smar_model.serving.metrics import Metrics
from smar_model.serving.middleware import BoundedBodies, HeadRequests, MeasuredRequests, PiecewiseAnswers
from smar_model.serving.pictures import SmallPictures
from smar_model.serving.served_pair import TEXT_ONLY, ServedPair
from smar_model.settings import Settings

MAXIMUM_QUERY = 10_000
"""Characters; the model reads the first few words."""
MAXIMUM_QUERIES = 256
"""Of one batch."""
MAXIMUM_HITS = 1_000
"""A query."""
MAXIMUM_ANSWER_HITS = 12_800
"""Over all queries of a batch: 50 each of the largest."""
MAXIMUM_BODY = 1_000_000
"""Bytes."""
MAXIMUM_NAME = 4_096
"""Characters of a picture's name."""
PICTURE_TYPE = "image/jpeg"
MAXIMUM_DETAIL = 1_000
"""Characters of what is wrong with a request."""
MAXIMUM_OPENING = 8
"""Requests that wait for a version to be opened."""
MAXIMUM_DRAWING = 256
"""Requests that wait for a picture."""
SWITCH_SECONDS = 0.0005
"""How long one thread may keep Python to itself. While a pair is opened, which is much Python, a search asks for it back dozens of times."""

QueryText = Annotated[str, Field(min_length=1, max_length=MAXIMUM_QUERY, description="What a shopper typed")]
HitCount = Annotated[int, Field(ge=1, le=MAXIMUM_HITS, description="Hits a query")]
VersionName = Annotated[
    str,
    Field(
        pattern=rf"^({CHAMPION}|{CHALLENGER}|{TEXT_ONLY}|[0-9]{{1,9}})$",
        description=f"`{CHAMPION}`, `{CHALLENGER}`, `{TEXT_ONLY}` (the baseline of the champion's run) or a version's number",
    ),
]
RoutingName = Annotated[
    RoutedBy | None,
    Field(
        description="How text and pictures are weighed in the place of the model's own way: `text` and `pictures` ask one of both"
    ),
]
Department = Annotated[str, Field(max_length=1_000)]
Departments = Annotated[list[Department], Field(max_length=100, description="Only their items; none: all")]
PictureName = Annotated[str, Query(min_length=1, max_length=MAXIMUM_NAME)]


class HitAnswer(BaseModel):
    rank: int
    item_id: str
    title: str
    department: str
    score: float
    pictures: list[str] = Field(description="URI references, relative to this answer's address, the main one first")


class SearchAnswer(BaseModel):
    query: str
    p: float = Field(description="P(q), 0 to 1: the probability that pictures matter for this query")
    version: str = Field(description=f"Number of the model version that answered, or `{TEXT_ONLY}`")
    model_digest: str = Field(description="Of the model that answered")
    index_digest: str | None = Field(
        description="Of the index that answered, built by that model; null of the text-only baseline"
    )
    hits: list[HitAnswer] = Field(description="Best first")


class BatchQuestion(BaseModel):
    queries: Annotated[list[QueryText], Field(min_length=1, max_length=MAXIMUM_QUERIES)]
    k: HitCount = 10
    departments: Departments = []
    version: VersionName = CHAMPION
    routing: RoutingName = None


async def one_question(
    q: Annotated[QueryText, Query()],
    k: Annotated[HitCount, Query()] = 10,
    department: Annotated[list[Department], Query(max_length=100, description="Repeatable; none: all")] = [],  # noqa: B006
    version: Annotated[VersionName, Query()] = CHAMPION,
    routing: Annotated[RoutingName, Query()] = None,
) -> BatchQuestion:
    """What `GET /search` asks."""
    return _checked(BatchQuestion(queries=[q], k=k, departments=department, version=version, routing=routing))


async def batch_question(request: Request) -> BatchQuestion:
    """What `POST /search` asks. Pydantic reads the JSON itself: a value that is none of the question's is never made."""
    try:
        return _checked(BatchQuestion.model_validate_json(await request.body()))
    except ClientDisconnect:  # nobody is there to be told
        raise HTTPException(400, "the body has not come whole") from None
    except ValidationError as error:
        raise RequestValidationError(
            [e | {"loc": ("body", *e["loc"])} for e in error.errors(include_url=False, include_input=False)]
        ) from None


def _checked(question: BatchQuestion) -> BatchQuestion:
    for number, query in enumerate(question.queries, start=1):
        if not query.strip():
            raise HTTPException(422, f"query {number} is empty")
    hits = len(question.queries) * question.k
    if hits > MAXIMUM_ANSWER_HITS:
        raise HTTPException(
            422,
            f"{len(question.queries)} queries with k = {question.k} are {hits:,} hits, more than {MAXIMUM_ANSWER_HITS:,}",
        )
    return question


OneQuestion = Annotated[BatchQuestion, Depends(one_question)]
SentQuestion = Annotated[BatchQuestion, Depends(batch_question)]
QUESTION_BODY = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": BatchQuestion.model_json_schema()}}}
}
"""For the document: FastAPI does not see what `batch_question` reads."""


class BatchAnswer(BaseModel):
    answers: list[SearchAnswer] = Field(description="One a query, in their order, all from the same version")
    milliseconds: float = Field(description="That the search itself took, waiting not counted")


class ListedVersion(BaseModel):
    name: str = Field(description="What to ask for it by")
    version: str
    date: str | None = Field(description="Last day of its run's click log")
    run: str | None
    index_digest: str | None
    recall_at_50: float | None = Field(description="When it was judged")


class DepartmentSize(BaseModel):
    name: str
    items: int


class VersionsAnswer(BaseModel):
    champion: str | None = Field(
        description="The version that answers; while a new champion is being opened, the one before"
    )
    challenger: str | None
    text_only: str | None = Field(description="Run whose text-only baseline can be asked")
    text_only_missing: str | None = Field(description="Why there is no text-only baseline to ask")
    versions: list[ListedVersion] = Field(description="The newest hundred, newest first")
    departments: list[DepartmentSize] = Field(description="Of the champion's items, the largest first")
    examples: list[str] = Field(description="Queries to try")
    registry_seen_at: float | None = Field(description="When the registry last answered, seconds since 1970")


class ReadyAnswer(BaseModel):
    ready: bool
    version: str | None
    model_digest: str | None
    index_digest: str | None
    is_champion: bool = Field(description="Whether it is what the registry names; else it is the last good release")
    problems: list[str] = Field(description="Why what answers is not what it should be; it answers all the same")


def create_app(
    settings: Settings, *, poll_seconds: float = 2.0, others_kept: int = 3, part: int | None = None
) -> FastAPI:
    """The application, which follows the registry from its start to its shutdown.

    Args:
        others_kept: versions besides the champion that are kept in memory once they were asked for.
        part: number of the part of each index that is opened, from 0; None: all of it.
    """
    metrics = Metrics()
    follower = Follower(
        settings=settings, metrics=metrics, poll_seconds=poll_seconds, others_kept=others_kept, part=part
    )
    pictures = SmallPictures(settings)
    cores = len(os.sched_getaffinity(0))
    searching = SearchThreads(cores, metrics)
    opening, drawing = ThreadPoolExecutor(1, "open"), ThreadPoolExecutor(cores, "picture")
    to_open = Budget(MAXIMUM_OPENING, "other versions are being opened; try again")
    to_draw = Budget(MAXIMUM_DRAWING, "too many pictures at once; try again")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sys.setswitchinterval(SWITCH_SECONDS)
        follower.start()
        yield
        follower.stop()
        searching.close()
        for pool in (opening, drawing):
            pool.shutdown(wait=False, cancel_futures=True)
        pictures.close()

    app = new_app("Text queries to a shop's items, by the model version that is the champion.", metrics, lifespan)
    app.state.follower = follower

    async def pair_named(name: str) -> ServedPair:
        try:
            pointer = follower.resolved(name)
            if pair := follower.opened(pointer):
                return pair
            with to_open.taken(1):
                return await in_time(asyncio.get_running_loop().run_in_executor(opening, follower.open, pointer))
        except NotServed as error:
            known = name in {CHAMPION, CHALLENGER, TEXT_ONLY} or (follower.view and name in follower.view.versions)
            raise HTTPException(503 if known else 404, str(error)) from None

    async def answer(question: BatchQuestion, *, batch: bool) -> Response:
        pair = await pair_named(question.version)
        queries = len(question.queries)
        return await searching.answer(
            lambda run: run(lambda: _search_and_write(pair, question, batch=batch)),
            queries=queries,
            hits=queries * question.k,
        )

    @app.get("/search", response_model=SearchAnswer, tags=["search"])
    async def search(question: OneQuestion) -> Any:
        """The best items for one query."""
        return await answer(question, batch=False)

    @app.post("/search", response_model=BatchAnswer, tags=["search"], openapi_extra=QUESTION_BODY)
    async def search_batch(question: SentQuestion) -> Any:
        """The best items for each of many queries."""
        return await answer(question, batch=True)

    @app.get("/versions", response_model=VersionsAnswer, tags=["search"])
    async def versions() -> Any:
        """What can be asked, and departments and example queries of the champion."""
        return _versions(follower)

    @app.get("/picture", response_class=Response, tags=["search"], responses={200: {"content": {PICTURE_TYPE: {}}}})
    async def picture(name: PictureName) -> Response:
        """A picture of the shop, small, by its name in the catalogue."""
        with to_draw.taken(1):
            drawn = await in_time(asyncio.get_running_loop().run_in_executor(drawing, pictures.small, name))
        if isinstance(drawn, UnusablePicture):
            raise HTTPException(404, f"{drawn.reason}: {drawn.detail}")
        if isinstance(drawn, InputError):
            raise HTTPException(503, str(drawn), headers=BUSY)
        return picture_response(drawn)

    @app.get("/readyz", response_model=ReadyAnswer, tags=["operation"], responses={503: {"model": ReadyAnswer}})
    async def readyz() -> Any:
        """Whether it answers searches (503 before the first champion is open, and before it ends), with which pair, and what is wrong."""
        return ready_answer(app, ReadyAnswer.model_validate(follower.described()))

    @app.exception_handler(InputError)
    async def bad_input(request: Request, error: InputError) -> JSONResponse:
        return _unusable(str(error))

    return app


def picture_response(content: bytes) -> Response:
    """A small picture, which browsers may keep."""
    return Response(content, media_type=PICTURE_TYPE, headers={"Cache-Control": "public, max-age=3600"})


def ready_answer(app: FastAPI, state: ReadyAnswer) -> JSONResponse:
    """For `/readyz`: no server is ready that has been told to end."""
    if app.state.draining:
        state = state.model_copy(update={"ready": False, "problems": [*state.problems, "it has been told to end"]})
    return JSONResponse(state.model_dump(), 200 if state.ready else 503)


def _unusable(detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail[:MAXIMUM_DETAIL].encode("utf-8", "replace").decode()}, 422)


def new_app(
    description: str, metrics: Metrics, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]
) -> FastAPI:
    """An application with what every server here has: bounds, measurements, `/healthz`, `/metrics` and the page."""
    # Its pages of documentation would load scripts from elsewhere.
    app = FastAPI(
        title="SMAR search", version="1", description=description, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.metrics = metrics
    app.state.draining = False
    app.add_middleware(BoundedBodies, maximum=MAXIMUM_BODY)
    app.add_middleware(PiecewiseAnswers)
    app.add_middleware(MeasuredRequests, metrics=metrics)
    app.add_middleware(HeadRequests)

    @app.exception_handler(RequestValidationError)
    async def bad_request(request: Request, error: RequestValidationError) -> JSONResponse:
        """Without the input, which may be long, or no text that JSON can hold."""
        return _unusable(
            "; ".join(f"{'.'.join(map(str, e['loc'][1:])) or 'request'}: {e['msg']}" for e in error.errors())
        )

    @app.get("/healthz", response_class=PlainTextResponse, tags=["operation"])
    async def healthz() -> str:
        """Whether the process lives."""
        return "ok\n"

    @app.get("/metrics", response_class=PlainTextResponse, tags=["operation"])
    def metrics_text() -> Response:  # in a thread: writing them takes milliseconds, for which nobody else should wait
        """For Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return search_page()

    return app


def _search_and_write(pair: ServedPair, question: BatchQuestion, *, batch: bool) -> bytes:
    started = time.perf_counter()
    found, p = pair.searcher.search(
        question.queries, k=question.k, departments=question.departments, routing=question.routing
    )
    answers = (
        SearchAnswer(
            query=query,
            p=float(probability),
            version=pair.version,
            model_digest=pair.model_digest,
            index_digest=pair.index_digest,
            hits=[
                HitAnswer(
                    rank=rank,
                    item_id=hit.item_id,
                    title=hit.title,
                    department=hit.department,
                    score=hit.score,
                    pictures=[f"picture?name={quote(name, safe='')}" for name in hit.images],
                )
                for rank, hit in enumerate(hits, start=1)
            ],
        )
        for query, probability, hits in zip(question.queries, p, found, strict=True)
    )
    return write_answers(answers, started, batch=batch)


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


def _versions(follower: Follower) -> VersionsAnswer:
    pair, view = follower.champion, follower.view
    missing = follower.text_only_missing
    return VersionsAnswer(
        champion=pair.version if pair else None,
        challenger=view.aliases.get(CHALLENGER) if view else None,
        text_only=pair.run if pair and not missing else None,
        text_only_missing=missing,
        versions=[
            ListedVersion(
                name=version,
                version=version,
                date=tags.get("smar.date"),
                run=tags.get("smar.run"),
                index_digest=tags.get("index"),
                recall_at_50=_number(tags.get("smar.recall_at_50")),
            )
            for version, tags in (view.versions if view else {}).items()
        ],
        departments=[
            DepartmentSize(name=name, items=items)
            for name, items in (pair.searcher.department_sizes if pair else {}).items()
        ],
        examples=follower.examples,
        registry_seen_at=view.seen_at if view else None,
    )


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def search_page() -> HTMLResponse:
    page, policy = _page()
    return HTMLResponse(page, headers={"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"})


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
