"""What every request passes: measuring, bounds on what it sends, answers in pieces, HEAD."""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smar_model.serving.bounded_work import BUSY, Budget
from smar_model.serving.metrics import Metrics

LARGE_BODY = 64 * 1_024
"""Bytes; what is no larger is read without a share of the budget."""
MAXIMUM_BODIES = 32_000_000
"""Bytes of all larger bodies together."""
PIECE = 64 * 1_024
"""Bytes of an answer that are given to the connection at once; the next are when it has sent most of them."""
LINGER_SECONDS = 2.0
"""How long a body that was refused is thrown away: a client that is cut off in the middle might not read why."""


class MeasuredRequests:
    """Counts and times requests by the path of their route, so that no caller can invent label values."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, started = 500, time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            path = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - started)


class HeadRequests:
    """Answers HEAD as GET; the protocol leaves the body out, as it knows what was asked."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app({**scope, "method": "GET"} if scope.get("method") == "HEAD" else scope, receive, send)


class PiecewiseAnswers:
    """Sends a long answer piece by piece, so that what a slow client has not taken lies in the application, which accounts for it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def in_pieces(message: Message) -> None:
            body = message.get("body", b"")
            start = 0
            for start in range(PIECE, len(body), PIECE):
                await send({**message, "body": body[start - PIECE : start], "more_body": True})
            await send({**message, "body": body[start:]} if start else message)

        await self.app(scope, receive, in_pieces)


class BoundedBodies:
    """Refuses a body that is larger than the maximum (bytes), does not say how large it is, or finds no room, before reading it."""

    def __init__(self, app: ASGIApp, *, maximum: int) -> None:
        self.app = app
        self.maximum = maximum
        self.budget = Budget(MAXIMUM_BODIES, "too many large requests at once; try again")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        said = headers.get("content-length", "0")
        length = int(said) if said.isascii() and said.isdigit() and len(said) < 20 else self.maximum + 1
        reserved = length if length > LARGE_BODY else 0
        if "transfer-encoding" in headers:
            await _refuse(411, "send Content-Length", receive, send)
        elif length > self.maximum:
            await _refuse(413, f"a body of more than {self.maximum:,} bytes; ask for less at once", receive, send)
        elif reserved and not self.budget.has(reserved):
            await _refuse(503, self.budget.full, receive, send)
        else:
            with self.budget.taken(reserved):
                await self.app(scope, receive, send)


async def _refuse(status: int, detail: str, receive: Receive, send: Send) -> None:
    """Answer, then throw away what still comes for a while before the connection is closed."""
    headers = {"Connection": "close"} | (BUSY if status == 503 else {})
    answer = JSONResponse({"detail": detail}, status, headers=headers)
    await send({"type": "http.response.start", "status": status, "headers": answer.raw_headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while (message := await receive())["type"] == "http.request" and message.get("more_body"):
                pass
    except TimeoutError:
        pass
    await send({"type": "http.response.body"})
