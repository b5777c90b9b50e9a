"""`smar serve`: the server process."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from smar_model.errors import InputError
from smar_model.serving.answer_log import AnswerLog
from smar_model.serving.connections import MAXIMUM_CONNECTIONS, BoundedConnection, Connections
from smar_model.serving.server_processes import serve_in_processes
from smar_model.settings import Settings

log = logging.getLogger("smar.serving")

DRAIN_SECONDS = 5.0
SHUTDOWN_SECONDS = 10
"""For requests under way, once no new one is taken."""
SEND_BUFFER = 256 * 1_024
"""Bytes of each connection that the operating system may hold of an answer; it would let them grow to megabytes."""
ACCEPT_AGAIN_SECONDS = 0.1
OTHER_FILES = 500
"""That may be open beside connections."""


def serve(
    settings: Settings,
    *,
    host: str,
    port: int,
    poll_seconds: float,
    others_kept: int,
    part: int | None = None,
    drain_seconds: float = DRAIN_SECONDS,
    log_place: str | None = None,
    interleave: str | None = None,
    share: float = 0.1,
    processes: int = 1,
) -> None:
    """Serve until a signal comes; requests under way are answered first.

    Args:
        drain_seconds: from SIGTERM on, how long requests are still taken while `/readyz` says 503, so that balancers see it in time.
        log_place: folder or URL of an object store where answers and events are logged.
        interleave: two versions whose lists are interleaved for this share of the users, as `champion:challenger`.
        processes: that answer, each with the champion in its memory.

    Raises:
        InputError: the address cannot be had, the log's place cannot be written to, or the options do not go together.
    """
    if part is not None and (log_place or interleave):
        raise InputError(
            "--part: a part's answers are no lists that shoppers see; give --log to the front, and no --interleave"
        )
    if interleave and not log_place:
        raise InputError("--interleave: without a log nobody learns which version was preferred; add --log PLACE")
    # A registry that is down is to be seen within seconds, not after the minutes that MLflow would try.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from smar_model.serving.app import create_app
    from smar_model.serving.interleaving import parse_names

    make = partial(
        create_app,
        settings,
        poll_seconds=poll_seconds,
        others_kept=others_kept,
        part=part,
        answer_log=partial(AnswerLog.at, log_place) if log_place else None,
        interleave=parse_names(interleave) if interleave else None,
        share=share,
        processes=processes,
    )
    what = f"model {settings.release.model!r}" + (f", part {part} of its index," if part is not None else "")
    found_by = settings if part is None else None
    _run(make, what, host, port, drain_seconds, processes=processes, found_by=found_by)


def serve_front(
    addresses: Sequence[str],
    *,
    host: str,
    port: int,
    drain_seconds: float = DRAIN_SECONDS,
    log_place: str | None = None,
    processes: int = 1,
) -> None:
    """Likewise in front of servers that hold a part of the index each.

    Raises:
        InputError: one of theirs is no address, or its own cannot be had.
    """
    replicas = [address.strip() for part in addresses for address in part.split(",")]
    if wrong := [address for address in replicas if not address.startswith(("http://", "https://"))]:
        raise InputError(f"--front {wrong[0]}: no address; write it as http://host:8000")
    if twice := [address for address in replicas if replicas.count(address) > 1]:
        raise InputError(f"--front {twice[0]}: named twice; a server holds one part")
    from smar_model.serving.front import create_front

    kept = partial(AnswerLog.at, log_place) if log_place else None
    make = partial(create_front, addresses, answer_log=kept, processes=processes)
    _run(make, f"{len(addresses)} parts of an index", host, port, drain_seconds, processes=processes)


class Server(uvicorn.Server):
    """uvicorn's server with bounded connections. It drains on SIGTERM, and ends at once on a second signal."""

    server_state: Connections

    def __init__(self, config: uvicorn.Config, app: FastAPI, *, drain_seconds: float) -> None:
        super().__init__(config)
        self.app = app
        self.drain_seconds = drain_seconds
        self.server_state = Connections(app.state.metrics, maximum=_possible_connections())
        self._ends_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The signal is not raised again afterwards, as uvicorn would: to end when told to is no failure."""
        if self._ends_at is not None:
            os._exit(128 + sig)
        self.app.state.draining = self.server_state.last_answers = True
        self._ends_at = time.monotonic() + (self.drain_seconds if sig == signal.SIGTERM else 0.0)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections, one in each turn of the event loop.

        uvloop takes all that wait in one turn: three hundred that come at once would keep every other client waiting meanwhile.
        """
        await super().startup([])
        self._accepting = [asyncio.create_task(self._accept(listening)) for listening in sockets or []]

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
                await loop.connect_accepted_socket(self._connection, connection)
            except OSError as error:  # the client has gone, or no further file may be opened
                log.warning("a connection could not be taken: %s", error)
                await asyncio.sleep(ACCEPT_AGAIN_SECONDS)

    def _connection(self) -> BoundedConnection:
        return BoundedConnection(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in self._accepting:
            task.cancel()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        self.server_state.sweep()
        if self._ends_at is not None and time.monotonic() >= self._ends_at:
            self.should_exit = True
        return await super().on_tick(counter)


def _possible_connections() -> int:
    """As many as the server takes, fewer where this process may not open so many files."""
    wanted = MAXIMUM_CONNECTIONS + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(16, min(MAXIMUM_CONNECTIONS, soft - OTHER_FILES))
    return MAXIMUM_CONNECTIONS


def _run(
    make: Callable[[], FastAPI],
    what: str,
    host: str,
    port: int,
    drain_seconds: float,
    *,
    processes: int,
    found_by: Settings | None = None,
) -> None:
    """`found_by`: settings of a home whose `smar search` may ask this server; None: it answers for a part, or others."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    log.setLevel(logging.INFO)  # what is served, and since when
    app = make() if processes == 1 else None
    with _listening(host, port) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # those that it accepts have the same
        address, actual = listening.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        print(f"Serving {what} on http://{shown}:{actual}; Ctrl-C ends it", flush=True)
        here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(address, shown)
        with _announced(found_by, f"http://{here}:{actual}"):
            run = partial(_run_one, listening, drain_seconds)
            if app is not None:
                run(app)
            else:
                serve_in_processes(processes, make, run)


def _run_one(listening: socket.socket, drain_seconds: float, app: FastAPI) -> None:
    config = uvicorn.Config(
        app,
        http=BoundedConnection,
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        server_header=False,
    )
    Server(config, app, drain_seconds=drain_seconds).run(sockets=[listening])


def _announced(found_by: Settings | None, address: str) -> AbstractContextManager[None]:
    if found_by is None:
        return nullcontext()
    from smar_model.serving.running_server import announced

    return announced(found_by, address)


def _listening(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(found[4][:2], family=found[0], backlog=2048)
    except OSError as error:
        raise InputError(f"{host}:{port}: cannot be listened on: {error}; choose --host and --port") from error
