"""`smar serve` as a process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smar_model.settings import REPOSITORY
from tests.patience import PATIENCE_SECONDS, wait_until


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    address: str
    process: subprocess.Popen[str]


@contextmanager
def running_server(settings: Path, log: Path, *, poll_seconds: float, options: Sequence[str] = ()) -> Iterator[str]:
    """Address of a server that is ready; it is ended afterwards, and has to end by itself when told to."""
    with started(settings, log, options, poll_seconds=poll_seconds) as server:
        yield server.address
        server.process.terminate()
        server.process.wait(timeout=PATIENCE_SECONDS)


@contextmanager
def started(
    settings: Path, log: Path, options: Iterable[str] = (), *, poll_seconds: float = 1.0
) -> Iterator[RunningServer]:
    """A server that is ready; it is killed afterwards, if it has not ended by then."""
    command = [sys.executable, "-m", "smar_model.cli", "serve", "--settings", str(settings), "--port", "0"]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, "--poll-seconds", str(poll_seconds), *options],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", said)
            assert found, said
            address = found[0]
            wait_until(
                lambda: ready(address),
                still_possible=lambda: process.poll() is None,
                says=lambda: log.read_text(encoding="utf-8"),
            )
            yield RunningServer(address=address, process=process)
        finally:
            process.kill()
            process.wait()


def ready(address: str) -> bool:
    try:
        return bool(get(address, "readyz")["ready"])
    except (urllib.error.URLError, ConnectionError):
        return False


def get(address: str, path: str) -> Any:
    with urllib.request.urlopen(f"{address}/{path}", timeout=PATIENCE_SECONDS) as answer:
        return json.loads(answer.read())
