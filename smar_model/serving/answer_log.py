"""`smar serve --log PLACE`: what was shown and what shoppers did is kept in `click_log`'s own contract, and no answer waits for it.

Answers and events go into a bounded queue; what does not fit is dropped and counted. One thread takes them every few milliseconds, writes
them as rows and brings these to the disk at least once a second. A disk or a store that refuses is told once, counted, and tried again.
With an object store files lie in the home folder until they are whole, and another thread brings them there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

from smar_model.errors import InputError
from smar_model.lake.durable_files import make_folder
from smar_model.lake.object_store import SCHEMES, ObjectStore
from smar_model.serving.log_folder import MAXIMUM_FILE, SUFFIX, Finished, GrowingFile, finish_left_files
from smar_model.serving.log_rows import Entry, day_of, write_rows
from smar_model.serving.shopper_ids import ShopperIds, shopper_ids
from smar_model.settings import home
from smar_model.url_secrets import mask_secrets

log = logging.getLogger("smar.serving")

MAXIMUM_QUEUED = 200_000
"""Rows that wait to be written."""
MAXIMUM_HELD = 16_000_000
"""Bytes of rows that a disk has refused; while there are so many, none are taken from the queue."""
LOOK_SECONDS = 0.02
FLUSH_SECONDS = 0.5
RETRY_SECONDS = 1.0
LOOK_FOR_LEFT_SECONDS = 60.0
UPLOAD_SECONDS = 60.0
"""After which a file is finished that goes to an object store."""
CLOSE_SECONDS = 5.0
"""That a server which ends waits for its disk."""


class LogMetrics:
    """What Prometheus reads of a log."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.events = Counter("smar_log_events", "Rows written to the log's disk.", ["event"], registry=registry)
        self.dropped = Counter(
            "smar_log_dropped",
            "Rows not written, as the queue was full or the server ended.",
            ["event"],
            registry=registry,
        )
        self.queued = Gauge("smar_log_queued", "Rows that wait to be written.", registry=registry)
        self.failures = Counter(
            "smar_log_failures", "Times that the log's disk or store refused.", ["place"], registry=registry
        )


class Spool(Protocol):
    """Where whole files go."""

    place: str
    """As `--log` names it."""
    root: Path
    """Folder in which they grow."""
    longest_seconds: float | None
    """After which a file is finished, whatever its size; None: at the end of its day."""

    def send(self) -> None:
        """Bring all whole files to where they belong. Raises InputError, NoAnswer, OSError."""


class Folder:
    """A log in a folder: files are where they belong."""

    longest_seconds: float | None = None

    def __init__(self, place: str) -> None:
        self.place, self.root = place, Path(place).absolute()

    def send(self) -> None:
        """They are there."""


class Bucket:
    """A log in an object store."""

    longest_seconds: float | None = UPLOAD_SECONDS

    def __init__(self, url: str) -> None:
        """Raises InputError: it is no URL of a store."""
        try:
            self._store = ObjectStore(url)
        except InputError as error:
            raise InputError(str(error).replace("SMAR_STORE=", "--log ")) from None
        self.place = mask_secrets(url)
        self.root = home() / "answer-log" / sha256(self._store.url.encode()).hexdigest()[:16]

    def send(self) -> None:
        for file in sorted(self.root.glob(f"dt=*/[!.]*{SUFFIX}")):
            try:
                content = file.read_bytes()
            except FileNotFoundError:  # another server of this machine has just sent it
                continue
            # An object is named by its path in the home folder. Sent twice it is the same.
            self._store.put(home() / file.relative_to(self.root), content)
            file.unlink(missing_ok=True)


def open_place(place: str) -> Spool:
    """The folder or object store of a log; a folder is made where there is none.

    Raises:
        InputError: nothing can be written there.
    """
    if not place.strip():
        raise InputError("--log: no place is named; write the path of a folder, as SHOP/click_log")
    if place.startswith(SCHEMES) and not place.partition("://")[2].strip("/ "):
        scheme = place.partition("://")[0]
        raise InputError(f"--log {place}: names no bucket; write {scheme}://BUCKET/FOLDER")
    spool: Spool = Bucket(place) if place.startswith(SCHEMES) else Folder(place)
    if "://" in place and isinstance(spool, Folder):
        raise InputError(f"--log {place}: no object store; write {', '.join(SCHEMES)} or the path of a folder")
    try:
        make_folder(spool.root)
        GrowingFile(spool.root, 0.0).finish()
    except OSError as error:
        raise InputError(
            f"--log {place}: nothing can be written in {spool.root}: {error.strerror or error}; name a folder that this user may write to"
        ) from None
    return spool


