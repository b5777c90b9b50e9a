"""Where a shop's pictures are: a folder, a zip, an object store; and the pictures that items name by URL."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
from pyarrow import fs

from smar_model.errors import InputError
from smar_model.lake.digests import digest_bytes, digest_json, digest_raw_files
from smar_model.lake.object_paths import AnyPath, ObjectPath, TooLarge, name_below
from smar_model.settings import home

NO_SUCH_PICTURE = "no such picture"
ZIP_READ_AT_ONCE = 1 << 17
"""Bytes: a thumbnail of a zip in an object store comes by one request."""
LONGEST_NAME = 1_024
"""Bytes of a picture's name: the most that object stores take, and less than what makes a file system fail."""
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class UnusablePicture(Exception):
    """Why a picture goes to quarantine: `reason` and `detail`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class PictureStore:
    """Pictures by name."""

    place: AnyPath | str
    """A folder or a zip file, of this machine or below the URL of a shop in an object store; or the URI of an object store that pyarrow
    knows: `s3://bucket/prefix`, `gs://…`, `file:///…`."""

    def address(self, name: str) -> str:
        """Where a person finds a picture."""
        return name if is_url(name) else f"{str(self.place).partition('?')[0]}/{name}"

    def uri(self, name: str) -> str:
        """Likewise for programs; a picture inside a zip is named as a file below it."""
        address = self.address(name)
        return Path(address).as_uri() if address.startswith("/") else address

    def digest(self) -> str:
        """Digest of names and contents; of an object store, of names, sizes and times, or ETags.

        Raises:
            InputError: the object store cannot be listed.
        """
        if isinstance(self.place, str):
            files, base = open_object_store(self.place)
            try:
                listed = files.get_file_info(fs.FileSelector(base, recursive=True))
            except OSError as error:
                raise InputError(f"{self.place}: cannot be listed ({error}); correct settings.shop.pictures") from error
            found = sorted((info.path, info.size, info.mtime_ns) for info in listed if info.is_file)
            return digest_json([self.place, found])
        if isinstance(self.place, ObjectPath) and not self.place.is_file():
            # Without reading them: there may be millions, and each is digested where it is read.
            states = ((str(name_below(path, self.place)), path.stat()) for path in self.place.walk())
            return digest_json(sorted((name, state.st_size, state.e_tag) for name, state in states))
        if isinstance(self.place, Path) and self.place.is_dir():
            return digest_raw_files(_files_below(self.place), root=self.place)
        return digest_json(digest_raw_files([self.place], root=self.place.parent))

    @contextmanager
    def opened(self, *, maximum_bytes: int) -> Iterator[Callable[[str], bytes]]:
        """A function from a picture's name to its bytes; it raises UnusablePicture: `missing_file`, `too_large` (told
        before reading) or `undecodable` (a damaged entry of a zip).

        Raises:
            InputError: the zip is damaged, or the object store cannot be opened.
        """
        if isinstance(self.place, str):
            read = _object_reader(self.place, maximum_bytes)
        elif isinstance(self.place, Path) and self.place.is_dir():
            read = _folder_reader(self.place, maximum_bytes)
        elif isinstance(self.place, ObjectPath) and not self.place.is_file():
            read = _prefix_reader(self.place, maximum_bytes)
        else:
            try:
                content = self.place.open("rb", buffering=ZIP_READ_AT_ONCE)
                archive = zipfile.ZipFile(content)
            except (zipfile.BadZipFile, OSError) as error:
                raise InputError(f"{self.place}: not a whole zip file ({error}); copy it again") from error
            with content, archive:
                yield _zip_reader(archive, maximum_bytes)
            return
        yield read


def is_url(name: str) -> bool:
    return name.lower().startswith(("http://", "https://"))


def fetched_folder() -> Path:
    return home() / "fetched_pictures"


def fetched_path(folder: Path, url: str) -> Path:
    """Where in `fetched_folder()` a picture named by URL lies once it has been fetched."""
    return folder / fetched_name(url)


def fetched_name(url: str) -> str:
    digest = digest_bytes(url.encode())
    return f"{digest[:2]}/{digest}"


def open_object_store(uri: str) -> tuple[fs.FileSystem, str]:
    """A file system and the path in it; credentials come from the environment, as the store's own tools take them.

    Raises:
        InputError: the URI is of no known kind.
    """
    try:
        return fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"settings.shop.pictures: {uri} is not the URI of an object store ({error}); as in s3://bucket/prefix"
        ) from error


def folders_below(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """A folder and those below it, through links to folders too, as pictures are read; each folder once, with its names."""
    met = set()
    for folder, inner, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in met:
            inner.clear()
            continue
        met.add(real)
        inner.sort()
        yield Path(folder), names


def _files_below(root: Path) -> Iterator[Path]:
    return (path for folder, names in folders_below(root) for name in names if (path := folder / name).is_file())


def _folder_reader(root: Path, maximum_bytes: int) -> Callable[[str], bytes]:
    real_root = root.resolve()

    def read(name: str) -> bytes:
        path = root / _inside(name)
        # A link may lead anywhere, also to files of this machine that are nobody's pictures.
        if not path.is_file() or not path.resolve().is_relative_to(real_root):
            raise UnusablePicture("missing_file", NO_SUCH_PICTURE)
        _check_size(path.stat().st_size, maximum_bytes)
        return path.read_bytes()

    return read


def _object_reader(uri: str, maximum_bytes: int) -> Callable[[str], bytes]:
    files, base = open_object_store(uri)

    def read(name: str) -> bytes:
        path = f"{base}/{_inside(name)}"
        info = files.get_file_info(path)
        if not info.is_file:
            raise UnusablePicture("missing_file", NO_SUCH_PICTURE)
        _check_size(info.size, maximum_bytes)
        with files.open_input_stream(path) as stream:
            return stream.read()

    return read


def _prefix_reader(root: ObjectPath, maximum_bytes: int) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        try:
            return (root / _inside(name)).read_limited(maximum_bytes)
        except FileNotFoundError:
            raise UnusablePicture("missing_file", NO_SUCH_PICTURE) from None
        except TooLarge as large:
            _check_size(large.size, maximum_bytes)
            raise

    return read


def _zip_reader(archive: zipfile.ZipFile, maximum_bytes: int) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        try:
            entry = archive.getinfo(name)
        except KeyError:
            raise UnusablePicture("missing_file", NO_SUCH_PICTURE) from None
        _check_size(entry.file_size, maximum_bytes)
        try:
            return archive.read(entry)
        except Exception as error:  # a damaged entry: wrong checksum, broken stream, unknown compression
            raise UnusablePicture("undecodable", f"{type(error).__name__}: {error}") from error

    return read


def _inside(name: str) -> PurePosixPath:
    inner = PurePosixPath(name)
    longest = max((len(part.encode("utf-8", "replace")) for part in inner.parts), default=0)
    whole = len(name.encode("utf-8", "replace"))
    if (
        inner.is_absolute()
        or ".." in inner.parts
        or "\0" in name
        or not 0 < longest <= 255
        or whole > LONGEST_NAME
        or _LONE_SURROGATE.search(name)
    ):
        raise UnusablePicture("missing_file", "not a name under the pictures' root")
    return inner


def _check_size(size: int, maximum_bytes: int) -> None:
    if size > maximum_bytes:
        raise UnusablePicture("too_large", f"{size:,} bytes, more than settings.pictures.maximum_bytes")
