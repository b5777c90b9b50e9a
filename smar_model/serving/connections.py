"""What a connection may take of the server: bytes and time to send a request, and time to read its answer.

uvicorn bounds none of these with httptools. Its protocol is extended here rather than replaced by another server: hypercorn and granian have a time
limit for headers, but none for bodies and for answers that nobody reads.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from smar_model.serving.metrics import Metrics

log = logging.getLogger("smar.serving")

MAXIMUM_CONNECTIONS = 1_000
MAXIMUM_HEAD = 64 * 1_024
"""Bytes of a request's first line and headers."""
MAXIMUM_HEADERS = 100
MAXIMUM_HEADS = 16_000_000
"""Bytes of all heads together that have not come whole."""
MAXIMUM_BODY = 1_000_000
"""Bytes."""
LARGE_BODY = 64 * 1_024
"""Bytes; what is no larger is read without a share of the next."""
MAXIMUM_BODIES = 32_000_000
"""Bytes of all larger bodies together that are read or worked on."""
MAXIMUM_PIPELINED = 2
"""Requests sent on one connection before the first is answered."""
HEAD_SECONDS = 10.0
"""From a request's first byte, or from a connection without one, to the end of its headers."""
BODY_SECONDS = 20.0
"""From a request's first byte to the last of its body."""
STALLED_SECONDS = 10.0
"""How long a client may take nothing of an answer that waits for it."""
READING_SECONDS = 60.0
"""How long it may take to read a whole answer."""
LINGER_SECONDS = 2.0
"""How long what a refused client still sends is thrown away: closed at once, it might not read why it was refused."""
SWEPT_AT_ONCE = 30
FED = 1_024
"""Bytes that are parsed before they are counted: what comes ahead of an answer is read no further than this, as 300 connections may send so at once."""


