"""Files that all machines of a deployment share: the lake, the records of runs, added encoders, the history of releases and the registry's lock.

    SMAR_STORE unset               they lie in SMAR_HOME, which one machine has or several see (`HomeFolder`)
    SMAR_STORE=s3://bucket/prefix  (gs://, az://) they lie there, by the same names; SMAR_HOME is this machine's own, and keeps copies
                                   (`ObjectStore`)

A file is named by its path in SMAR_HOME in both cases. Other paths (Airflow's own files, a page to commit) are plain files.
The functions of this module do for a path what `SharedFiles` says, where that path lies.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from smar_model.lake.durable_files import HomeFolder
from smar_model.settings import home

if TYPE_CHECKING:
    from smar_model.lake.object_store import ObjectStore

SHARED = {
    "lake",
    "runs",
    "encoders",
    "stock",
    "releases.jsonl",
    "releases.pending.json",
    "registry.lock",
    "registry.lock.number",
}
"""What of SMAR_HOME is shared, by the first part of its name."""


class SharedFiles(Protocol):
    """A place of files that machines share. What is written is on the disk, or in the store, when a method returns."""

    def is_file(self, path: Path) -> bool: ...

    def read_bytes(self, path: Path) -> bytes:
        """A file's content.

        Raises:
            FileNotFoundError: there is none.
            InputError: a folder, pipe or device has its name.
        """

    def read_files(self, paths: Iterable[Path]) -> dict[Path, bytes]:
        """Several at a time, without those that have gone meanwhile."""

    def create_if_absent(self, path: Path, text: str) -> bool:
        """Create a file with its whole content in one step; False where it existed already."""

    def replace_file(self, path: Path, text: str) -> None:
        """Write a file so that readers see the old content or the new, never a part."""

    def read_to_replace(self, path: Path) -> tuple[bytes, Any]:
        """A file's content, empty where there is none, and what `replace_unchanged` wants to know it again by."""

    def replace_unchanged(self, path: Path, text: str, known_by: Any) -> bool:
        """Replace a file that is still as it was read, as one step; False where somebody was first. An empty text removes it, or
        leaves it empty in an object store."""

    def move_unchanged(self, path: Path, to: Path, content: bytes) -> bool:
        """Move a file that still has this content; False where somebody was first. It is nowhere under both names."""

    def listed(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """Files and folders directly in a folder, by their names; none where there is no folder."""

    def sizes(self, folder: Path) -> dict[Path, int]:
        """All files below a folder → bytes."""

    def last_written(self, folder: Path) -> float:
        """When something in it was last written, in seconds since the epoch; 0 where there is nothing."""

    def share_files(self, paths: Iterable[Path]) -> None:
        """Let all machines see what this one has written, apart from `replace_file`."""

    def fetch_files(self, paths: Iterable[Path]) -> None:
        """Bring what all machines see to this one, over what it has of them.

        Raises:
            InputError: one is not there.
        """

    def remove_file(self, path: Path) -> None: ...

    def remove_folder(self, folder: Path) -> None:
        """With all that is in it. Raises OSError: a file of this machine cannot be removed."""


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


def files_at(path: Path) -> SharedFiles:
    """Where a file or folder lies."""
    found = store()
    if found is None or not path.is_relative_to(home()) or not {*path.relative_to(home()).parts[:1]} & SHARED:
        return HomeFolder()
    return found


def is_file(path: Path) -> bool:
    return files_at(path).is_file(path)


def read_bytes(path: Path) -> bytes:
    return files_at(path).read_bytes(path)


def read_file(path: Path) -> str:
    """Bytes that are no UTF-8 are replaced. Raises as `read_bytes` does."""
    return read_bytes(path).decode("utf-8", errors="replace")


def read_files(paths: Iterable[Path]) -> dict[Path, bytes]:
    paths = list(paths)
    return files_at(paths[0]).read_files(paths) if paths else {}


def create_if_absent(path: Path, text: str) -> bool:
    return files_at(path).create_if_absent(path, text)


def replace_file(path: Path, text: str) -> None:
    files_at(path).replace_file(path, text)


def read_to_replace(path: Path) -> tuple[bytes, Any]:
    return files_at(path).read_to_replace(path)


def replace_unchanged(path: Path, text: str, known_by: Any) -> bool:
    return files_at(path).replace_unchanged(path, text, known_by)


def move_unchanged(path: Path, to: Path, content: bytes) -> bool:
    return files_at(path).move_unchanged(path, to, content)


def files_in(folder: Path, suffix: str) -> list[Path]:
    """Files directly in a folder whose names end so; hidden ones are none."""
    return [p for p in files_at(folder).listed(folder)[0] if p.name.endswith(suffix) and not p.name.startswith(".")]


def folders_in(folder: Path) -> list[Path]:
    return files_at(folder).listed(folder)[1]


def folder_bytes(folder: Path) -> int:
    return sum(files_at(folder).sizes(folder).values())


def last_written(folder: Path) -> float:
    return files_at(folder).last_written(folder)


def share_files(paths: Iterable[Path]) -> None:
    paths = list(paths)
    if paths:
        files_at(paths[0]).share_files(paths)


def fetch_files(paths: Iterable[Path]) -> None:
    paths = list(paths)
    if paths:
        files_at(paths[0]).fetch_files(paths)


def fetched(path: Path) -> Path:
    """The file on this machine, as it is now; it may not be there at all."""
    if is_file(path):
        fetch_files([path])
    return path


def fetch_folder(folder: Path, *, suffix: str = "") -> None:
    """Bring all files below a folder that end so to this machine."""
    fetch_files(path for path in files_at(folder).sizes(folder) if path.name.endswith(suffix))


def complete_folder(folder: Path) -> None:
    """Likewise of files that never change, those that this machine lacks or has in part."""
    sizes = files_at(folder).sizes(folder)
    fetch_files(path for path, size in sizes.items() if not path.is_file() or path.stat().st_size != size)


def remove_file(path: Path) -> None:
    files_at(path).remove_file(path)


def remove_folder(folder: Path) -> None:
    files_at(folder).remove_folder(folder)
