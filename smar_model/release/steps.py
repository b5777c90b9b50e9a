"""Steps that change the world outside the lake (start, register, promote, publish-index, rollback, track): done again each time, not reused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from smar_model.errors import NothingToDo
from smar_model.lake.runs import Run


@contextmanager
def recorded_step(run: Run, step: str) -> Iterator[dict[str, Any]]:
    """Record a step's state as `run_stage` does for stages; what is put into the yielded dict is recorded with it."""
    run.write_state(step, "running")
    started = time.monotonic()
    details: dict[str, Any] = {}
    try:
        yield details
    except NothingToDo as nothing:
        run.write_state(step, "skipped", message=str(nothing), seconds=round(time.monotonic() - started, 1))
        raise
    except BaseException as error:
        run.write_failure(step, error, seconds=time.monotonic() - started)
        raise
    run.write_state(step, "finished", seconds=round(time.monotonic() - started, 1), **details)
