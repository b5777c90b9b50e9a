"""`smar serve`: searches by the model version that is the champion, or by another one that is asked for.

Searches run in as many threads as there are cores, each computing with one thread of its own. FAISS and ONNX Runtime let go of Python's lock while
they compute, so that many clients share the cores in the order they came, and a search is never slowed down by more threads than there are cores.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import quote

import faiss
from fastapi import FastAPI, HTTPException, Response
from prometheus_client import CollectorRegistry

from smar_model.delivery.picture_stores import UnusablePicture
from smar_model.errors import InputError
from smar_model.serving.answer_log import AnswerLog
from smar_model.serving.api_schemas import (
    CHALLENGER,
    CHAMPION,
    TEXT_ONLY,
    BatchQuestion,
    DepartmentSize,
    EncodeQuestion,
    HitAnswer,
    KnownFilters,
    ListedVersion,
    ReadyAnswer,
    SearchAnswer,
    VersionsAnswer,
)
from smar_model.serving.bounded_work import BUSY, Budget, Joint, SearchThreads, in_thread, own_cores
from smar_model.serving.encoded_queries import encode_and_write
from smar_model.serving.event_item_ids import HeldIds
from smar_model.serving.follower import Follower, NotServed
from smar_model.serving.http_interface import make_app, write_answers
from smar_model.serving.interleaving import Interleaving
from smar_model.serving.metrics import Metrics
from smar_model.serving.pictures import SmallPictures
from smar_model.serving.searched_lists import Found, SearchedLists, find_together
from smar_model.serving.served_pair import ServedPair
from smar_model.serving.stock_follower import StockFollower
from smar_model.settings import Settings

MAXIMUM_OPENING = 8
"""Requests that wait for a version to be opened."""
MAXIMUM_DRAWING = 256
"""Requests that wait for a picture."""


def create_app(
    settings: Settings,
    *,
    poll_seconds: float = 2.0,
    others_kept: int = 3,
    part: int | None = None,
    answer_log: Callable[[CollectorRegistry], AnswerLog] | None = None,
    interleave: tuple[str, str] | None = None,
    share: float = 0.1,
    processes: int = 1,
) -> FastAPI:
    """The application, which follows the registry from its start to its shutdown.

    Args:
        others_kept: versions besides the champion that are kept in memory once they were asked for.
        part: number of the part of each index that is opened, from 0; None: all of it.
        answer_log: makes the log of what is answered, given where its metrics go; None: none is kept.
        interleave: names of two versions whose lists are interleaved for this share of the users.
        processes: that share the machine's cores.

    Raises:
        InputError: the log has no place, or both versions would not be kept in memory.
    """
    metrics = Metrics()
    follower = Follower(
        settings=settings,
        metrics=metrics,
        poll_seconds=poll_seconds,
        others_kept=others_kept,
        part=part,
        takes_events=answer_log is not None,
    )
    kept = answer_log(metrics.registry) if answer_log else None
    interleaving = Interleaving(interleave, share, follower, metrics.registry) if interleave else None

    def numbers() -> Collection[str]:
        return follower.champion.searcher.encoder.catalogue_numbers if follower.champion else frozenset()

    stock = StockFollower(settings, metrics, follower.open_pairs, poll_seconds=poll_seconds)
    follower.on_open = stock.apply
    service = _Releases(settings, follower, stock, metrics, kept, interleaving, cores=own_cores(processes))

    def held_ids() -> list[HeldIds]:
        pairs = follower.open_pairs()
        return [HeldIds(pair.searcher.encoder.catalogue_numbers, pair.masked_ids) for pair in pairs]

    app = make_app(service, metrics, answer_log=kept, catalogue_numbers=numbers, held_ids=held_ids)
    app.state.follower, app.state.stock = follower, stock
    return app


class _Releases:
    """Answers by what a follower has opened."""

    description = "Text queries to a shop's items, by the model version that is the champion."

    def __init__(
        self,
        settings: Settings,
        follower: Follower,
        stock: StockFollower,
        metrics: Metrics,
        answer_log: AnswerLog | None,
        interleaving: Interleaving | None,
        *,
        cores: int,
    ) -> None:
        self._log, self._interleaving = answer_log, interleaving
        self._follower, self._stock, self._pictures = follower, stock, SmallPictures(settings)
        self._searching = SearchThreads(cores, metrics, initializer=_compute_alone)
        self._opening, self._drawing = ThreadPoolExecutor(1, "open"), ThreadPoolExecutor(cores, "picture")
        self._to_open = Budget(MAXIMUM_OPENING, "other versions are being opened; try again")
        self._to_draw = Budget(MAXIMUM_DRAWING, "too many pictures at once; try again")

    def start(self) -> None:
        self._follower.start()
        self._stock.start()

    async def stop(self) -> None:
        self._follower.stop()
        self._stock.stop()
        self._searching.close()
        if self._interleaving:
            self._interleaving.stop()
        for pool in (self._opening, self._drawing):
            pool.shutdown(wait=False, cancel_futures=True)
        self._pictures.close()

    async def search(self, question: BatchQuestion, *, batch: bool) -> Response:
        pair = await self._pair_named(question.version)
        searched = SearchedLists(question, pair, self._interleaving)
        work = Joint(searched.kind, (searched, batch), search_together)
        answer = await self._searching.answer(question, lambda run: run(work), parts=searched.parts)
        searched.count()
        if self._log and question.log:
            self._log.offer(searched.shown)
        return answer

    async def encode(self, question: EncodeQuestion) -> Response:
        pair = await self._pair_named(question.version)
        return await self._searching.answer(question, lambda run: run(lambda: encode_and_write(pair, question)))

    async def _pair_named(self, name: str) -> ServedPair:
        follower = self._follower
        try:
            pointer = follower.resolved(name)
            if pair := follower.opened(pointer):
                return pair
            return await in_thread(self._opening, self._to_open, follower.open, pointer)
        except NotServed as error:
            known = name in {CHAMPION, CHALLENGER, TEXT_ONLY} or (follower.view and name in follower.view.versions)
            raise HTTPException(503 if known else 404, str(error)) from None

    async def versions(self) -> VersionsAnswer:
        pair, view, missing = self._follower.champion, self._follower.view, self._follower.text_only_missing
        sizes = pair.searcher.department_sizes if pair else {}
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
            departments=[DepartmentSize(name=name, items=items) for name, items in sizes.items()],
            examples=self._follower.examples,
            filters=await asyncio.to_thread(_known_filters, pair) if pair else KnownFilters(),
            registry_seen_at=view.seen_at if view else None,
        )

    async def picture(self, name: str) -> bytes:
        drawn = await in_thread(self._drawing, self._to_draw, self._pictures.small, name)
        if isinstance(drawn, UnusablePicture):
            raise HTTPException(404, f"{drawn.reason}: {drawn.detail}")
        if isinstance(drawn, InputError):
            raise HTTPException(503, str(drawn), headers=BUSY)
        return drawn

    async def ready(self) -> ReadyAnswer:
        state, problems = self._follower.ready(), []
        if self._interleaving and state.ready:
            problems.append(self._interleaving.problem())
        problems.append(self._stock.problem)
        told = [*state.problems, *(problem for problem in problems if problem)]
        return state.model_copy(update={"stock": self._stock.state(), "problems": told})


def _compute_alone() -> None:
    """The library counts its threads for each thread that calls it."""
    faiss.omp_set_num_threads(1)


def search_together(asked: Sequence[tuple[SearchedLists, bool]]) -> list[bytes | Exception]:
    """JSON for each question with whether it is a batch, all of one kind."""
    started = time.perf_counter()
    found: list[Found] | list[None] = [None] * len(asked)
    if len(asked) > 1:
        with suppress(Exception):  # then each finds by itself, so that none is told what is wrong with another
            found = find_together([searched for searched, _ in asked])
    done: list[bytes | Exception] = []
    for (searched, batch), own in zip(asked, found, strict=True):
        try:
            done.append(_search_and_write(searched, own, started, batch=batch))
        except Exception as error:
            done.append(error)
    return done


def _search_and_write(searched: SearchedLists, found: Found | None, started: float, *, batch: bool) -> bytes:
    """`found`: what was found for it together with others since `started`; None: it is still to be searched for."""
    answers = (
        SearchAnswer(
            request_id=one.request_id,
            query=one.query,
            p=one.p,
            version=one.version,
            model_digest=one.model_digest,
            index_digest=one.index_digest,
            hits=[
                HitAnswer(
                    rank=rank,
                    item_id=hit.item_id,
                    title=hit.title,
                    department=hit.department,
                    score=hit.score,
                    pictures=[f"picture?name={quote(name, safe='')}" for name in hit.images],
                    price=hit.offer.price,
                    currency=hit.offer.currency,
                    available=hit.offer.available,
                )
                for rank, hit in enumerate(one.hits, start=1)
            ],
        )
        for one in searched.search(found)
    )
    return write_answers(answers, started, batch=batch)


def _known_filters(pair: ServedPair) -> KnownFilters:
    known = pair.searcher.filters
    return KnownFilters(prices=known.has_prices, stock=known.has_stock, attributes=known.attribute_examples)


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
