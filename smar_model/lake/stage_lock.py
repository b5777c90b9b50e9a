"""One process at a time does a stage of a run; others wait and take what it has made."""

from __future__ import annotations

import os
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from filelock import FileLock, Timeout

from smar_model.lake.durable_files import named_in_errors
from smar_model.lake.lease import Lease, describe, renewed
from smar_model.lake.runs import Run
from smar_model.lake.shared_files import store
from smar_model.settings import home

LEASE_SECONDS = 60.0
"""How long a stage of a killed process on another machine is waited for."""


def one_at_a_time(stage: str, run: Run) -> AbstractContextManager[None]:
    """Hold the stage of the run: by a lock of the kernel, or where machines share an object store, by a lease in that."""
    return _leased(stage, run) if store() else _locked(stage, run)


@contextmanager
def _leased(stage: str, run: Run) -> Iterator[None]:
    """Only one process of all machines at a time; one that has ended loses the lease as soon as it is not renewed."""
    path = home() / "runs" / run.name / f"{stage}.lease"
    lease = Lease(path=path, token=uuid.uuid4().hex, purpose=stage, seconds=LEASE_SECONDS)
    told = False
    while holder := lease.take():
        if not told:
            print(f"[{run.name}] {stage}: waits for {describe(holder)}, which is at it", flush=True)
        told = True
        time.sleep(1)
    try:
        with renewed(lease):
            yield
    finally:
        lease.give_back()


@contextmanager
def _locked(stage: str, run: Run) -> Iterator[None]:
    """Only one process at a time. The kernel frees the lock when its process ends, however that happens."""
    run.folder.mkdir(parents=True, exist_ok=True)
    path = run.folder / f"{stage}.lock"
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        holder = path.read_text(encoding="utf-8", errors="replace")
        print(f"[{run.name}] {stage}: waits for {holder}, which is at it", flush=True)
        lock.acquire()
    try:
        with named_in_errors(path):
            path.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        lock.release()
