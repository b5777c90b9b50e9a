"""What every request passes: measuring, and a bound on what it sends."""

from __future__ import annotations

import time

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smar_model.serving.metrics import Metrics


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


class BoundedBodies:
    """Refuses a body that is larger than the maximum (bytes), or does not say how large it is, before reading it."""

    def __init__(self, app: ASGIApp, *, maximum: int) -> None:
        self.app = app
        self.maximum = maximum

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        length = headers.get(b"content-length", b"0")
        if scope["type"] == "http" and b"transfer-encoding" in headers:
            await JSONResponse({"detail": "send Content-Length"}, 411)(scope, receive, send)
        elif scope["type"] == "http" and (not length.isdigit() or int(length) > self.maximum):
            await JSONResponse({"detail": f"more than {self.maximum:,} bytes"}, 413)(scope, receive, send)
        else:
            await self.app(scope, receive, send)