class Connections(ServerState):
    """All connections of a server."""

    def __init__(self, metrics: Metrics, *, maximum: int = MAXIMUM_CONNECTIONS) -> None:
        super().__init__()
        self.metrics = metrics
        self.maximum = maximum
        self.waiting: dict[BoundedConnection, None] = {}
        """Those without a whole request, head and body, the longest first."""
        self.head_bytes = 0
        """Received of heads that are not whole."""
        self.body_bytes = 0
        """Of large bodies that are read or worked on."""
        self.last_answers = False
        """Whether each connection ends with the answer that it waits for."""

    def make_room(self, newest: BoundedConnection) -> None:
        """Close those that wait for a whole request, the longest first, while there are too many; those with most of one while too much is held."""
        while (too_many := len(self.connections) > self.maximum) or self.head_bytes > MAXIMUM_HEADS:
            others = (each for each in self.waiting if each is not newest)
            chosen = (
                next(others, newest)
                if too_many
                else max(self.waiting, key=lambda each: each.head_bytes, default=newest)
            )
            chosen.refuse(
                HTTPStatus.SERVICE_UNAVAILABLE, "too many connections at once; try again", unasked=chosen is newest
            )
            self.connections.discard(chosen)
            if chosen is newest:
                return

    def sweep(self) -> None:
        """Close connections whose time is over, some at a time: hundreds at once would keep all others waiting; called ten times a second."""
        now, ended = time.monotonic(), 0
        for connection in list(self.connections):
            if isinstance(connection, BoundedConnection):
                ended += connection.check(now)
                if ended == SWEPT_AT_ONCE:
                    return


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's connection by httptools, with limits."""

    server_state: Connections

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.head_bytes = 0
        self.body_bytes = 0
        self.receiving_head = True
        self.receiving_since: float | None = None
        """When the first byte came of the request that is being received; None between requests."""
        self.quiet_since = time.monotonic()
        """When the connection was made, or its last answer was complete."""
        self.refused_at: float | None = None
        self.unread = 0
        """Bytes of answers in memory at the last look."""
        self.unread_since = self.unread_moved = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.server_state.waiting[self] = None
        self.server_state.make_room(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._forget_bodies()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), FED):
            if self.refused_at is not None or self.transport.is_closing():
                return
            piece = data if len(data) <= FED else data[start : start + FED]
            if self.receiving_head:
                self.head_bytes += len(piece)
                self.server_state.head_bytes += len(piece)
            super().data_received(piece)
            if self.receiving_head and self.head_bytes > MAXIMUM_HEAD:
                self._refuse_head()
        if self.server_state.head_bytes > MAXIMUM_HEADS:
            self.server_state.make_room(self)

    def on_message_begin(self) -> None:
        if self.refused_at is None:
            super().on_message_begin()
            self.receiving_since = time.monotonic()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.refused_at is None and len(self.headers) < MAXIMUM_HEADERS + 1:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.refused_at is not None:
            return
        too_large = self.head_bytes > MAXIMUM_HEAD + FED or len(self.headers) > MAXIMUM_HEADERS
        self._forget_head_bytes()
        if too_large:
            self._refuse_head()
        elif len(self.pipeline) == MAXIMUM_PIPELINED:
            # At once, and not when all that came has been parsed: some hundred heads fit into what is fed at a time.
            self._abort("pipelined")
        elif refusal := self._body_refusal():
            self.refuse(*refusal)
        else:
            self.receiving_head = False
            super().on_headers_complete()
            if self.server_state.last_answers:
                self.cycle.keep_alive = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        async def answer(scope: Any, receive: Any, send: Any) -> None:
            async def send_while_open(message: Any) -> None:
                try:
                    await send(message)
                except RuntimeError:
                    if not self.transport.is_closing():
                        raise
                    cycle.disconnected = True  # uvicorn tells only the last of several requests, and later

            if self.transport.is_closing():  # ended for what came behind it: nothing is worked on for nobody
                cycle.disconnected = True
            else:
                await app(scope, receive, send_while_open)

        super()._start_asgi_task(cycle, answer)

    def on_body(self, body: bytes) -> None:
        if self.refused_at is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.refused_at is None:
            super().on_message_complete()
            self.receiving_head, self.receiving_since = True, None
            self.server_state.waiting.pop(self, None)
            self._wait_for_request()

    def on_response_complete(self) -> None:
        if not self.pipeline:
            self._forget_bodies()
        super().on_response_complete()
        self._wait_for_request()

    def send_400_response(self, msg: str) -> None:
        self.refuse(HTTPStatus.BAD_REQUEST, "no HTTP request that could be read")

    def refuse(self, status: HTTPStatus, detail: str, *, unasked: bool = False) -> None:
        """Answer with a status and one line of JSON in the place of the application, and end the connection.

        A connection that an answer has begun on, or (unless `unasked`) that waits for a request, is closed without a word.
        """
        if self.refused_at is not None:
            return
        self._count(status.phrase.lower().replace(" ", "_"))
        self.refused_at = time.monotonic()
        self._stop_waiting()
        cycle = self.cycle
        answered = cycle is not None and (
            cycle.response_started if not self.receiving_head else not cycle.response_complete
        )
        silent = self.receiving_since is None and not unasked
        if answered or silent or self.pipeline or self.transport.is_closing():
            self.transport.abort()
            return
        if cycle is not None and not cycle.response_complete:  # whoever reads the body is told that it ends
            cycle.disconnected = True
            cycle.message_event.set()
        body = json.dumps({"detail": detail}, separators=(",", ":")).encode()
        lines = [
            b"date: " + formatdate(usegmt=True).encode(),
            b"content-type: application/json",
            b"content-length: %d" % len(body),
            *([b"retry-after: 1"] if status == HTTPStatus.SERVICE_UNAVAILABLE else []),
            b"connection: close",
        ]
        self.transport.write(STATUS_LINE[status] + b"\r\n".join([*lines, b"", body]))
        self.flow.resume_reading()
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def check(self, now: float) -> bool:
        """Refuse or close what has taken longer than it may; whether it did."""
        if self.refused_at is not None:
            return False
        answering = bool(self.pipeline) or (self.cycle is not None and not self.cycle.response_complete)
        self._check_reading(now)
        if self.receiving_since is not None and not self.flow.read_paused:
            allowed = HEAD_SECONDS if self.receiving_head else BODY_SECONDS
            if now > self.receiving_since + allowed:
                part = "headers have" if self.receiving_head else "body has"
                self.refuse(HTTPStatus.REQUEST_TIMEOUT, f"the request's {part} not come whole within {allowed:g} s")
        elif self.receiving_since is None and not answering and now > self.quiet_since + HEAD_SECONDS:
            self.transport.close()
            return True
        return self.refused_at is not None

    def _check_reading(self, now: float) -> None:
        before, self.unread = self.unread, self.transport.get_write_buffer_size()
        if not self.unread:
            return
        if not before:
            self.unread_since = self.unread_moved = now
        elif self.unread < before:
            self.unread_moved = now
        if now > self.unread_moved + STALLED_SECONDS or now > self.unread_since + READING_SECONDS:
            self._abort("answer_not_read")

    def resume_writing(self) -> None:
        self.unread_moved = time.monotonic()
        super().resume_writing()

    def _abort(self, reason: str) -> None:
        """End the connection without a word."""
        self._count(reason)
        self.refused_at = time.monotonic()
        self._stop_waiting()
        self.transport.abort()

    def _refuse_head(self) -> None:
        detail = f"more than {MAXIMUM_HEAD:,} bytes or {MAXIMUM_HEADERS} lines of headers; POST a long query"
        self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)

    def _body_refusal(self) -> tuple[HTTPStatus, str] | None:
        """Why a body is not read: it is too large, does not say how large it is, or finds no room."""
        headers, held = dict(self.headers), self.server_state.body_bytes
        length = int(headers.get(b"content-length", 0))
        if b"transfer-encoding" in headers:
            return HTTPStatus.LENGTH_REQUIRED, "send Content-Length"
        if length > MAXIMUM_BODY:
            why = f"a body of more than {MAXIMUM_BODY:,} bytes; ask for less at once"
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, why
        if length > LARGE_BODY and held + length > MAXIMUM_BODIES:
            return HTTPStatus.SERVICE_UNAVAILABLE, "too many large requests at once; try again"
        if length > LARGE_BODY:
            self.body_bytes += length
            self.server_state.body_bytes += length
        return None

    def _forget_bodies(self) -> None:
        self.server_state.body_bytes -= self.body_bytes
        self.body_bytes = 0

    def _wait_for_request(self) -> None:
        if self.cycle.response_complete and not self.transport.is_closing():
            self.quiet_since = time.monotonic()
            self.server_state.waiting[self] = None

    def _stop_waiting(self) -> None:
        self.server_state.waiting.pop(self, None)
        self._forget_head_bytes()

    def _forget_head_bytes(self) -> None:
        self.server_state.head_bytes -= self.head_bytes
        self.head_bytes = 0

    def _count(self, reason: str) -> None:
        self.server_state.metrics.closed_connections.labels(reason).inc()
