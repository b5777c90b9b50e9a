"""What searches may take of a server at once: threads, memory for their answers, and time.

Small requests, which are what shoppers send, never wait behind large ones: they have threads of their own, and those that wait and ask alike are
searched for together, as much of a search is Python's and costs no more for many. Where they come faster than they can be
answered, the newest come first and those that have waited are turned away, so that the others are answered in time rather than all too late.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from fastapi import HTTPException, Response
from starlette.types import Receive, Scope, Send

from smar_model.serving.metrics import Metrics

Answer = TypeVar("Answer")
Arguments = ParamSpec("Arguments")
Asked = TypeVar("Asked")

SMALL_QUERIES, SMALL_HITS = 16, 256
"""A request for no more than both is small."""
MAXIMUM_WAITING = 512
"""Small requests that run or wait; more are turned away at once rather than answered too late."""
EMPTIED_SECONDS = 0.5
"""A queue in which nobody waits has been seen within this time, unless requests come faster than they can be answered. Shorter, and a machine that is
held up for a moment would turn away what it can answer."""
LATE_SECONDS = 0.1
"""Then the newest request is answered first, and one that has waited for longer is turned away (adaptive LIFO and controlled delay: Maurer, "Fail at Scale",
ACM Queue 2015): those that are answered are answered in time, rather than all too late."""
MAXIMUM_TOGETHER = 16
"""Requests that are worked on together."""
BYTES_A_HIT = 300
"""Of an answer, about."""
MAXIMUM_ANSWER = 8_000_000
"""Bytes."""
MAXIMUM_LARGE = 48_000_000
"""Bytes of all large answers that are waited for, made or sent."""
ANSWER_SECONDS = 30.0
"""From a request to the beginning of its answer."""
BUSY = {"Retry-After": "1"}
TOO_MANY = "too many searches at once; try again"


Run = Callable[[Callable[[], bytes]], Awaitable[bytes]]


class Weighed(Protocol):
    """What is asked, as far as its cost goes: queries times hits of BYTES_A_HIT."""

    queries: list[str]

    @property
    def k(self) -> int: ...


class Budget:
    """An amount that is taken before it is used, and given back."""

    def __init__(self, maximum: int, full: str) -> None:
        """`full`: what a client is told for which nothing is left."""
        self.maximum, self.full, self.used = maximum, full, 0

    def take(self, amount: int) -> None:
        """Take so much; the first one may have any amount.

        Raises:
            HTTPException: 503, more than is left.
        """
        if self.used and self.used + amount > self.maximum:
            raise HTTPException(503, self.full, headers=BUSY)
        self.used += amount

    def give_back(self, amount: int) -> None:
        self.used -= amount

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        self.take(amount)
        try:
            yield
        finally:
            self.give_back(amount)


async def in_time(answer: Awaitable[Answer]) -> Answer:
    """Wait for an answer as long as a client may have to.

    Raises:
        HTTPException: 503, it has taken longer.
    """
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await answer
    except TimeoutError:
        raise HTTPException(503, f"no answer within {ANSWER_SECONDS:g} s; try again", headers=BUSY) from None


async def in_thread(
    pool: ThreadPoolExecutor,
    budget: Budget,
    work: Callable[Arguments, Answer],
    *arguments: Arguments.args,
    **named: Arguments.kwargs,
) -> Answer:
    """What work returns that one of a pool's threads does, if the budget has a place in its queue.

    Raises:
        HTTPException: 503, it has none, or an answer takes too long.
    """
    with budget.taken(1):
        return await in_time(asyncio.wrap_future(pool.submit(work, *arguments, **named)))


class Late(Exception):
    """A request whose turn has come too late."""


@dataclass(frozen=True, slots=True)
class Joint(Generic[Asked, Answer]):
    """Work of a request that takes less time with that of others of its kind, where they wait."""

    kind: Hashable
    asked: Asked
    do: Callable[[Sequence[Asked]], Sequence[Answer | Exception]]
    """What comes of each, in their order."""

    def __call__(self) -> Answer:
        (done,) = self.do([self.asked])
        if isinstance(done, Exception):
            raise done
        return done


@dataclass(frozen=True, slots=True)
class _Waiting:
    since: float
    work: Any
    """A function, or `Joint`."""
    done: Future[Any]


class Turns:
    """Whose turn comes when: requests that wait for the threads of a pool."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool, self._lock = pool, threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._emptied_at = time.monotonic()

    def submit(self, work: Callable[[], Answer]) -> Future[Answer]:
        """What work returns once its turn has come, or `Late`."""
        done = Future[Answer]()
        with self._lock:
            if not self._waiting:
                self._emptied_at = time.monotonic()
            self._waiting.append(_Waiting(time.monotonic(), work, done))
        self._pool.submit(self._take_one)
        return done

    def _take_one(self) -> None:
        now, late = time.monotonic(), list[_Waiting]()
        with self._lock:
            if not self._waiting:  # whose turn this was has been turned away, or was worked on with another one
                return
            newest_first = now - self._emptied_at > EMPTIED_SECONDS
            taken = self._take_alike(newest_first)
            while newest_first and self._waiting and now - self._waiting[0].since > LATE_SECONDS:
                late.append(self._waiting.popleft())
            if not self._waiting:
                self._emptied_at = now
        for each in late:
            if each.done.set_running_or_notify_cancel():
                each.done.set_exception(Late())
        _work_on([each for each in taken if each.done.set_running_or_notify_cancel()])

    def _take_alike(self, newest_first: bool) -> list[_Waiting]:
        """The next one, with the next ones of its kind."""
        waiting = self._waiting
        first = waiting.pop() if newest_first else waiting.popleft()
        if not isinstance(first.work, Joint) or not waiting:
            return [first]
        alike = [each for each in waiting if isinstance(each.work, Joint) and each.work.kind == first.work.kind]
        others = alike[1 - MAXIMUM_TOGETHER :] if newest_first else alike[: MAXIMUM_TOGETHER - 1]
        taken = set(map(id, others))
        self._waiting = deque(each for each in waiting if id(each) not in taken)
        return [first, *others]


