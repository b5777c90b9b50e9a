"""Ending what was started, children of children included, on Linux."""

from __future__ import annotations

import ctypes
import time
from contextlib import suppress

import psutil

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """From now on a descendant whose parent dies becomes this process's child, where `end_all` finds it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_all(patience: float = 15.0) -> None:
    """End every descendant of this process: SIGTERM, then SIGKILL for those that are left after `patience` seconds."""
    asked: set[psutil.Process] = set()
    deadline = time.monotonic() + patience
    while living := _descendants():
        late = time.monotonic() >= deadline
        for process in living:
            with suppress(psutil.NoSuchProcess):
                if late:
                    process.kill()
                elif process not in asked:
                    process.terminate()
        asked |= set(living)
        psutil.wait_procs(living, timeout=0.5)


def _descendants() -> list[psutil.Process]:
    living = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                living.append(process)
    return living
