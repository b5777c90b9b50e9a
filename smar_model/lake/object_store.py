"""An object store by URL: named objects with conditional writes, copied from and to files; and what machines share in one.

S3, Google's and Azure's stores through obstore, which knows create-if-absent and compare-and-swap of all three. Credentials and address come
from the environment, as the stores' own tools take them (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`, …).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import from_url

from smar_model.errors import InputError, NoAnswer
from smar_model.lake.durable_files import HomeFolder, flush, replace_plain_file
from smar_model.process_identity import temporary_beside

SCHEMES = ("s3://", "gs://", "az://")
TRANSFERS = 8
"""Files on their way at one time; each large one in several parts besides."""
RETRIES: Any = {"max_retries": 8, "retry_timeout": timedelta(minutes=2)}


@dataclass(frozen=True, slots=True)
class Version:
    """Which content of an object was read; of one that is not there, no etag."""

    e_tag: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    bytes: int
    modified: datetime


class ObjectStore:
    """Objects below one URL. Every method raises InputError where the store refuses, and NoAnswer where it cannot be reached, after
    bounded retries."""

    def __init__(self, url: str) -> None:
        if not url.startswith(SCHEMES):
            raise InputError(f"SMAR_STORE={url!r}: an object store is named by a URL of {', '.join(SCHEMES)}")
        self.url = url.rstrip("/")
        plain: Any = {"allow_http": True} if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http:") else {}
        try:
            self._store: Any = from_url(self.url, client_options=plain, retry_config=RETRIES)
        except BaseError as error:
            raise InputError(f"SMAR_STORE={url!r}: {_first_line(error)}") from error

    def read(self, name: str) -> tuple[bytes, Version] | None:
        """Content and version; None where there is none."""
        with self._told():
            try:
                found = obstore.get(self._store, name)
            except FileNotFoundError:
                return None
            return bytes(found.bytes()), Version(found.meta["e_tag"], found.meta["version"])

    def read_many(self, names: Iterable[str]) -> list[bytes | None]:
        with ThreadPoolExecutor(2 * TRANSFERS) as pool:
            return [found and found[0] for found in pool.map(self.read, names)]

    def create(self, name: str, content: bytes) -> bool:
        """Put an object in one step; False where there is one of other content: what several may create must tell who did."""
        return self.swap(name, content, Version())

    def put(self, name: str, content: bytes) -> None:
        with self._told():
            obstore.put(self._store, name, content, use_multipart=False)

    def swap(self, name: str, content: bytes, old: Version) -> bool:
        """Put an object where it still is as it was read; False where somebody was first."""
        mode: Any = {n: v for n, v in (("e_tag", old.e_tag), ("version", old.version)) if v} or "create"
        with self._told():
            try:
                obstore.put(self._store, name, content, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError, FileNotFoundError) as error:
                if mode == "create" and isinstance(error, FileNotFoundError):  # there is no such bucket
                    raise
                # A first try may have arrived although its answer was lost: then it is ours that stands there.
                now = self.read(name)
                return now is not None and now[0] == content
        return True

    def verify(self) -> None:
        """Write, read and delete an object of our own.

        Raises:
            InputError: one of them fails, or the store overwrites where it was told not to.
        """
        name = f"probes/{uuid.uuid4().hex}"
        try:
            created = self.create(name, b"first")
            found = self.read(name)
            if not created or found is None or found[0] != b"first":
                raise InputError(f"{self.url}: an object that was written is not read back")
            if self.create(name, b"second") or self.swap(name, b"second", Version("other")):
                raise InputError(
                    f"{self.url}: the store ignores conditional puts (If-None-Match, If-Match), which publishing needs; take another store"
                )
        finally:
            self.delete([name])

    def exists(self, name: str) -> bool:
        with self._told():
            try:
                obstore.head(self._store, name)
            except FileNotFoundError:
                return False
        return True

    def within(self, folder: str) -> Iterator[Entry]:
        """All objects below a folder."""
        with self._told():
            for page in obstore.list(self._store, f"{folder}/"):
                for found in page:
                    yield Entry(found["path"], found["size"], found["last_modified"])

    def directly_in(self, folder: str) -> tuple[list[str], list[str]]:
        """Names of the objects in a folder, and of the folders in it."""
        with self._told():
            found = obstore.list_with_delimiter(self._store, f"{folder}/")
            return sorted(o["path"] for o in found["objects"]), sorted(found["common_prefixes"])

    def upload(self, files: Mapping[str, Path]) -> None:
        def send(name: str, path: Path) -> None:
            with self._told():
                obstore.put(self._store, name, path)

        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(send, files.keys(), files.values()))

    def download(self, files: Mapping[str, Path]) -> None:
        """Copy objects to files, each of which appears whole or not at all.

        Raises:
            InputError: one is not there.
        """

        def fetch(name: str, path: Path) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = temporary_beside(path)
            try:
                with self._told():
                    try:
                        found = obstore.get(self._store, name)
                    except FileNotFoundError:
                        raise InputError(f"{self.url}/{name}: missing; run the stage that made it again") from None
                    with temporary.open("wb") as file:
                        for chunk in found.stream(min_chunk_size=8 * 2**20):
                            file.write(chunk)
                        file.flush()
                        os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(fetch, files.keys(), files.values()))

    def delete(self, names: Iterable[str]) -> None:
        with self._told(), suppress(FileNotFoundError):
            obstore.delete(self._store, list(names))

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (PermissionDeniedError, UnauthenticatedError, FileNotFoundError) as error:
            if isinstance(error, FileNotFoundError) and error.errno is not None:  # of this machine
                raise
            raise InputError(
                f"{self.url}: the object store refuses ({_first_line(error)}); check SMAR_STORE, the keys and the address in the environment"
            ) from error
        except BaseError as error:
            raise NoAnswer(f"{self.url}: the object store does not answer ({_first_line(error)})") from error


@dataclass(frozen=True, slots=True)
class StoredFiles:
    """`SharedFiles` in an object store, of which a machine's home folder holds copies: objects have the names of files in it."""

    store: ObjectStore
    home: Path

    def _name(self, path: Path) -> str:
        return path.relative_to(self.home).as_posix()

    def is_file(self, path: Path) -> bool:
        return self.store.exists(self._name(path))

    def read_bytes(self, path: Path) -> bytes:
        content = self.store.read(self._name(path))
        if content is None:
            raise FileNotFoundError(f"{self.store.url}/{self._name(path)}")
        return content[0]

    def read_files(self, paths: Iterable[Path]) -> dict[Path, bytes]:
        paths = list(paths)
        contents = self.store.read_many(map(self._name, paths))
        return {path: content for path, content in zip(paths, contents, strict=True) if content is not None}

    def create_if_absent(self, path: Path, text: str) -> bool:
        is_first = self.store.create(self._name(path), text.encode())
        if is_first:
            replace_plain_file(path, text)
        return is_first

    def replace_file(self, path: Path, text: str) -> None:
        self.store.put(self._name(path), text.encode())
        replace_plain_file(path, text)

    def read_to_replace(self, path: Path) -> tuple[bytes, Version]:
        return self.store.read(self._name(path)) or (b"", Version())

    def replace_unchanged(self, path: Path, text: str, known_by: Version) -> bool:
        return self.store.swap(self._name(path), text.encode("utf-8", "surrogateescape"), known_by)

    def move_unchanged(self, path: Path, to: Path, content: bytes) -> bool:
        now = self.store.read(self._name(path))
        # Emptied first, so that one of several does it.
        if now is None or now[0] != content or (content and not self.store.swap(self._name(path), b"", now[1])):
            return False
        self.store.put(self._name(to), content)
        self.remove_file(path)
        return True

    def listed(self, folder: Path) -> tuple[list[Path], list[Path]]:
        files, folders = self.store.directly_in(self._name(folder))
        return [self.home / name for name in files], [self.home / name for name in folders]

    def sizes(self, folder: Path) -> dict[Path, int]:
        return {self.home / found.name: found.bytes for found in self.store.within(self._name(folder))}

    def last_written(self, folder: Path) -> float:
        return max((found.modified.timestamp() for found in self.store.within(self._name(folder))), default=0.0)

    def share_files(self, paths: Iterable[Path]) -> None:
        self.store.upload({self._name(path): path for path in paths})

    def fetch_files(self, paths: Iterable[Path]) -> None:
        files = {self._name(path): path for path in paths}
        self.store.download(files)
        for folder in {path.parent for path in files.values()}:
            flush(folder)

    def remove_file(self, path: Path) -> None:
        self.store.delete([self._name(path)])
        path.unlink(missing_ok=True)

    def remove_folder(self, folder: Path) -> None:
        self.store.delete(map(self._name, self.sizes(folder)))
        HomeFolder().remove_folder(folder)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
