"""Files that all machines of a deployment share: the lake, the records of runs, the history of releases and the registry's lock.

    SMAR_STORE unset               they lie in SMAR_HOME, which one machine has or several see
    SMAR_STORE=s3://bucket/prefix  (gs://, az://) they lie there, by the same names; SMAR_HOME is this machine's own, and keeps copies

A file is named by its path in SMAR_HOME in both cases. Other paths (Airflow's own files, a page to commit) are plain files.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smar_model.errors import InputError
from smar_model.lake.process_identity import is_temporary, temporary_beside, writer_state
from smar_model.settings import home

if TYPE_CHECKING:
    from smar_model.lake.object_store import ObjectStore

SHARED = {"lake", "runs", "releases.jsonl", "releases.pending.json", "registry.lock", "registry.lock.number"}
"""What of SMAR_HOME is shared, by the first part of its name."""
TEMPORARY_AGE_SECONDS = 24 * 3600
"""What is being written by a process that cannot be asked for (another machine, another PID namespace) is swept after this long."""


def store() -> ObjectStore | None:
    """The object store that SMAR_STORE names.

    Raises:
        InputError: it is no URL of one.
    """
    url = os.environ.get("SMAR_STORE")
    return _opened(url) if url else None


@lru_cache(maxsize=4)
def _opened(url: str) -> ObjectStore:
    from smar_model.lake.object_store import ObjectStore

    return ObjectStore(url)


def _shared(path: Path) -> tuple[ObjectStore, str] | None:
    """Store and name of a file that lies there."""
    found = store()
    if found is None or not path.is_relative_to(home()):
        return None
    name = path.relative_to(home())
    return (found, name.as_posix()) if name.parts and name.parts[0] in SHARED else None


def read_file(path: Path) -> str:
    """Bytes that are no UTF-8 are replaced. Raises as `read_bytes` does."""
    return read_bytes(path).decode("utf-8", errors="replace")


def read_bytes(path: Path) -> bytes:
    """A file's content.

    Raises:
        FileNotFoundError: there is none.
        InputError: a folder, pipe or device has its name.
    """
    if (shared := _shared(path)) is None:
        return _read_plain_file(path)
    content = shared[0].read(shared[1])
    if content is None:
        raise FileNotFoundError(f"{shared[0].url}/{shared[1]}")
    return content[0]


def read_files(paths: Iterable[Path]) -> dict[Path, bytes]:
    """Several at a time, without those that have gone meanwhile."""
    paths = list(paths)
    if not paths or (shared := _shared(paths[0])) is None:
        contents: list[bytes | None] = [_read_if_there(path) for path in paths]
    else:
        contents = shared[0].read_many(path.relative_to(home()).as_posix() for path in paths)
    return {path: content for path, content in zip(paths, contents, strict=True) if content is not None}


def _read_plain_file(path: Path) -> bytes:
    # Not blocking: opening a pipe would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{path}: a folder, pipe or device where a file of SMAR lies; move it away")
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        return file.readall()


def _read_if_there(path: Path) -> bytes | None:
    try:
        return _read_plain_file(path)
    except (FileNotFoundError, NotADirectoryError, InputError):
        return None


def is_file(path: Path) -> bool:
    shared = _shared(path)
    return shared[0].exists(shared[1]) if shared else path.is_file()


def create_if_absent(path: Path, text: str) -> bool:
    """Create a file with its whole content in one step; False where it existed already."""
    if shared := _shared(path):
        if not shared[0].create(shared[1], text.encode()):
            return False
        _write_whole(path, text)
        return True
    make_folder(path.parent)
    temporary = temporary_beside(path)
    try:
        write_durably(temporary, text)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)
    return True


def replace_file(path: Path, text: str) -> None:
    """Write a file so that readers see the old content or the new, never a part."""
    if shared := _shared(path):
        shared[0].put(shared[1], text.encode())
    _write_whole(path, text)


def _write_whole(path: Path, text: str) -> None:
    make_folder(path.parent)
    temporary = temporary_beside(path)
    try:
        write_durably(temporary, text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush(path.parent)


@contextmanager
def named_in_errors(path: Path) -> Iterator[None]:
    """An error of what is written in the block names the file: a full disk does not, as it shows when nothing but a descriptor is left."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def make_folder(folder: Path) -> None:
    """With those above it, so that a machine that loses its power still has them."""
    missing = [path for path in (folder, *folder.parents) if not path.is_dir()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        flush(path.parent)


def flush(path: Path) -> None:
    """What was written to a file, or the names in a folder, are on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_files(files: Iterable[Path], *, root: Path) -> None:
    """Files below `root`, then all folders that lead to them, `root` and the one that it lies in last."""
    files = list(files)
    for file in files:
        flush(file)
    folders = {folder for file in files for folder in file.parents if folder.is_relative_to(root)} | {root}
    for folder in [*sorted(folders, key=lambda folder: len(folder.parts), reverse=True), root.parent]:
        flush(folder)


def copy_files(files: Iterable[Path], *, root: Path, to: Path) -> None:
    """Copy files below `root` to the same places below another folder: each is there whole or as it was, and all are on the disk."""
    copies = {file: to / file.relative_to(root) for file in files}
    for file, copy in copies.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(copy)
        shutil.copyfile(file, temporary)
        flush(temporary)
        temporary.replace(copy)
    flush_files(copies.values(), root=to)


def write_durably(path: Path, text: str) -> None:
    with named_in_errors(path), path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read_to_replace(path: Path) -> tuple[bytes, Any]:
    """A file's content, empty where there is none, and what `replace_unchanged` wants to know it again by."""
    if shared := _shared(path):
        from smar_model.lake.object_store import Version

        return shared[0].read(shared[1]) or (b"", Version())
    content = _read_if_there(path) or b""
    return content, content


def replace_unchanged(path: Path, text: str, known_by: Any) -> bool:
    """Replace a file that is still as it was read, as one step; False where somebody was first. An empty text removes it, or
    leaves it empty in an object store."""
    if shared := _shared(path):
        return shared[0].swap(shared[1], text.encode("utf-8", "surrogateescape"), known_by)
    with guarded(path):
        if read_to_replace(path)[1] != known_by:
            return False
        if text:
            replace_file(path, text)
        else:
            path.unlink(missing_ok=True)
    return True


@contextmanager
def guarded(path: Path) -> Iterator[FileIO]:
    """Looking and writing are one step; the kernel frees this lock with its process. Yields the file that is locked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".guard").open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def draw_number(path: Path) -> int:
    """A number for a holder of a lock, larger than all that were drawn for it before. Should the file that keeps the last one be lost
    or damaged, the clock still is ahead of it: numbers are milliseconds since the epoch, at least."""
    if _shared(path):
        kept = _number_object(path)
        while True:
            old, known_by = read_to_replace(kept)
            number = _next_number(old)
            if replace_unchanged(kept, str(number), known_by):
                return number
    with guarded(path) as file, named_in_errors(path.with_suffix(".guard")):
        file.seek(0)
        number = _next_number(file.read())
        file.truncate(0)  # opened for appending
        file.write(str(number).encode())
        os.fsync(file.fileno())
    return number


def last_number(path: Path) -> int:
    """The last one that was drawn; 0 where it is not known."""
    kept = _number_object(path) if _shared(path) else path.with_suffix(".guard")
    return _number(read_to_replace(kept)[0])


def _number_object(path: Path) -> Path:
    return path.with_name(f"{path.name}.number")


def _number(content: bytes) -> int:
    return int(content) if re.fullmatch(rb"\d{1,18}", content) else 0


def _next_number(old: bytes) -> int:
    return max(_number(old) + 1, time.time_ns() // 1_000_000)


def move_unchanged(path: Path, to: Path, content: bytes) -> bool:
    """Move a file that still has this content; False where somebody was first. It is nowhere under both names."""
    if shared := _shared(path):
        now = shared[0].read(shared[1])
        # Emptied first, so that one of several does it.
        if now is None or now[0] != content or (content and not shared[0].swap(shared[1], b"", now[1])):
            return False
        shared[0].put(to.relative_to(home()).as_posix(), content)
        remove_file(path)
        return True
    make_folder(to.parent)
    with guarded(to.parent / "moves"):
        if _read_if_there(path) != content:
            return False
        path.replace(to)
        flush(to.parent)
        flush(path.parent)
    return True


def sweep_temporaries() -> int:
    """Remove what processes that are gone were writing when they were killed, or their disk was full; returns how many.

    Where a writer cannot be asked for, age decides.
    """
    swept = 0
    for folder in (home(), home() / "registry-cache"):
        swept += sum(_sweep_temporary(path) for path in folder.glob(".*"))
    for top in ("runs", "lake"):
        for place, folders, files in os.walk(home() / top):
            swept += sum(_sweep_temporary(Path(place, name)) for name in [*files, *folders] if name.startswith("."))
    return swept


def _sweep_temporary(path: Path) -> bool:
    if not is_temporary(path.name):
        return False
    try:
        state = writer_state(path.name)
        if state == "alive" or (state == "unknown" and time.time() - path.lstat().st_mtime < TEMPORARY_AGE_SECONDS):
            return False
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError:  # gone meanwhile, or not ours to remove: it is in nobody's way
        return False
    return True


def files_in(folder: Path, suffix: str) -> list[Path]:
    """Files directly in a folder whose names end so; none where there is no folder."""
    if shared := _shared(folder):
        names = [name for name in shared[0].directly_in(shared[1])[0] if not Path(name).name.startswith(".")]
        return [home() / name for name in names if name.endswith(suffix)]
    return sorted(path for path in folder.glob(f"[!.]*{suffix}") if path.is_file())


def folders_in(folder: Path) -> list[Path]:
    if shared := _shared(folder):
        return [home() / name for name in shared[0].directly_in(shared[1])[1]]
    return sorted(path for path in folder.glob("*") if path.is_dir())


def share_files(paths: Iterable[Path]) -> None:
    """Let all machines see what this one has written, apart from `replace_file`."""
    if shared := [(found, path) for path in paths if (found := _shared(path))]:
        shared[0][0][0].upload({name: path for (_, name), path in shared})


def fetch_files(paths: Iterable[Path]) -> None:
    """Bring what all machines see to this one, over what it has of them.

    Raises:
        InputError: one is not there.
    """
    if shared := [(found, path) for path in paths if (found := _shared(path))]:
        shared[0][0][0].download({name: path for (_, name), path in shared})
        for folder in {path.parent for _, path in shared}:
            flush(folder)


def fetched(path: Path) -> Path:
    """The file on this machine, as it is now; it may not be there at all."""
    if (shared := _shared(path)) and shared[0].exists(shared[1]):
        fetch_files([path])
    return path


def fetch_folder(folder: Path, *, suffix: str = "") -> None:
    """Bring all files below a folder that end so to this machine."""
    if shared := _shared(folder):
        fetch_files(home() / found.name for found in shared[0].within(shared[1]) if found.name.endswith(suffix))


def complete_folder(folder: Path) -> None:
    """Likewise of files that never change, those that this machine lacks or has in part."""
    if shared := _shared(folder):
        found = {home() / entry.name: entry.bytes for entry in shared[0].within(shared[1])}
        fetch_files(path for path, size in found.items() if not path.is_file() or path.stat().st_size != size)


def remove_file(path: Path) -> None:
    if shared := _shared(path):
        shared[0].delete([shared[1]])
    path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """With all that is in it. Raises OSError: a file of this machine cannot be removed."""
    if shared := _shared(folder):
        shared[0].delete([found.name for found in shared[0].within(shared[1])])
    if folder.exists():
        shutil.rmtree(folder)


def folder_bytes(folder: Path) -> int:
    if shared := _shared(folder):
        return sum(found.bytes for found in shared[0].within(shared[1]))
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())


def last_written(folder: Path) -> float:
    """When something in it was last written, in seconds since the epoch; 0 where there is nothing."""
    if shared := _shared(folder):
        return max((found.modified.timestamp() for found in shared[0].within(shared[1])), default=0.0)
    return folder.stat().st_mtime
