"""What a stage takes of the machine while it works, with all processes that it starts: a line of JSON every few seconds.

<home>/runs/<run>/<stage>.resources.jsonl: {seconds, cpu_percent, memory_mib, machine_memory_percent, gpu_memory_mib?}
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

FIRST_SECONDS, MOST_SECONDS = 1.0, 10.0
"""Between two samples: short at first, so that short stages have some too, then longer, so that long ones have not too many."""


_OTHERS: set[int] = set()


@contextmanager
def counted_too(process: int) -> Iterator[None]:
    """Sample a process that works for this one and is no descendant of it, with its own descendants, until the block ends."""
    _OTHERS.add(process)
    try:
        yield
    finally:
        _OTHERS.discard(process)


@contextmanager
def recorded_resources(file: Path) -> Iterator[None]:
    """Sample this process and its descendants until the block ends. The file is begun anew."""
    file.parent.mkdir(parents=True, exist_ok=True)
    ended = threading.Event()
    with file.open("w", encoding="utf-8") as lines:

        def sample() -> None:
            processes: dict[int, psutil.Process] = {}
            began, pause = time.monotonic(), FIRST_SECONDS
            _use(processes)  # CPU is measured since the last look: the first says nothing
            while not ended.wait(pause):
                used = {"seconds": round(time.monotonic() - began, 1)} | _use(processes)
                lines.write(json.dumps(used) + "\n")
                lines.flush()
                pause = min(MOST_SECONDS, 1.3 * pause)

        sampler = threading.Thread(target=sample, name="resources", daemon=True)
        sampler.start()
        try:
            yield
        finally:
            ended.set()
            sampler.join()


def _use(processes: dict[int, psutil.Process]) -> dict[str, float]:
    """CPU (100: one core) since the last look at the same `processes`, which are brought up to date, and memory."""
    for root in (os.getpid(), *_OTHERS):
        with suppress(psutil.NoSuchProcess):
            for process in ((found := psutil.Process(root)), *found.children(recursive=True)):
                processes.setdefault(process.pid, process)
    cpu, memory = 0.0, 0
    for pid, process in list(processes.items()):
        try:
            cpu += process.cpu_percent()
            memory += process.memory_info().rss
        except psutil.Error:
            del processes[pid]
    used = {
        "cpu_percent": round(cpu, 1),
        "memory_mib": round(memory / 2**20, 1),
        "machine_memory_percent": psutil.virtual_memory().percent,
    }
    # Not imported for this alone; and while the stage's thread imports it, there is only half of it.
    cuda = sys.modules.get("torch.cuda")
    is_initialized = getattr(cuda, "is_initialized", None)
    if cuda and is_initialized and is_initialized():
        used["gpu_memory_mib"] = round(cuda.memory_reserved() / 2**20, 1)
    return used
