"""A lock on something that machines share, held on a lease: a holder that died, or whose lease ran out, loses it to the next who asks."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from smar_model.errors import InputError, NoAnswer
from smar_model.lake.durable_files import guarded
from smar_model.lake.process_identity import process_state, this_process
from smar_model.lake.records import OPEN, DamagedRecord, parse_record
from smar_model.lake.shared_files import read_to_replace, replace_unchanged, store

POLL_SECONDS = 0.2
LONGEST_SECONDS = 3_600.0
"""No lease is as long."""


@with_config(OPEN)
class Holder(TypedDict):
    """What a lock's file says of who holds it."""

    token: str
    pid: int
    host: str
    purpose: str
    expires_at: float


_HOLDER = TypeAdapter(Holder)
_held: ContextVar[tuple[Lease, ...]] = ContextVar("held leases", default=())


@dataclass(slots=True, kw_only=True)
class Lease:
    path: Path
    token: str
    purpose: str
    seconds: float
    number: int = 0
    """Larger than that of every earlier holder of the lock (a fencing token), whatever became of the lock's file; 0: not taken yet."""

    def verify(self) -> None:
        """To be called right before the change that the lock protects.

        Raises:
            InputError: the lease ran out and somebody else may hold the lock.
        """
        holder, _ = _holder(read_to_replace(self.path)[0], self.path)
        is_ours = holder is not None and holder["token"] == self.token and holder["expires_at"] >= time.time()
        if not is_ours or _last_number(read_to_replace(_numbers(self.path))[0]) > self.number:
            raise InputError(f"{self.path}: the lease ran out before the change was made; run the command again")

    def take(self) -> Holder | None:
        """Write our name into the lock, anew where it is there; returns the holder where it is somebody else's."""
        while True:
            content, known_by = read_to_replace(self.path)
            holder, damage = _holder(content, self.path)
            why = damage or ""
            if holder and holder["token"] != self.token:
                died = process_state(holder) == "gone"
                if not died and holder["expires_at"] > time.time():
                    return holder
                why = f"taken over from {describe(holder)}: " + (
                    "that process is gone" if died else "its lease ran out"
                )
            is_renewed = holder is not None and holder["token"] == self.token
            ours = {
                "token": self.token,
                **this_process(),
                "purpose": self.purpose,
                "expires_at": time.time() + self.seconds,
            }
            if replace_unchanged(self.path, json.dumps(ours), known_by):
                if why:
                    print(f"{self.path.name}: {why}", flush=True)
                if not is_renewed:
                    # Only now, so that none is drawn by who does not get the lock.
                    self.number = _draw_number(self.path)
                return None

    def give_back(self) -> None:
        content, known_by = read_to_replace(self.path)
        holder, _ = _holder(content, self.path)
        if holder and holder["token"] == self.token:
            replace_unchanged(self.path, "", known_by)


@contextmanager
def leased(path: Path, *, purpose: str, lease_seconds: float, wait_seconds: float) -> Iterator[Lease]:
    """Hold a lock, after waiting for it if need be.

    Raises:
        NoAnswer: somebody else held it all the time that we waited.
    """
    lease = Lease(path=path, token=uuid.uuid4().hex, purpose=purpose, seconds=lease_seconds)
    deadline, said = time.monotonic() + wait_seconds, False
    while holder := lease.take():
        held = f"held by {describe(holder)} ({holder['purpose']}) for {holder['expires_at'] - time.time():.0f} s more"
        if time.monotonic() >= deadline:
            raise NoAnswer(f"{lease.path}: {held}; wait for it, or end it, and run the command again")
        if not said:
            print(f"{lease.path.name}: {held}; waiting for it", flush=True)
        said = True
        time.sleep(POLL_SECONDS)
    outer = _held.set((*_held.get(), lease))
    try:
        yield lease
    finally:
        _held.reset(outer)
        lease.give_back()


@contextmanager
def fenced(path: Path) -> Iterator[None]:
    """What the block writes is written only while the lock is still ours, if this is within `leased`: on one file system nobody can take
    it meanwhile; in an object store it is looked at right before.

    Raises:
        InputError: the lease ran out; nothing is written.
    """
    lease = next((lease for lease in reversed(_held.get()) if lease.path == path), None)
    if lease is None:
        yield
    elif store():
        lease.verify()
        yield
    else:
        with guarded(path):
            lease.verify()
            yield


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


def _numbers(path: Path) -> Path:
    """The file that keeps the last number that was drawn for a lock."""
    return path.with_name(f"{path.name}.number")


def _last_number(content: bytes) -> int:
    return int(content) if re.fullmatch(rb"\d{1,18}", content) else 0


def _draw_number(path: Path) -> int:
    """A number for a holder of a lock, larger than all that were drawn for it before. Should the file that keeps the last one be lost
    or damaged, the clock still is ahead of it: numbers are milliseconds since the epoch, at least."""
    while True:
        old, known_by = read_to_replace(_numbers(path))
        number = max(_last_number(old) + 1, time.time_ns() // 1_000_000)
        if replace_unchanged(_numbers(path), str(number), known_by):
            return number


def describe(holder: Holder) -> str:
    return f"process {holder['pid']} on {holder['host']}"


def _holder(content: bytes, path: Path) -> tuple[Holder | None, str | None]:
    """Who holds the lock; and what is wrong with its file, by which nobody can be told to hold it."""
    if not content:
        return None, None
    try:
        holder = parse_record(content, _HOLDER, path=path, what_to_do="")
        if not holder["expires_at"] < time.time() + LONGEST_SECONDS:
            raise DamagedRecord(path, "runs out later than any lease, or a clock was set back", "")
        return holder, None
    except DamagedRecord as damaged:
        return None, f"damaged ({damaged.why}), so it counts as free; whoever held it cannot write any more"
