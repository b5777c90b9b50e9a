"""Several processes of one server behind one port: each takes connections when it has time, follows the registry by itself and answers alone.

The first process listens and forks the others, so that what was imported lies in memory once. It answers nothing itself: it passes signals on, and
begins another process for one that has died.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from smar_model.errors import BAD_INPUT, InputError
from smar_model.lake.process_identity import end_with_parent

log = logging.getLogger("smar.serving")

PAUSE_SECONDS = 1.0
"""Before another process takes the place of one that has died."""
TELLING_SECONDS = 1.0
"""For another process to say what it has counted; one that takes longer is left out."""
ENDING = {signal.SIGTERM, signal.SIGINT}


def serve_in_processes(count: int, make: Callable[[], FastAPI], run: Callable[[FastAPI], None]) -> None:
    """Serve in so many processes until a signal comes and all have ended.

    Args:
        make: the application of a process.
        run: serves it until that process gets a signal.

    Raises:
        SystemExit: with a process's exit code, if the first ones cannot be made, or one does not end as told.
    """
    with tempfile.TemporaryDirectory(prefix="smar-serve-") as folder:
        places = [Path(folder, str(number)) for number in range(count)]

        def serve_alone(number: int, began: Callable[[], None]) -> None:
            app = make()
            app.state.metrics.shown = SharedMetrics(app.state.metrics.registry, places, number)
            began()
            run(app)

        codes = _Processes(serve_alone).keep(count)
    if failed := [code for code in codes if code]:
        sys.exit(failed[0])


class _Processes:
    def __init__(self, serve_alone: Callable[[int, Callable[[], None]], None]) -> None:
        self._serve_alone = serve_alone
        self._numbers: dict[int, int] = {}
        """PID → number."""
        self._ending = False

    def keep(self, count: int) -> list[int]:
        """Exit codes, once all have ended."""
        for kind in ENDING:
            signal.signal(kind, self._pass_on)
        codes: list[int] = []
        for number in range(count):
            # One after the other, so that what is wrong with all of them is said once.
            if not self._ending and not self._begin(number):
                self._pass_on(signal.SIGTERM, None)
        while self._numbers:
            pid, status = os.waitpid(-1, 0)
            number, code = self._numbers.pop(pid), os.waitstatus_to_exitcode(status)
            if self._ending:
                codes.append(code if code >= 0 else 128 - code)
                continue
            log.error("process %d of the server has ended with %d; another one begins", number, code)
            time.sleep(PAUSE_SECONDS)
            if not self._ending:
                self._begin(number)
        return codes

    def _begin(self, number: int) -> bool:
        """Whether a process has come as far as serving."""
        reading, writing = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # one that came now would miss the new process
        pid = os.fork()
        if not pid:
            os.close(reading)
            for kind in ENDING:
                signal.signal(kind, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
            end_with_parent()
            self._be(number, lambda: os.close(writing) if os.write(writing, b"1") else None)
        self._numbers[pid] = number
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        os.close(writing)
        with open(reading, "rb", buffering=0) as told:
            return bool(told.read(1))

    def _be(self, number: int, began: Callable[[], None]) -> NoReturn:
        """Never back into what the parent was doing, whose files and locks are not this process's."""
        code = 1
        try:
            # A signal to the terminal's foreground reaches the first process alone, which passes it on: twice would be told to end at once.
            os.setpgid(0, 0)
            self._serve_alone(number, began)
            code = 0
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            code = BAD_INPUT
        except BaseException:
            traceback.print_exc()
        finally:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _pass_on(self, kind: int, frame: FrameType | None) -> None:
        self._ending = True
        for pid in self._numbers:
            os.kill(pid, kind)


class SharedMetrics:
    """Metrics of all processes of a server, told apart by the label `process`: whichever is asked asks the others."""

    def __init__(self, registry: CollectorRegistry, places: Sequence[Path], number: int) -> None:
        """`places`: of each process, where it tells what it has counted."""
        self._registry, self._places, self._number = registry, places, number
        own = places[number]
        own.unlink(missing_ok=True)  # of the process before this one
        self._telling = socket.socket(socket.AF_UNIX)
        self._telling.bind(str(own))
        self._telling.listen()
        threading.Thread(target=self._tell, name="own-metrics", daemon=True).start()

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for number in range(len(self._places)):
            for family in text_string_to_metric_families(self._text_of(number)):
                known = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    labels = sample.labels | {"process": str(number)}
                    known.add_sample(sample.name, labels, sample.value)
        return families.values()

    def _text_of(self, number: int) -> str:
        if number == self._number:
            return generate_latest(self._registry).decode()
        try:
            with socket.socket(socket.AF_UNIX) as asking:
                asking.settimeout(TELLING_SECONDS)
                asking.connect(str(self._places[number]))
                with asking.makefile("rb") as told:
                    return told.read().decode()
        except OSError:  # it is beginning, or hangs
            return ""

    def _tell(self) -> None:
        while True:
            asked, _ = self._telling.accept()
            with asked:
                asked.settimeout(TELLING_SECONDS)
                try:
                    asked.sendall(generate_latest(self._registry))
                except OSError as error:
                    log.warning("another process of this server did not take the metrics: %s", error)
