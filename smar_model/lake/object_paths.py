"""Files and folders in an object store, named and read as those of a disk are: what a shop delivers, and what Spark's workers read of the lake.

`ObjectPath` has of `pathlib.Path` what readers of delivered files use; `place_of` gives the one or the other. Nothing is written by it.

An object is read in ranges, and all of them must be of the content that the first look met (its ETag): one that is replaced meanwhile is named.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any

from smar_model.errors import NoAnswer
from smar_model.settings import SCHEMES

if TYPE_CHECKING:
    from datetime import datetime

READ_AT_ONCE = 8 * 2**20
"""Bytes of a request of who reads from the beginning to the end."""


@dataclass(frozen=True, slots=True)
class ObjectState:
    """What a store says of an object."""

    st_size: int
    """Bytes; named as `os.stat_result` does."""
    e_tag: str
    """Empty: not known."""
    modified: datetime
    sha256: str = ""
    """Of its content, where it is a file of the lake that a manifest lists."""

    @property
    def st_mtime(self) -> float:
        return self.modified.timestamp()


@dataclass(frozen=True, slots=True, order=True)
class ObjectPath:
    """An object, or what several have for the beginning of their names.

    Every method raises InputError where the store refuses, and NoAnswer where it cannot be reached, after bounded retries.
    """

    url: str
    """Of the store, without a slash at its end: `s3://bucket` or `s3://bucket/prefix`."""
    inner: str = ""
    """Name below it."""
    known: ObjectState | None = field(default=None, compare=False, repr=False)
    """What a listing has said of it: it is not asked for again, and read as that content alone."""

    def __str__(self) -> str:
        return f"{self.url}/{self.inner}" if self.inner else self.url

    def __truediv__(self, name: str | PurePosixPath) -> ObjectPath:
        return ObjectPath(self.url, f"{self.inner}/{name}" if self.inner else str(name))

    @property
    def name(self) -> str:
        return str(self).rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.url, self.inner.rpartition("/")[0])

    def stat(self) -> ObjectState:
        """What the store says of the object.

        Raises:
            FileNotFoundError: there is none.
        """
        if self.known:
            return self.known
        with _told(self.url):
            try:
                return _state_of(_stores().obstore.head(_store_at(self.url), self.inner))
            except FileNotFoundError:
                pass
        raise FileNotFoundError(f"{self}: no such object")

    def is_file(self) -> bool:
        if not self.inner:
            return False
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        return next(self._listed(chunk=1), None) is not None

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator[ObjectPath]:
        """What is directly in a folder; nothing where there is none."""
        with _told(self.url):
            found = _stores().obstore.list_with_delimiter(_store_at(self.url), f"{self.inner}/" if self.inner else None)
        for each in found["objects"]:
            # Consoles make a folder by an empty object that is named as it.
            if each["path"] != self.inner:
                yield ObjectPath(self.url, each["path"], _state_of(each))
        for folder in found["common_prefixes"]:
            yield ObjectPath(self.url, folder.rstrip("/"))

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """What in a folder has a name of this pattern, without `/`."""
        return (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def walk(self) -> Iterator[ObjectPath]:
        """All objects below a folder."""
        return self._listed()

    def _listed(self, *, chunk: int = 1_000) -> Iterator[ObjectPath]:
        with _told(self.url):
            pages = _stores().obstore.list(
                _store_at(self.url), f"{self.inner}/" if self.inner else None, chunk_size=chunk
            )
            for page in pages:
                for each in page:
                    if not (each["path"] == self.inner or each["path"].endswith("/")):
                        yield ObjectPath(self.url, each["path"], _state_of(each))

    def open(self, mode: str = "rb", buffering: int = READ_AT_ONCE) -> io.BufferedReader:
        """A file that can be sought in; without buffering each read is a request."""
        assert mode == "rb"
        reader = _ObjectReader(ObjectPath(self.url, self.inner, self.stat()))
        return io.BufferedReader(reader, buffering) if buffering else reader  # type: ignore[return-value]

    def read_bytes(self) -> bytes:
        return self.read_limited(None)

    def read_limited(self, maximum: int | None) -> bytes:
        """The whole content, by one request.

        Raises:
            FileNotFoundError: there is no such object.
            TooLarge: it has more bytes; nothing of it was read.
        """
        with _told(self.url):
            try:
                found = _stores().obstore.get(_store_at(self.url), self.inner)
            except FileNotFoundError:
                found = None
            if found and (maximum is None or found.meta["size"] <= maximum):
                return bytes(found.bytes())
        if found is None:
            raise FileNotFoundError(f"{self}: no such object")
        raise TooLarge(found.meta["size"])

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self.read_bytes().decode(encoding, errors)


AnyPath = Path | ObjectPath
"""A file or folder of this machine, or in an object store."""


class TooLarge(Exception):
    """An object has more bytes than asked for."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def place_of(place: Path | str) -> AnyPath:
    """A path, or that of the object store that a URL names."""
    return ObjectPath(place.rstrip("/")) if isinstance(place, str) and place.startswith(SCHEMES) else Path(place)


