"""`smar serve --front`: one address for servers that hold a part of the index each (`smar serve --part`).

A request goes to all parts at once; the best of what they find are the best. While releases change, parts may for a moment answer
with different pairs of model and index: then all are asked again, so that no answer is mixed. A part may be held by several servers
(`part_answers.py`): where one does not answer the next is asked. The front itself holds no model and follows no registry. What stands between it and a part, a balancer for one, may answer anything: what is no answer of a part is named, 502.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import httpx
from fastapi import FastAPI, HTTPException, Response
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from smar_model.serving.answer_log import AnswerLog
from smar_model.serving.api_schemas import (
    BatchAnswer,
    BatchQuestion,
    DepartmentSize,
    EncodeAnswer,
    EncodeQuestion,
    HitAnswer,
    KnownFilters,
    ReadyAnswer,
    SearchAnswer,
    VersionsAnswer,
)
from smar_model.serving.bounded_work import BUSY, Run, SearchThreads, own_cores
from smar_model.serving.http_interface import PICTURE_TYPE, make_app, write_answers
from smar_model.serving.log_rows import Place, ShownList, new_request_id
from smar_model.serving.metrics import Metrics
from smar_model.serving.part_answers import PART_SECONDS, PartAnswer, Refused, Replicas

log = logging.getLogger("smar.serving")

Model = TypeVar("Model", bound=BaseModel)

AGREE_SECONDS = 10.0
"""Parts follow the registry every two seconds, by default; after so many without agreement something is wrong."""
PAUSE_SECONDS = 0.1


class NotTheSame(Exception):
    """Parts answer with different pairs of model and index: which."""


class Parts:
    """The servers behind a front."""

    description = "Text queries to a shop's items, answered by the parts of an index."

    def __init__(
        self,
        addresses: Sequence[str],
        metrics: Metrics,
        client: httpx.AsyncClient | None = None,
        answer_log: AnswerLog | None = None,
        *,
        cores: int,
    ) -> None:
        self.log = answer_log
        self.replicas = {address: Replicas(address) for address in addresses}
        self.client = client or httpx.AsyncClient(timeout=PART_SECONDS, limits=httpx.Limits(max_connections=None))
        self.merging = SearchThreads(cores, metrics)

    def start(self) -> None:
        """It follows nothing."""

    async def stop(self) -> None:
        self.merging.close()
        await self.client.aclose()

    async def fetch(self, method: str, address: str, path: str, **options: Any) -> PartAnswer:
        """What one part answers, whatever it is: as `Replicas.ask` has it."""
        return await self.replicas[address].ask(self.client, method, path, **options)

    async def ask(self, method: str, path: str, *, refusal: int | None = None, **options: Any) -> list[PartAnswer]:
        """Answers of all parts, in their order; without those that refuse with the status `refusal`, unless all do.

        Raises:
            Refused: one of them does, with another status, or all of them.
            HTTPException: one of them does not answer, or something else does in its place.
        """
        asked = (self.fetch(method, address, path, **options) for address in self.replicas)
        answers: list[PartAnswer] = []
        refused: list[Refused] = []
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer
            if answer.status == 200:
                answers.append(answer)
            else:
                refused.append(answer.refusal())
        if refused and (not answers or any(each.status_code != refusal for each in refused)):
            raise refused[0]
        return answers

    async def search(self, question: BatchQuestion, *, batch: bool) -> Response:
        merged: list[SearchAnswer] = []
        answer = await self.merging.answer(
            question, lambda run: self._search(question, run, merged, batch=batch), parts=len(self.replicas)
        )
        if self.log and question.log:
            self.log.offer([_shown(question, each) for each in merged])
        return answer

    async def _search(self, question: BatchQuestion, run: Run, merged: list[SearchAnswer], *, batch: bool) -> bytes:
        """JSON of what one server with the whole index would answer.

        Args:
            run: runs work in a thread; answers of parts are large.
            merged: gets what is answered.

        Raises:
            Refused: as `ask`.
            HTTPException: likewise, or the parts do not come to serve the same pair.
        """
        started, deadline = time.perf_counter(), time.monotonic() + AGREE_SECONDS
        body = question.model_dump(mode="json", exclude={"user", "session", "log"})
        while True:
            # A department, or an attribute, may have no item in some of the parts.
            may_refuse = question.departments or question.filters
            answers = await self.ask("POST", "search", json=body, refusal=422 if may_refuse else None)
            try:
                return await run(partial(_merge_and_write, answers, question, started, merged, batch=batch))
            except NotTheSame as error:
                if time.monotonic() > deadline:
                    raise HTTPException(503, f"the parts do not serve the same: {error}"[:500], headers=BUSY) from None
            await asyncio.sleep(PAUSE_SECONDS)

    async def encode(self, question: EncodeQuestion) -> Response:
        """By the first part that answers: each has the whole model."""
        return await self.merging.answer(question, lambda run: self._encode(question, run))

    async def _encode(self, question: EncodeQuestion, run: Run) -> bytes:
        failure: HTTPException | None = None
        for address in self.replicas:
            try:
                answer = await self.fetch("POST", address, "encode", json=question.model_dump(mode="json"))
                if answer.status == 200:
                    return await run(partial(_checked_encoding, answer, question))
                refusal: HTTPException = answer.refusal()
            except HTTPException as error:
                refusal = error
            if refusal.status_code < 500:
                raise refusal
            failure = failure or refusal
        assert failure is not None, "a front has parts"
        raise failure

    async def versions(self) -> VersionsAnswer:
        """What can be asked, as the first part says, and departments of all."""
        given = [one.as_a(VersionsAnswer) for one in await self.ask("GET", "versions")]
        sizes = Counter[str]()
        for department in (department for each in given for department in each.departments):
            sizes[department.name] += department.items
        ordered = sorted(sizes.items(), key=lambda size: (-size[1], size[0]))
        departments = [DepartmentSize(name=name, items=items) for name, items in ordered]
        attributes: dict[str, str] = {}
        for each in given:
            attributes = each.filters.attributes | attributes
        filters = KnownFilters(
            prices=any(each.filters.prices for each in given),
            stock=any(each.filters.stock for each in given),
            attributes=attributes,
        )
        return given[0].model_copy(update={"departments": departments, "filters": filters})

    async def picture(self, name: str) -> bytes:
        """By way of the first part."""
        answer = await self.fetch("GET", next(iter(self.replicas)), "picture", params={"name": name})
        if answer.status != 200:
            raise answer.refusal()
        if answer.content_type != PICTURE_TYPE or not answer.content:
            answer.refuse("is no picture")
        return answer.content

    async def ready(self) -> ReadyAnswer:
        """Whether all parts are ready with the same pair."""
        asked = (self.fetch("GET", address, "readyz") for address in self.replicas)
        states, problems = [], []
        for address, answer in zip(self.replicas, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            try:
                if isinstance(answer, BaseException):
                    raise answer
                if answer.status not in {200, 503}:
                    raise answer.refusal()
                states.append(answer.as_a(ReadyAnswer))
                problems += [f"{address}: {problem}" for problem in states[-1].problems]
            except HTTPException as error:
                problems.append(error.detail)
        whole = len(states) == len(self.replicas) and all(one.ready for one in states)
        agree = len({(one.version, one.model_digest, one.index_digest) for one in states}) == 1
        if whole and not agree:
            problems.append("the parts do not serve the same")
        if not whole or not agree:
            nothing = dict.fromkeys(("version", "model_digest", "index_digest"))
            return ReadyAnswer(ready=False, is_champion=False, problems=problems, **nothing)
        champion = all(one.is_champion for one in states)
        return states[0].model_copy(update={"is_champion": champion, "problems": problems})


def _checked_encoding(given: PartAnswer, question: EncodeQuestion) -> bytes:
    answer = given.as_a(EncodeAnswer)
    if [each.query for each in answer.answers] != question.queries:
        given.refuse("is to other queries than were asked")
    if question.version.isdigit() and answer.version != question.version:
        given.refuse(f"is by version {answer.version}, not by {question.version}")
    return given.content


def _merge_and_write(
    given: Sequence[PartAnswer], question: BatchQuestion, started: float, merged: list[SearchAnswer], *, batch: bool
) -> bytes:
    answers = []
    for one in given:
        answers.append(one.as_a(BatchAnswer).answers)
        if [each.query for each in answers[-1]] != question.queries:
            one.refuse("is to other queries than were asked")
        if (
            others := {each.version for each in answers[-1]} - {question.version}
            if question.version.isdigit()
            else set()
        ):
            one.refuse(f"is by version {others.pop()}, not by {question.version}")
        if not all(math.isfinite(hit.score) for each in answers[-1] for hit in each.hits):
            one.refuse("has scores that are no numbers")
    pairs = {(each.version, each.model_digest, each.index_digest) for of_part in answers for each in of_part}
    if len(pairs) > 1:
        raise NotTheSame(", ".join(sorted(f"version {v} with index {str(index)[:12]}" for v, _, index in pairs)))
    merged[:] = (merge(of_query, question.k) for of_query in zip(*answers, strict=True))
    return write_answers(merged, started, batch=batch)


def merge(answers: Sequence[SearchAnswer], k: int) -> SearchAnswer:
    """The k best hits of all parts: by score, then by item id, as one index orders them."""
    hits = sorted((hit for answer in answers for hit in answer.hits), key=lambda hit: (-hit.score, hit.item_id))
    ranked = [HitAnswer(**hit.model_dump() | {"rank": rank}) for rank, hit in enumerate(hits[:k], start=1)]
    return answers[0].model_copy(update={"hits": ranked, "request_id": new_request_id()})


def _shown(question: BatchQuestion, answer: SearchAnswer) -> ShownList:
    return ShownList(
        request_id=answer.request_id,
        query=answer.query,
        user=question.user,
        session=question.session,
        routing=question.routing,
        places=[Place(hit.item_id, answer.version, None) for hit in answer.hits],
    )


def create_front(
    addresses: Sequence[str],
    client: httpx.AsyncClient | None = None,
    *,
    answer_log: Callable[[CollectorRegistry], AnswerLog] | None = None,
    processes: int = 1,
) -> FastAPI:
    """The application. It answers what `create_app` does, under the same paths.

    Args:
        addresses: of the parts, all of one index; of a part that several servers hold, theirs with commas between.
        client: by which they are asked; None: one of its own.
        answer_log: makes the log of what is answered, given where its metrics go; None: none is kept.
        processes: that share the machine's cores.

    Raises:
        InputError: the log has no place.
    """
    metrics = Metrics()
    kept = answer_log(metrics.registry) if answer_log else None
    return make_app(Parts(addresses, metrics, client, kept, cores=own_cores(processes)), metrics, answer_log=kept)
