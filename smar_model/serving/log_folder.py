"""Files of a log, in folders dt=YYYY-MM-DD: JSON lines that grow under a hidden name and get their own when they are whole.

The hidden name tells who is writing (`process_identity.py`), and the writer holds the kernel's lock of the file, so that what a killed
process has left can be told from what a living one is writing. `finish_left_files` cuts off a torn last line and gives it its name.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from smar_model.lake.durable_files import flush, make_folder, named_in_errors
from smar_model.lake.process_identity import is_temporary, temporary_beside, writer_state

log = logging.getLogger("smar.serving")

MAXIMUM_FILE = 64_000_000
"""Bytes, about: then a file is finished and another begun."""
TOUCHED_SECONDS = 30.0
"""A living writer touches its file so often, whether there is anything to write or not."""
LEFT_SECONDS = 300.0
"""What a process writes that cannot be asked for (another machine, another container) is left if untouched for so long, and unlocked."""
SUFFIX = ".jsonl"
_TAIL = 1 << 20


class GrowingFile:
    """A file of one day, written at its end; what has not been flushed is held here, and written again after a failure."""

    def __init__(self, folder: Path, now: float) -> None:
        """Raises OSError: it cannot be made."""
        make_folder(folder)
        name = f"smar-{datetime.fromtimestamp(now, UTC):%H%M%S}-{secrets.token_hex(4)}{SUFFIX}"
        self.path = folder / name
        self.hidden = temporary_beside(self.path)
        self.begun_at = now
        self.flushed = 0
        """Bytes that are on the disk."""
        self.held = bytearray()
        """Bytes that are not, or not surely."""
        self._touch_at = time.monotonic() + TOUCHED_SECONDS
        self._descriptor = os.open(self.hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    @property
    def size(self) -> int:
        return self.flushed + len(self.held)

    def flush(self) -> None:
        """Bring what is held to the disk.

        Raises:
            OSError: the disk refuses this file, which it names; the same is written again, to the same place, by the next call.
        """
        with named_in_errors(self.hidden):
            self._flush()

    def _flush(self) -> None:
        if self.held:
            written, content = 0, bytes(self.held)  # a copy: what an error still refers to could not grow
            while written < len(content):
                written += os.pwrite(self._descriptor, content[written:], self.flushed + written)
            os.fsync(self._descriptor)
            if not self.flushed:  # its name too
                flush(self.path.parent)
            self.flushed += len(self.held)
            self.held.clear()
        elif time.monotonic() >= self._touch_at:
            os.utime(self._descriptor)
        else:
            return
        self._touch_at = time.monotonic() + TOUCHED_SECONDS

    def finish(self) -> Path | None:
        """Flush, and give the file its name; None where it has nothing. Raises OSError as `flush`: it can be called again."""
        self.flush()
        with named_in_errors(self.hidden):
            os.ftruncate(self._descriptor, self.flushed)
            os.fsync(self._descriptor)
        if self.flushed:
            if self.hidden.exists():
                self.hidden.rename(self.path)
            elif not self.path.exists():  # else the call before renamed it, and its last step failed
                log.error("%s has been removed while it was written: its rows are lost", self.hidden)
        else:
            self.hidden.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            flush(self.path.parent)
        os.close(self._descriptor)
        return self.path if self.flushed else None


@dataclass(slots=True)
class Finished:
    """What `finish_left_files` found."""

    files: list[Path] = field(default_factory=list)
    """Those that have got their names."""
    cut: dict[Path, int] = field(default_factory=dict)
    """Of these the ones with a torn last line → its bytes."""
    empty: int = 0
    """Files without a whole line, which were removed."""
    growing: list[Path] = field(default_factory=list)
    """Files that a living process writes, or one that cannot be asked for has written lately."""
    untouched: dict[Path, str] = field(default_factory=dict)
    """What has the name of such a file and is none, or cannot get its own → why."""

    def lines(self) -> list[str]:
        """What to tell people."""
        return list(self._lines())

    def _lines(self) -> Iterator[str]:
        for file in self.files:
            torn = f"; {self.cut[file]:,} bytes of a torn last line cut off" if file in self.cut else ""
            yield f"finished {file}{torn}"
        if self.empty:
            yield f"removed {self.empty} without a whole line"
        for file in self.growing:
            yield f"left {file}: a living process writes it, or one of another machine has within {LEFT_SECONDS:g} s"
        for file, why in self.untouched.items():
            yield f"left {file}: {why}"


def finish_left_files(root: Path) -> Finished:
    """Finish what processes that are gone were writing below a log's folder. Any number of processes may do so at once.

    Raises:
        OSError: a file cannot be read, cut or renamed.
    """
    found = Finished()
    for hidden in sorted(root.glob(f"dt=*/.*{SUFFIX}.*")):
        if is_temporary(hidden.name):
            with suppress(FileNotFoundError):  # somebody else has just finished it
                _finish(hidden, found)
    return found


def _finish(hidden: Path, found: Finished) -> None:
    state, mode = writer_state(hidden.name), hidden.lstat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "a folder, pipe or device"
        found.untouched[hidden] = f"{kind}, which no server has made; remove it"
        return
    descriptor = os.open(hidden, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        lately = time.time() - os.fstat(descriptor).st_mtime < LEFT_SECONDS
        if state == "alive" or (state == "unknown" and lately) or not _locked(descriptor, hidden):
            found.growing.append(hidden)
            return
        size = os.fstat(descriptor).st_size
        whole = _whole_bytes(descriptor, size)
        if not whole:
            hidden.unlink()
            found.empty += 1
        else:
            path = hidden.with_name(hidden.name[1:].rpartition(".")[0])
            if not _named(descriptor, hidden, path, whole):
                found.untouched[hidden] = f"{path.name} exists already; move one of the two away"
                return
            found.files.append(path)
            if whole < size:
                found.cut[path] = size - whole
        flush(hidden.parent)
    finally:
        os.close(descriptor)


def _named(descriptor: int, hidden: Path, path: Path, whole: int) -> bool:
    """Cut a file to its whole lines and give it its name; False where another file has it."""
    if os.path.lexists(path) and not os.path.samestat(path.lstat(), os.fstat(descriptor)):
        return False
    os.ftruncate(descriptor, whole)
    os.fsync(descriptor)
    try:
        os.link(hidden, path)  # which never replaces a file, as a rename would
    except FileExistsError:
        if not os.path.samestat(path.lstat(), os.fstat(descriptor)):
            return False  # else a finisher was killed between this step and the next
    hidden.unlink()
    return True


def _locked(descriptor: int, hidden: Path) -> bool:
    """Take the file's lock, which its writer or another finisher may have. Raises FileNotFoundError: it has been finished meanwhile."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.stat(hidden).st_ino == os.fstat(descriptor).st_ino


def _whole_bytes(descriptor: int, size: int) -> int:
    """Up to where a file is whole lines: a lost power may leave half a line at its end, or bytes that were never written."""
    end = size
    while end > 0:
        start = max(0, end - _TAIL)
        tail = os.pread(descriptor, end - start, start)
        last = tail.rfind(b"\n")
        if last < 0:
            end = start
            continue
        before = tail.rfind(b"\n", 0, last)
        try:
            json.loads(tail[before + 1 : last])
        except ValueError:
            end = start + before + 1 if before >= 0 else start
            continue
        return start + last + 1
    return 0
