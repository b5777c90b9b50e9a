"""What every request passes: measuring, answers in pieces, HEAD."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smar_model.serving.metrics import Metrics

ASKED_BY_HEAD = "smar.asked_by_head"
"""Key of a request's scope that says so."""
PIECE = 64 * 1_024
"""Bytes of an answer that are given to the connection at once; the next are when it has sent most of them."""


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
    """Answers HEAD as GET, and marks its scope; the protocol leaves the body out, as it knows what was asked."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_head = scope.get("method") == "HEAD"
        await self.app({**scope, "method": "GET", ASKED_BY_HEAD: True} if is_head else scope, receive, send)


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