def _work_on(taken: Sequence[_Waiting]) -> None:
    """Work on one request, or on several of one kind together."""
    if not taken:
        return
    try:
        first = taken[0].work
        done = [first()] if len(taken) == 1 else first.do([each.work.asked for each in taken])
    except BaseException as error:
        done = [error] * len(taken)
    for each, answer in zip(taken, done, strict=True):
        if isinstance(answer, BaseException):
            each.done.set_exception(answer)
        else:
            each.done.set_result(answer)


class JSONText(Response):
    """An answer that is JSON already, for which a budget is charged until it has been sent."""

    media_type = "application/json"

    def __init__(self, content: bytes, *, sent: Callable[[], None] = lambda: None) -> None:
        super().__init__(content)
        self.sent = sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.sent()


def own_cores(processes: int) -> int:
    """Cores for each of so many processes that answer behind one port."""
    return max(1, len(os.sched_getaffinity(0)) // processes)


class SearchThreads:
    """Threads that search, first come first served within each of both sizes."""

    def __init__(self, count: int, metrics: Metrics, *, initializer: Callable[[], None] | None = None) -> None:
        """`count`: cores; `initializer`: run in each thread before its first search."""
        self._metrics = metrics
        self._small = ThreadPoolExecutor(count, "search", initializer=initializer)
        self._large = ThreadPoolExecutor(max(1, count // 2), "large-search", initializer=initializer)
        self._small_budget = Budget(MAXIMUM_WAITING, TOO_MANY)
        self._large_budget = Budget(
            MAXIMUM_LARGE, "too many large searches at once; try again, or ask for less at once"
        )
        self._turns = Turns(self._small)
        self._searching = 0

    async def answer(self, question: Weighed, make: Callable[[Run], Awaitable[bytes]], *, parts: int = 1) -> Response:
        """What `make` returns, as a response. It is given a function that runs work in one of the threads.

        Args:
            parts: answers of so many servers are held for it.

        Raises:
            HTTPException: 503, there is too much to do already, or it takes too long.
        """
        queries = len(question.queries)
        hits = queries * question.k
        small = queries <= SMALL_QUERIES and hits <= SMALL_HITS
        budget = self._small_budget if small else self._large_budget
        cost = 1 if small else hits * parts * BYTES_A_HIT
        budget.take(cost)
        self._count(+1)
        loop, last = asyncio.get_running_loop(), Future[bytes]()
        last.set_result(b"")

        async def run(work: Callable[[], bytes]) -> bytes:
            nonlocal last
            last = self._turns.submit(work) if small else self._large.submit(work)
            return await asyncio.wrap_future(last)

        def end(charge: int) -> None:
            budget.give_back(charge)
            self._count(-1)

        def end_from_thread(done: Future[bytes]) -> None:
            with suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(end, cost)

        try:
            content = await in_time(make(run))
        except BaseException as error:
            last.add_done_callback(end_from_thread)  # a thread that is at it cannot be stopped
            if isinstance(error, Late):
                raise HTTPException(503, TOO_MANY, headers=BUSY) from None
            raise
        if small:
            end(cost)
            return JSONText(content)
        budget.give_back(cost - len(content))
        return JSONText(content, sent=lambda: end(len(content)))

    def close(self) -> None:
        for pool in (self._small, self._large):
            pool.shutdown(wait=False, cancel_futures=True)

    def _count(self, change: int) -> None:
        self._searching += change
        self._metrics.searching.set(self._searching)
