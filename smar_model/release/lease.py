"""One writer at a time for the registry: a lock in the home folder, held on a lease (design, decision 4).

MLflow has no compare-and-swap, so whoever moves an alias holds this lock. A holder that died, or whose lease ran
out, loses it to the next one who asks.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smar_model.errors import InputError
from smar_model.lake.artifacts import is_running, replace_file
from smar_model.settings import home

LEASE_SECONDS = 600.0
"""Longer than checking that a version loads and answers; a holder that needs more has lost the lock."""
WAIT_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    path: Path
    token: str

    def verify(self) -> None:
        """To be called right before the change that the lock protects.

        Raises:
            InputError: the lease ran out and somebody else may hold the lock.
        """
        with _guard(self.path):
            holder = _read(self.path)
            if not holder or holder["token"] != self.token or holder["expires_at"] < time.time():
                raise InputError(f"{self.path}: the lease ran out before the change was made; run the command again")


@contextmanager
def registry_lease(
    *, purpose: str, lease_seconds: float = LEASE_SECONDS, wait_seconds: float = WAIT_SECONDS
) -> Iterator[Lease]:
    """Hold the registry's lock, after waiting for it if need be.

    Raises:
        InputError: somebody else held it all the time that we waited.
    """
    lease = Lease(path=home() / "registry.lock", token=uuid.uuid4().hex)
    lease.path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_seconds
    while holder := _take(lease, purpose, lease_seconds):
        if time.monotonic() >= deadline:
            raise InputError(
                f"{lease.path}: held by process {holder['pid']} on {holder['host']} ({holder['purpose']}) for "
                f"{holder['expires_at'] - time.time():.0f} s more; wait for it, or end it, and run the command again"
            )
        time.sleep(0.2)
    try:
        yield lease
    finally:
        with _guard(lease.path):
            if (now := _read(lease.path)) and now["token"] == lease.token:
                lease.path.unlink()


def _take(lease: Lease, purpose: str, lease_seconds: float) -> dict[str, Any] | None:
    """Write our name into the lock; returns the holder where it is somebody else's."""
    with _guard(lease.path):
        holder = _read(lease.path)
        if holder:
            died = holder["host"] == platform.node() and not is_running(holder["pid"])
            if not died and holder["expires_at"] > time.time():
                return holder
            why = "that process is gone" if died else "its lease ran out"
            print(f"{lease.path.name}: taken over from process {holder['pid']} on {holder['host']}: {why}", flush=True)
        content = {
            "token": lease.token,
            "pid": os.getpid(),
            "host": platform.node(),
            "purpose": purpose,
            "expires_at": time.time() + lease_seconds,
        }
        replace_file(lease.path, json.dumps(content))
    return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


@contextmanager
def _guard(path: Path) -> Iterator[None]:
    """The moment of looking and writing is one step; the kernel frees this lock with its process."""
    with path.with_suffix(".guard").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
