"""Files that all machines of a deployment share: the lake, the records of runs, the history of releases and the registry's lock.

    SMAR_STORE unset               they lie in SMAR_HOME, which one machine has or several see
    SMAR_STORE=s3://bucket/prefix  (gs://, az://) they lie there, by the same names; SMAR_HOME is this machine's own, and keeps copies

A file is named by its path in SMAR_HOME in both cases. Other paths (Airflow's own files, a page to commit) are plain files.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smar_model.settings import home

if TYPE_CHECKING:
    from smar_model.lake.object_store import ObjectStore

SHARED = {"lake", "runs", "releases.jsonl", "releases.pending.json", "registry.lock"}
"""What of SMAR_HOME is shared, by the first part of its name."""


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
    """Raises FileNotFoundError: there is none."""
    if (shared := _shared(path)) is None:
        return path.read_text(encoding="utf-8")
    content = shared[0].read(shared[1])
    if content is None:
        raise FileNotFoundError(f"{shared[0].url}/{shared[1]}")
    return content[0].decode("utf-8")


def read_files(paths: Iterable[Path]) -> list[str]:
    """Several at a time, without those that have gone meanwhile."""
    paths = list(paths)
    if not paths or (shared := _shared(paths[0])) is None:
        return [path.read_text(encoding="utf-8") for path in paths if path.is_file()]
    contents = shared[0].read_many(path.relative_to(home()).as_posix() for path in paths)
    return [content.decode("utf-8") for content in contents if content is not None]


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
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
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
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    write_durably(temporary, text)
    temporary.replace(path)
    flush(path.parent)


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


def write_durably(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read_to_replace(path: Path) -> tuple[str, Any]:
    """A file's text, empty where there is none, and what `replace_unchanged` wants to know it again by."""
    if shared := _shared(path):
        from smar_model.lake.object_store import Version

        content = shared[0].read(shared[1])
        return (content[0].decode("utf-8"), content[1]) if content else ("", Version())
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return text, text


def replace_unchanged(path: Path, text: str, known_by: Any) -> bool:
    """Replace a file that is still as it was read, as one step; False where somebody was first. An empty text removes it, or
    leaves it empty in an object store."""
    if shared := _shared(path):
        return shared[0].swap(shared[1], text.encode(), known_by)
    with _guarded(path):
        if read_to_replace(path)[1] != known_by:
            return False
        if text:
            replace_file(path, text)
        else:
            path.unlink(missing_ok=True)
    return True


def move_unchanged(path: Path, text: str, target: Path) -> bool:
    """Move a file that is still as it was read, as one step; False where somebody was first."""
    if shared := _shared(path):
        content = shared[0].read(shared[1])
        if content is None or content[0] != text.encode():
            return False
        # No store deletes under a condition. What could come between takes a stage's whole work.
        replace_file(target, text)
        remove_file(path)
        return True
    with _guarded(target):
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            return False
        path.replace(target)
        flush(target.parent)
        flush(path.parent)
    return True


@contextmanager
def _guarded(path: Path) -> Iterator[None]:
    """Looking and writing are one step; the kernel frees this lock with its process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".guard").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
