"""Steps that change the world outside the lake (start, register, promote, publish-index, rollback, track): done again each time, not reused."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import TypedDict

from smar_model.errors import NothingToDo
from smar_model.lake.runs import Run

OUTCOME_FILE = "SMAR_OUTCOME"
"""Variable of the environment in which whoever starts a command, as a DAG's task does, names the file for its outcome: a JSON object of
texts. Unset: nobody asks."""


class Details(TypedDict, total=False):
    """What a step's state says beside how it ended."""

    metrics: dict[str, float | str]
    reused: bool
    version: str
    release_digest: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a step ended that may decide against a change."""

    kind: str
    """One word: promoted, unchanged, kept, …"""
    text: str
    """One line for people."""
    version: str
    """Of the registered model, that the step was about."""


@contextmanager
def recorded_step(run: Run, step: str) -> Iterator[Details]:
    """Record a step's state as `run_stage` does for stages; what is put into the yielded details is recorded with it."""
    run.write_state(step, "running")
    started, details = time.monotonic(), Details()
    try:
        yield details
    except NothingToDo as nothing:
        run.write_state(step, "skipped", message=str(nothing), seconds=round(time.monotonic() - started, 1))
        raise
    except BaseException as error:
        run.write_failure(step, error, seconds=time.monotonic() - started)
        raise
    run.write_state(step, "finished", seconds=round(time.monotonic() - started, 1), **details)


def decided_step(run: Run, step: str, decide: Callable[[], Outcome]) -> Outcome:
    """Do a step that has an outcome, record that, and hand it over."""
    with recorded_step(run, step) as details:
        outcome = decide()
        details["metrics"] = {"outcome": outcome.kind, "text": outcome.text}
    report_outcome(outcome=outcome.kind, text=outcome.text, version=outcome.version)
    return outcome


def report_outcome(**outcome: str) -> None:
    """Tell whoever started this command, as data, what came of it."""
    if file := os.environ.get(OUTCOME_FILE):
        Path(file).write_text(json.dumps(outcome), encoding="utf-8")