def is_below(file: AnyPath, folder: AnyPath) -> bool:
    if isinstance(file, Path):
        return isinstance(folder, Path) and file.is_relative_to(folder)
    return isinstance(folder, ObjectPath) and f"{file}/".startswith(f"{folder}/")


def name_below(file: AnyPath, folder: AnyPath) -> PurePath:
    """Name of a file relative to the folder that it lies in.

    Raises:
        ValueError: it lies elsewhere.
    """
    if isinstance(file, Path) and isinstance(folder, Path):
        return file.relative_to(folder)
    if not is_below(file, folder):
        raise ValueError(f"{file} is not below {folder}")
    return PurePosixPath(str(file)[len(str(folder)) + 1 :])


def parquet_source(file: AnyPath) -> Path | io.BufferedReader:
    """What pyarrow opens: each column's chunk of an object is a request of its own."""
    return file if isinstance(file, Path) else file.open(buffering=0)


class _ObjectReader(io.RawIOBase):
    """Bytes of an object as it was when it was opened."""

    def __init__(self, path: ObjectPath) -> None:
        state = path.known
        assert state is not None
        self._path, self._state, self._place = path, state, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def size(self) -> int:
        return self._state.st_size

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._state.st_size}[whence] + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        content = self._range(self._place, self._place + len(buffer))
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)

    def read(self, size: int | None = -1) -> bytes:
        end = self._state.st_size if size is None or size < 0 else self._place + size
        content = bytes(self._range(self._place, end))
        self._place += len(content)
        return content

    def _range(self, start: int, end: int) -> Any:
        end = min(end, self._state.st_size)
        if start >= end:
            return b""
        with _told(self._path.url):
            try:
                found = _stores().obstore.get(
                    _store_at(self._path.url), self._path.inner, options={"range": (start, end)}
                )
                content = found.bytes() if self._state.e_tag in {"", found.meta["e_tag"]} else b""
            except FileNotFoundError:
                content = b""
        if len(content) != end - start:
            raise NoAnswer(
                f"{self._path}: was replaced or removed while it was read; run the stage again once it has been delivered whole"
            )
        return content


def _state_of(meta: Any) -> ObjectState:
    return ObjectState(meta["size"], meta["e_tag"] or "", meta["last_modified"])


@lru_cache(maxsize=8)
def _store_at(url: str) -> Any:
    return _stores().open_store(url, _named(url))


def _told(url: str) -> AbstractContextManager[None]:
    return _stores().told(url, _named(url))


def _named(url: str) -> str:
    """Where people have said that there is such a store."""
    return "SMAR_STORE" if os.environ.get("SMAR_STORE", "").rstrip("/") == url else "setting shop.root"


def _stores() -> Any:
    """`object_store.py`, which takes its time to import, where nothing lies in an object store for nothing."""
    from smar_model.lake import object_store

    return object_store
