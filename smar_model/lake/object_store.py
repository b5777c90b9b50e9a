"""Files that machines share in an object store, by its URL: conditional writes, copies from and to files.

S3, Google's and Azure's stores through obstore, which knows create-if-absent and compare-and-swap of all three. Credentials and address come
from the environment, as the stores' own tools take them (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`, …).
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
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
from smar_model.lake.process_identity import temporary_beside
from smar_model.settings import SCHEMES, home

TRANSFERS = 8
"""Files on their way at one time; each large one in several parts besides."""
_REFUSED = re.compile(r"non-2xx status code: 4(?!08|29)\d\d")
"""In words of errors that obstore has no class for: the client's fault, but for a timeout and too many requests."""
RETRIES: Any = {"max_retries": 8, "retry_timeout": timedelta(minutes=2)}


@dataclass(frozen=True, slots=True)
class Version:
    """Which content of an object was read; of one that is not there, no etag."""

    e_tag: str | None = None
    version: str | None = None


class ObjectStore:
    """`SharedFiles` in an object store, of which a machine's home folder holds copies: objects below one URL have the names of files there.

    Every method raises InputError where the store refuses, and NoAnswer where it cannot be reached, after bounded retries.
    """

    def __init__(self, url: str) -> None:
        if not url.startswith(SCHEMES):
            raise InputError(f"SMAR_STORE={url!r}: an object store is named by a URL of {', '.join(SCHEMES)}")
        self.url = url.rstrip("/")
        self._store: Any = open_store(self.url, "SMAR_STORE")

    def read(self, path: Path) -> tuple[bytes, Version] | None:
        """Content and version; None where there is none."""
        with self._told():
            try:
                found = obstore.get(self._store, _name(path))
            except FileNotFoundError:
                return None
            return bytes(found.bytes()), Version(found.meta["e_tag"], found.meta["version"])

    def put(self, path: Path, content: bytes) -> None:
        with self._told():
            obstore.put(self._store, _name(path), content, use_multipart=False)

    def swap(self, path: Path, content: bytes, old: Version) -> bool:
        """Put an object where it still is as it was read, or still is not there; False where somebody was first with other content: what
        several may create must tell who did."""
        mode: Any = {n: v for n, v in (("e_tag", old.e_tag), ("version", old.version)) if v} or "create"
        with self._told():
            try:
                obstore.put(self._store, _name(path), content, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError, FileNotFoundError) as error:
                if mode == "create" and isinstance(error, FileNotFoundError):  # there is no such bucket
                    raise
                # A first try may have arrived although its answer was lost: then it is ours that stands there.
                now = self.read(path)
                return now is not None and now[0] == content
        return True

    def verify(self) -> None:
        """Write, read and delete an object of our own.

        Raises:
            InputError: one of them fails, or the store overwrites where it was told not to.
        """
        probe = home() / "probes" / uuid.uuid4().hex
        try:
            created = self.swap(probe, b"first", Version())
            found = self.read(probe)
            if not created or found is None or found[0] != b"first":
                raise InputError(f"{self.url}: an object that was written is not read back")
            if self.swap(probe, b"second", Version()) or self.swap(probe, b"second", Version("other")):
                raise InputError(
                    f"{self.url}: the store ignores conditional puts (If-None-Match, If-Match), which publishing needs; take another store"
                )
        finally:
            self._delete([probe])

    def is_file(self, path: Path) -> bool:
        with self._told():
            try:
                obstore.head(self._store, _name(path))
            except FileNotFoundError:
                return False
        return True

    def read_bytes(self, path: Path) -> bytes:
        content = self.read(path)
        if content is None:
            raise FileNotFoundError(f"{self.url}/{_name(path)}")
        return content[0]

    def read_range(self, path: Path, start: int, stop: int) -> bytes | None:
        """Bytes of an object from `start` up to `stop`; None: there is none, or it is shorter."""
        with self._told():
            try:
                return bytes(obstore.get_range(self._store, _name(path), start=start, end=stop))
            except FileNotFoundError:
                return None

    def read_files(self, paths: Iterable[Path]) -> dict[Path, bytes]:
        paths = list(paths)
        with ThreadPoolExecutor(2 * TRANSFERS) as pool:
            return {path: found[0] for path, found in zip(paths, pool.map(self.read, paths), strict=True) if found}

    def create_if_absent(self, path: Path, text: str) -> bool:
        is_first = self.swap(path, text.encode(), Version())
        if is_first:
            replace_plain_file(path, text)
        return is_first

    def replace_file(self, path: Path, text: str) -> None:
        self.put(path, text.encode())
        replace_plain_file(path, text)

    def read_to_replace(self, path: Path) -> tuple[bytes, Version]:
        return self.read(path) or (b"", Version())

    def replace_unchanged(self, path: Path, text: str, known_by: Version) -> bool:
        return self.swap(path, text.encode("utf-8", "surrogateescape"), known_by)

    def move_unchanged(self, path: Path, to: Path, content: bytes) -> bool:
        now = self.read(path)
        # Emptied first, so that one of several does it.
        if now is None or now[0] != content or (content and not self.swap(path, b"", now[1])):
            return False
        self.put(to, content)
        self.remove_file(path)
        return True

    def listed(self, folder: Path) -> tuple[list[Path], list[Path]]:
        with self._told():
            found = obstore.list_with_delimiter(self._store, f"{_name(folder)}/")
        files, folders = sorted(each["path"] for each in found["objects"]), sorted(found["common_prefixes"])
        return [home() / name for name in files], [home() / name for name in folders]

    def _within(self, folder: Path) -> Iterator[Any]:
        """What the store says of all objects below a folder."""
        with self._told():
            for page in obstore.list(self._store, f"{_name(folder)}/"):
                yield from page

    def sizes(self, folder: Path) -> dict[Path, int]:
        return {home() / found["path"]: found["size"] for found in self._within(folder)}

    def last_written(self, folder: Path) -> float:
        return max((found["last_modified"].timestamp() for found in self._within(folder)), default=0.0)

    def old_files(self, folder: Path, seconds: float) -> list[Path]:
        """Files below a folder that were written longer ago than so."""
        before = time.time() - seconds
        return [home() / found["path"] for found in self._within(folder) if found["last_modified"].timestamp() < before]

    def share_files(self, paths: Iterable[Path]) -> None:
        def send(path: Path) -> None:
            with self._told():
                obstore.put(self._store, _name(path), path)

        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(send, paths))

    def fetch_files(self, paths: Iterable[Path]) -> None:
        paths = list(paths)
        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(self._fetch, paths))
        for folder in {path.parent for path in paths}:
            flush(folder)

    def _fetch(self, path: Path) -> None:
        """Copy an object to a file, which appears whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(path)
        try:
            with self._told():
                try:
                    found = obstore.get(self._store, _name(path))
                except FileNotFoundError:
                    raise InputError(f"{self.url}/{_name(path)}: missing; run the stage that made it again") from None
                with temporary.open("wb") as file:
                    for chunk in found.stream(min_chunk_size=8 * 2**20):
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def remove_file(self, path: Path) -> None:
        self._delete([path])
        path.unlink(missing_ok=True)

    def remove_folder(self, folder: Path) -> None:
        self._delete(self.sizes(folder))
        HomeFolder().remove_folder(folder)

    def _delete(self, paths: Iterable[Path]) -> None:
        with self._told(), suppress(FileNotFoundError):
            obstore.delete(self._store, list(map(_name, paths)))

    def _told(self) -> AbstractContextManager[None]:
        return told(self.url, "SMAR_STORE")


def open_store(url: str, named: str) -> Any:
    """obstore's store of a URL; keys and address come from the environment.

    Args:
        named: where people have said that there is a store.

    Raises:
        InputError: the URL is none of an object store.
    """
    plain: Any = {"allow_http": True} if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http:") else {}
    try:
        return from_url(url, client_options=plain, retry_config=RETRIES)
    except BaseError as error:
        raise InputError(f"{named}: {url}: {_first_line(error)}") from error


@contextmanager
def told(url: str, named: str) -> Iterator[None]:
    """A store's errors as users see them; `named` as in `open_store`."""
    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        if isinstance(error, FileNotFoundError) and error.errno is not None:  # of this machine
            raise
        is_refused = isinstance(error, PermissionDeniedError | UnauthenticatedError | FileNotFoundError)
        if not is_refused and not _REFUSED.search(str(error)):
            raise NoAnswer(f"{url}: the object store does not answer ({_first_line(error)})") from error
        raise InputError(
            f"{url}: the object store refuses ({_first_line(error)}); check {named}, the keys and the address in the environment"
        ) from error


def _name(path: Path) -> str:
    return path.relative_to(home()).as_posix()


def _first_line(error: Exception) -> str:
    """What the store itself says, or the client."""
    text = str(error)
    said = re.search(r"<Code>(\w+)</Code>\s*<Message>([^<]+)</Message>", text)
    return f"{said[1]}: {said[2].strip()}" if said else text.partition("\n")[0]