def finish_log(place: str) -> Finished:
    """Finish what servers that are gone have left at a place, and send what is whole (`smar finish-log`).

    Raises:
        InputError: there is no such folder, it cannot be written to, or the store refuses.
        NoAnswer: the store does not answer.
    """
    if place.strip() and "://" not in place and not Path(place).is_dir():
        raise InputError(f"{place}: no folder, so there is no log; name the place as `smar serve --log` has it")
    spool = open_place(place)
    try:
        found = finish_left_files(spool.root)
        spool.send()
    except OSError as error:
        raise InputError(f"{error.filename or place}: {error.strerror or error}; then do this step again") from None
    return found


class AnswerLog:
    """The log of one server. `offer` may be called in any thread; it never waits."""

    def __init__(
        self,
        spool: Spool,
        ids: ShopperIds,
        registry: CollectorRegistry,
        *,
        clock: Callable[[], float] = time.time,
        maximum_file: int = MAXIMUM_FILE,
        maximum_queued: int = MAXIMUM_QUEUED,
    ) -> None:
        """`clock`: seconds since the epoch; `maximum_file`: bytes; `maximum_queued`: rows."""
        self.spool, self.ids = spool, ids
        self.registry, self.metrics = registry, LogMetrics(registry)
        self._clock, self._maximum_file, self._maximum_queued = clock, maximum_file, maximum_queued
        self._queue: deque[tuple[float, Entry]] = deque()
        self._rows = 0
        self._lock = threading.Lock()
        """Of both, and of the time that an entry gets: they lie in the order of their times."""
        self._files: dict[str, GrowingFile] = {}
        self._counts: dict[str, int] = {}
        """Kind of event → rows that are written and not on the disk yet."""
        self._flush_at = self._try_at = self._look_at = 0.0
        self._trouble = {"disk": "", "store": ""}
        """What each said when it last refused; empty: it works."""
        self._told_of: set[Path] = set()
        self._ending = threading.Event()
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []
        self.metrics.queued.set_function(lambda: float(self.waiting))

    @classmethod
    def at(cls, place: str, registry: CollectorRegistry) -> AnswerLog:
        """The log at a place, with this machine's key.

        Raises:
            InputError: nothing can be written there, or the key cannot be used.
        """
        return cls(open_place(place), shopper_ids(), registry)

    @property
    def waiting(self) -> int:
        """Rows that are not on the disk: those in the queue, and those that are written in memory alone."""
        return self._rows + sum(list(self._counts.values()))

    def problems(self) -> list[str]:
        """What `/readyz` is to tell."""
        waits = {
            "disk": f"{self.waiting:,} rows wait in memory",
            "store": f"whole files wait in {self.spool.root}",
        }
        return [
            f"--log {self.spool.place}: its {what} refuses ({said}); {waits[what]}"
            for what, said in self._trouble.items()
            if said
        ]

    def start(self) -> None:
        works = [self._write_until_end] + ([self._send_until_end] if self.spool.longest_seconds else [])
        self._threads = [threading.Thread(target=work, name="answer-log", daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Write what waits, and finish the files; what a refusing disk does not take within seconds is dropped and counted."""
        self._ending.set()
        for thread in self._threads:
            thread.join(CLOSE_SECONDS + RETRY_SECONDS)

    def offer(self, entries: Sequence[Entry]) -> int:
        """Have entries written, with the time that it is now; returns how many there was room for."""
        taken = 0
        with self._lock:
            now = self._clock()
            for entry in entries:
                if self._rows + entry.rows <= self._maximum_queued and not self._closed.is_set():
                    self._queue.append((now, entry))
                    self._rows += entry.rows
                    taken += 1
                else:
                    self.metrics.dropped.labels(entry.kind).inc(entry.rows)
        return taken

    def _write_until_end(self) -> None:
        while not self._ending.wait(LOOK_SECONDS):
            self._look()
        deadline = time.monotonic() + CLOSE_SECONDS
        while True:
            self._try_at = 0.0
            self._look(ending=True)
            if not (self._queue or self._files) or time.monotonic() > deadline:
                break
            time.sleep(LOOK_SECONDS)
        self._closed.set()
        self._drop_rest()

    def _look(self, *, ending: bool = False) -> None:
        """Write what has come, and do what is due. Raises nothing."""
        now = time.monotonic()
        if now < self._try_at:
            return
        try:
            moment = self._write_queue()
            if ending or now >= self._flush_at:
                self._flush_at = now + FLUSH_SECONDS
                self._flush()
            self._finish_files(moment, everything=ending)
            if now >= self._look_at:
                self._look_at = now + LOOK_FOR_LEFT_SECONDS
                self._finish_left()
            self._fares_well("disk")
        except Exception as error:
            self._try_at, self._flush_at = now + RETRY_SECONDS, 0.0
            self._fails("disk", error)

    def _write_queue(self) -> float | None:
        """Write rows into memory; returns the moment up to which all are written, None where some still wait."""
        with self._lock:
            moment, waiting = self._clock(), len(self._queue)
        for _ in range(waiting):
            if sum(len(file.held) for file in self._files.values()) >= MAXIMUM_HELD:
                return None
            with self._lock:
                time_, entry = self._queue[0]
            file = self._file_of(day_of(time_))
            try:
                rows = write_rows(time_, entry, self.ids)
            except Exception:  # no entry may keep those behind it waiting
                log.exception("rows of an answer could not be written, and are dropped")
                self.metrics.dropped.labels(entry.kind).inc(entry.rows)
                rows = b""
            with self._lock:
                self._queue.popleft()
                self._rows -= entry.rows
            file.held += rows
            self._counts[entry.kind] = self._counts.get(entry.kind, 0) + (entry.rows if rows else 0)
            if file.size >= self._maximum_file:
                self._flush()
                self._finish(file)
        return moment

    def _file_of(self, day: str) -> GrowingFile:
        if day not in self._files:
            self._files[day] = GrowingFile(self.spool.root / f"dt={day}", self._clock())
        return self._files[day]

    def _flush(self) -> None:
        for file in self._files.values():
            file.flush()
        for kind, count in self._counts.items():
            self.metrics.events.labels(kind).inc(count)
        self._counts.clear()

    def _finish_files(self, moment: float | None, *, everything: bool) -> None:
        """Finish the files to which nothing can come any more, and those whose time is over."""
        if moment is None:
            return
        today, longest = day_of(moment), self.spool.longest_seconds
        for day, file in list(self._files.items()):
            if everything or day < today or (longest and moment >= file.begun_at + longest):
                self._flush()
                self._finish(file)

    def _finish(self, file: GrowingFile) -> None:
        file.finish()
        self._files = {day: other for day, other in self._files.items() if other is not file}

    def _finish_left(self) -> None:
        found = finish_left_files(self.spool.root)
        for path in found.files:
            log.warning("a server that is gone had left %s: finished, %d bytes cut off", path, found.cut.get(path, 0))
        for path in found.untouched.keys() - self._told_of:
            log.warning("left %s: %s", path, found.untouched[path])
        self._told_of |= found.untouched.keys()

    def _send_until_end(self) -> None:
        again = 0.0
        while True:
            ended = self._closed.is_set()
            if ended or time.monotonic() >= again:
                try:
                    self.spool.send()
                    self._fares_well("store")
                except Exception as error:
                    again = time.monotonic() + RETRY_SECONDS
                    self._fails("store", error)
            if ended:
                return
            self._closed.wait(RETRY_SECONDS)

    def _fails(self, what: str, error: Exception) -> None:
        self.metrics.failures.labels(what).inc()
        said = f"{type(error).__name__}: {error}"
        if not self._trouble[what]:
            log.error(
                "the %s of the log refuses (--log %s: %s); it is tried again, answers go on",
                what,
                self.spool.place,
                said,
            )
        self._trouble[what] = said

    def _fares_well(self, what: str) -> None:
        if self._trouble[what]:
            log.warning("the %s of the log works again", what)
        self._trouble[what] = ""

    def _drop_rest(self) -> None:
        with self._lock:
            rest = [entry for _, entry in self._queue]
            self._queue.clear()
            self._rows = 0
        for entry in rest:
            self.metrics.dropped.labels(entry.kind).inc(entry.rows)
        for kind, count in self._counts.items():
            self.metrics.dropped.labels(kind).inc(count)
        if lost := sum(entry.rows for entry in rest) + sum(self._counts.values()):
            log.error("%d rows of the log are lost: the disk has refused them until the end", lost)
        self._counts.clear()
