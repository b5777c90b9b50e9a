"""`smar serve`: the server process."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Sequence

import uvicorn
from fastapi import FastAPI

from smar_model.errors import InputError
from smar_model.settings import Settings

SHUTDOWN_SECONDS = 10


def serve(
    settings: Settings, *, host: str, port: int, poll_seconds: float, others_kept: int, part: int | None = None
) -> None:
    """Serve until a signal comes; requests under way are answered first.

    Raises:
        InputError: the address cannot be had.
    """
    # A registry that is down is to be seen within seconds, not after the minutes that MLflow would try.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    _set_spark_aside()
    from smar_model.serving.app import create_app

    app = create_app(settings, poll_seconds=poll_seconds, others_kept=others_kept, part=part)
    what = f"model {settings.release.model!r}" + (f", part {part} of its index," if part is not None else "")
    _run(app, what, host, port)


def serve_front(addresses: Sequence[str], *, host: str, port: int) -> None:
    """Likewise in front of servers that hold a part of the index each.

    Raises:
        InputError: one of theirs is no address, or its own cannot be had.
    """
    if wrong := [address for address in addresses if not address.startswith(("http://", "https://"))]:
        raise InputError(f"--front {wrong[0]}: no address; write it as http://host:8000")
    _set_spark_aside()
    from smar_model.serving.front import create_front

    _run(create_front(addresses), f"{len(addresses)} parts of an index", host, port)


def _set_spark_aside() -> None:
    """MLflow imports Spark wherever it is installed, which nothing here uses. None stands for a package that is not there."""
    sys.modules.setdefault("pyspark", None)  # type: ignore[arg-type]


def _run(app: FastAPI, what: str, host: str, port: int) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=SHUTDOWN_SECONDS, server_header=False
    )
    with _listening(host, port) as listening:
        address, actual = listening.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        print(f"Serving {what} on http://{shown}:{actual}; Ctrl-C ends it", flush=True)
        uvicorn.Server(config).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(found[4][:2], family=found[0], backlog=2048)
    except OSError as error:
        raise InputError(f"{host}:{port}: cannot be listened on: {error}; choose --host and --port") from error
