"""Files of this machine that outlast a loss of power: what a name leads to is on the disk before the name is, and the name itself after.

`HomeFolder` keeps what machines share in a folder of their file system. obstore's LocalStore, which would make it one code with the object
store, is no substitute: it flushes neither files nor folders (its Rust library can, obstore has no option for it), knows no
compare-and-swap, and leaves a killed writer's half files under names that nothing tells from others.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from smar_model.errors import InputError
from smar_model.lake.process_identity import is_temporary, temporary_beside, writer_state
from smar_model.settings import home

TEMPORARY_AGE_SECONDS = 24 * 3600
"""What is being written by a process that cannot be asked for (another machine, another PID namespace) is swept after this long."""


@contextmanager
def named_in_errors(path: Path) -> Iterator[None]:
    """An error of what is written in the block names the file: a full disk does not, as it shows when nothing but a descriptor is left."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def guarded(path: Path) -> AbstractContextManager[object]:
    """Looking at a file and writing it are one step. The kernel frees this lock with its process, however that ends.

    Raises:
        OSError: the file system has no locks; one that is made of a file's existence would outlast a killed process.
    """
    return FileLock(path.with_suffix(".guard"), fallback_to_soft=False)


def flush(path: Path) -> None:
    """What was written to a file, or the names in a folder, are on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """With those above it, so that a machine that loses its power still has them."""
    missing = [path for path in (folder, *folder.parents) if not path.is_dir()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        flush(path.parent)


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


@contextmanager
def _written_beside(path: Path, content: str | bytes, mode: int = 0o666) -> Iterator[Path]:
    """A file with this content (text as UTF-8), on the disk, beside the name that it is to get; the folder is flushed when it has got it."""
    make_folder(path.parent)
    temporary = temporary_beside(path)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with named_in_errors(temporary), open(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(descriptor)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


def replace_plain_file(path: Path, content: str | bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part."""
    with _written_beside(path, content) as temporary:
        temporary.replace(path)


def create_plain_file(path: Path, text: str, *, mode: int = 0o666) -> bool:
    """Create a file with its whole content in one step; False where it existed already. `mode`: who may read it, less the umask."""
    with _written_beside(path, text, mode) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
    return True


def read_plain_file(path: Path) -> bytes:
    """A file's content.

    Raises:
        FileNotFoundError: there is none.
        InputError: a folder, pipe or device has its name.
    """
    # Not blocking: opening a pipe would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InputError(f"{path}: a folder, pipe or device where a file of SMAR lies; move it away")
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            return file.readall()
    finally:
        os.close(descriptor)


def _content_if_there(path: Path) -> bytes | None:
    with suppress(FileNotFoundError, NotADirectoryError, InputError):
        return read_plain_file(path)
    return None


class HomeFolder:
    """`SharedFiles` in a folder of this machine's file system, which others may see as well."""

    def is_file(self, path: Path) -> bool:
        return path.is_file()

    def read_bytes(self, path: Path) -> bytes:
        return read_plain_file(path)

    def read_files(self, paths: Iterable[Path]) -> dict[Path, bytes]:
        return {path: content for path in paths if (content := _content_if_there(path)) is not None}

    def create_if_absent(self, path: Path, text: str) -> bool:
        return create_plain_file(path, text)

    def replace_file(self, path: Path, text: str) -> None:
        replace_plain_file(path, text)

    def read_to_replace(self, path: Path) -> tuple[bytes, Any]:
        content = _content_if_there(path) or b""
        return content, content

    def replace_unchanged(self, path: Path, text: str, known_by: Any) -> bool:
        with guarded(path):
            if self.read_to_replace(path)[1] != known_by:
                return False
            if text:
                replace_plain_file(path, text)
            else:
                path.unlink(missing_ok=True)
        return True

    def move_unchanged(self, path: Path, to: Path, content: bytes) -> bool:
        make_folder(to.parent)
        with guarded(to.parent / "moves"):
            if _content_if_there(path) != content:
                return False
            path.replace(to)
            flush(to.parent)
            flush(path.parent)
        return True

    def listed(self, folder: Path) -> tuple[list[Path], list[Path]]:
        found = sorted(folder.glob("*"))
        return [path for path in found if path.is_file()], [path for path in found if path.is_dir()]

    def sizes(self, folder: Path) -> dict[Path, int]:
        return {file: file.lstat().st_size for file in folder.rglob("*") if file.is_file()}

    def last_written(self, folder: Path) -> float:
        return folder.stat().st_mtime

    def share_files(self, paths: Iterable[Path]) -> None:
        """They lie there already."""

    fetch_files = share_files

    def remove_file(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def remove_folder(self, folder: Path) -> None:
        if folder.exists():
            shutil.rmtree(folder)


def sweep_temporaries() -> int:
    """Remove what processes that are gone were writing when they were killed, or their disk was full; returns how many.

    Where a writer cannot be asked for, age decides.
    """
    found = [path for folder in (home(), home() / "registry-cache", home() / "encoders") for path in folder.glob(".*")]
    for top in ("runs", "lake"):
        for place, folders, files in os.walk(home() / top):
            found += [Path(place, name) for name in [*files, *folders] if name.startswith(".")]
    return sum(map(_sweep_temporary, found))


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
