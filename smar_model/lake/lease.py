"""A lock on something that machines share, held on a lease: a holder that died, or whose lease ran out, loses it to the next who asks."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smar_model.errors import InputError, NoAnswer
from smar_model.lake.artifacts import is_running
from smar_model.lake.shared_files import read_to_replace, replace_unchanged

POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    path: Path
    token: str
    purpose: str
    seconds: float

    def verify(self) -> None:
        """To be called right before the change that the lock protects.

        Raises:
            InputError: the lease ran out and somebody else may hold the lock.
        """
        holder = _holder(read_to_replace(self.path)[0])
        if not holder or holder["token"] != self.token or holder["expires_at"] < time.time():
            raise InputError(f"{self.path}: the lease ran out before the change was made; run the command again")

    def take(self) -> dict[str, Any] | None:
        """Write our name into the lock, anew where it is there; returns the holder where it is somebody else's."""
        while True:
            text, known_by = read_to_replace(self.path)
            holder = _holder(text)
            why = ""
            if holder and holder["token"] != self.token:
                died = holder["host"] == platform.node() and not is_running(holder["pid"])
                if not died and holder["expires_at"] > time.time():
                    return holder
                why = "that process is gone" if died else "its lease ran out"
            content = {
                "token": self.token,
                "pid": os.getpid(),
                "host": platform.node(),
                "purpose": self.purpose,
                "expires_at": time.time() + self.seconds,
            }
            if replace_unchanged(self.path, json.dumps(content), known_by):
                if holder and why:
                    taken = f"taken over from process {holder['pid']} on {holder['host']}"
                    print(f"{self.path.name}: {taken}: {why}", flush=True)
                return None

    def give_back(self) -> None:
        text, known_by = read_to_replace(self.path)
        if (holder := _holder(text)) and holder["token"] == self.token:
            replace_unchanged(self.path, "", known_by)


@contextmanager
def leased(path: Path, *, purpose: str, lease_seconds: float, wait_seconds: float) -> Iterator[Lease]:
    """Hold a lock, after waiting for it if need be.

    Raises:
        InputError: somebody else held it all the time that we waited.
    """
    lease = Lease(path=path, token=uuid.uuid4().hex, purpose=purpose, seconds=lease_seconds)
    deadline = time.monotonic() + wait_seconds
    while holder := lease.take():
        if time.monotonic() >= deadline:
            raise InputError(
                f"{lease.path}: held by {describe(holder)} ({holder['purpose']}) for "
                f"{holder['expires_at'] - time.time():.0f} s more; wait for it, or end it, and run the command again"
            )
        time.sleep(POLL_SECONDS)
    try:
        yield lease
    finally:
        lease.give_back()


@contextmanager
def renewed(lease: Lease) -> Iterator[None]:
    """Renew a lease that is held, until the block ends: for work of unknown length."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(lease.seconds / 4):
            try:
                lease.take()
            except NoAnswer:  # there are three more times
                continue

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def describe(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']}"


def _holder(text: str) -> dict[str, Any] | None:
    return json.loads(text) if text else None
