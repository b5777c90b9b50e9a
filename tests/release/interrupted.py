"""Commands that are killed, or lose the registry, at a stated step: each call of MLflow's client that writes, each verification, and
each write of the record is one. Between two of them nothing changes outside the process.

As a program it waits for lines of JSON, {"arguments": […], "step": n}, runs the `smar` command in a child that kills itself right before
its step n, or the first one of a name, and answers with the child's exit code, negative for a signal. One process does all, as importing takes seconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

READS = ("get_", "search_", "list_")
WRITES = ("set_", "create_", "delete_", "log_")
LOST = "the connection to the registry was lost"


class Steps:
    """Counts the steps of what runs under it, and calls `before` and `after` each with its number."""

    def __init__(self, before: Callable[[int], None], after: Callable[[int], None] = lambda step: None) -> None:
        self.before, self.after = before, after
        self.count = self.depth = 0
        self.names: list[str] = []
        self.is_lost = False
        """From when on no call of the client is answered."""

    def watched(self, function: Callable[..., Any], *, is_counted: bool = True) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            if self.is_lost:
                raise MlflowException(LOST)
            if self.depth or not is_counted:
                return function(*arguments, **options)
            self.count += 1
            self.names.append(function.__name__)
            self.depth += 1
            try:
                self.before(self.count)
                found = function(*arguments, **options)
                self.after(self.count)
                return found
            finally:
                self.depth -= 1

        return call

    def watch_registry(self, patch: pytest.MonkeyPatch, *, count_reads: bool = False) -> None:
        for name in dir(MlflowClient):
            function = getattr(MlflowClient, name)
            if name.startswith((*READS, *WRITES)):
                is_counted = count_reads or name.startswith(WRITES)
                patch.setattr(MlflowClient, name, self.watched(function, is_counted=is_counted))

    def watch_record(self, patch: pytest.MonkeyPatch) -> None:
        from smar_model.lake.runs import Run
        from smar_model.release import changes, promote, publish_index, register, rollback

        for place, name in (
            (changes, "write_pending"),
            (changes, "append_history"),
            (promote, "append_history"),
            (register, "sign_manifest"),
            (register, "record_manifest"),
            (publish_index, "sign_index"),
            *((module, "verify_release") for module in (promote, publish_index, rollback)),
            (Run, "write_state"),
        ):
            patch.setattr(place, name, self.watched(getattr(place, name)))


@contextmanager
def registry_lost_at(step: int) -> Iterator[Steps]:
    """The registry does what it is asked in this step, but its answer is lost, and from then on it cannot be reached."""

    def lose(count: int) -> None:
        if count == step:
            steps.is_lost = True
            raise MlflowException(LOST)

    steps = Steps(lambda count: None, lose)
    with pytest.MonkeyPatch.context() as patch:
        steps.watch_registry(patch)
        yield steps


def die_at(steps: Steps, wanted: int | str, count: int) -> None:
    if wanted in {count, steps.names[-1]}:
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    import faiss  # noqa: F401
    import pandas  # noqa: F401
    import torch  # noqa: F401

    import smar_model.cli
    import smar_model.release.prune
    import smar_model.release.publish_index
    import smar_model.release.register
    import smar_model.release.rollback
    import smar_model.retrieval.pyfunc_model
    import smar_model.retrieval.search

    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            os.dup2(2, 1)
            sys.argv = ["smar", *asked["arguments"]]
            with pytest.MonkeyPatch.context() as patch:
                steps = Steps(lambda count: None)
                steps.before = partial(die_at, steps, asked["step"])
                steps.watch_registry(patch)
                steps.watch_record(patch)
                try:
                    smar_model.cli.main()
                except SystemExit as ended:
                    os._exit(int(ended.code or 0))
                except BaseException as error:
                    print(f"{type(error).__name__}: {error}", file=sys.stderr)
                    os._exit(1)
            os._exit(0)
        print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])), flush=True)


if __name__ == "__main__":
    main()
