"""What a shop's systems export: files and folders of them, plain or packed, read as a stream within bounds.

A file is unpacked by what it begins with, whatever its name: gzip, or a zip (each file in it, by its order; its names are
never paths on this machine). Memory holds a line, or a chunk.
"""

from __future__ import annotations

import gzip
import io
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from smar_model.delivery.bounded_reading import LONGEST_LINE, BoundedStream
from smar_model.errors import InputError
from smar_model.shop.full_disk import is_full_disk

_DAMAGED = (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError)
"""What decoders raise for a damaged, encrypted or unknown archive."""


_SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")
_OFFICE = {"[Content_Types].xml", "META-INF/manifest.xml"}
"""Members of a spreadsheet's file, which is a zip."""
_SPREADSHEET = "a spreadsheet is not read: save it as CSV (UTF-8)"
_PAGE = (b"<!doctype html", b"<html", b"<head", b"<body")


def refuse_spreadsheet(path: Path) -> None:
    """Raises InputError where a file's name ends as a spreadsheet's."""
    if path.suffix.lower() in _SPREADSHEETS:
        raise InputError(f"{path}: {_SPREADSHEET}")


def first_letters(start: bytes) -> bytes:
    """How a file begins, in whatever encoding: without marks, zeros and white space."""
    return start.removeprefix(b"\xef\xbb\xbf").replace(b"\0", b"").lstrip(b"\xff\xfe \t\r\n")


def refuse_page(name: str, start: bytes) -> None:
    """Raises InputError where a file begins as a web page does."""
    if first_letters(start).lower().startswith(_PAGE):
        raise InputError(
            f"{name}: a web page (HTML), such as a login or an error message, and no export; download it again"
        )


def delivered_files(paths: Sequence[Path], endings: Sequence[str]) -> list[Path]:
    """The files themselves, and those below the folders whose name ends like an export's, in the order of their names.

    Raises:
        InputError: a path is missing, or a folder has no such file.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            below = sorted(f for f in path.rglob("*") if f.is_file() and _is_export(f.relative_to(path), endings))
            if not below:
                raise InputError(f"{path}: holds no file that ends with {', '.join(endings)}; name the exported files")
            files += below
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"{path}: no such file or folder; name the exported files, or the folder they are in")
    return list(dict.fromkeys(files))


def _is_export(path: Path, endings: Sequence[str]) -> bool:
    name = path.name.lower().removesuffix(".gz").removesuffix(".zip")
    return not any(part.startswith((".", "_")) for part in path.parts) and name.endswith(tuple(endings))


@contextmanager
def opened(path: Path) -> Iterator[list[tuple[str, IO[bytes]]]]:
    """Streams of a file's content, each with its name for messages: one, or those of the files in a zip.

    Raises:
        InputError: the file is damaged, or a packed one is out of its bounds; also while it is read.
    """
    refuse_spreadsheet(path)
    try:
        with path.open("rb") as raw:
            start = raw.read(4)
            raw.seek(0)
            size = path.stat().st_size
            if start.startswith(b"\x1f\x8b"):
                with gzip.open(raw) as unpacked:
                    stream = io.BufferedReader(BoundedStream(unpacked, path, size))
                    if stream.peek(4).startswith((b"\x1f\x8b", b"PK\x03\x04")):
                        raise InputError(f"{path}: packed twice; unpack it once")
                    yield [(str(path), stream)]
            elif start == b"PK\x03\x04":
                with zipfile.ZipFile(raw) as archive:
                    if _OFFICE & {*archive.namelist()}:
                        raise InputError(f"{path}: {_SPREADSHEET}")
                    yield [
                        (
                            f"{path}: {entry.filename[:100]}",
                            io.BufferedReader(BoundedStream(archive.open(entry), path, entry.compress_size)),
                        )
                        for entry in archive.infolist()
                        if not entry.is_dir() and not entry.filename.startswith("__MACOSX")
                    ]
            else:
                yield [(str(path), raw)]
    except _DAMAGED as error:
        if is_full_disk(error):  # that of the folder into which it is unpacked
            raise
        raise InputError(f"{path}: damaged or locked ({error}); export or copy it again") from None


def numbered_lines(name: str, stream: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Lines that are not blank, with where each stands.

    Raises:
        InputError: a line is longer than LONGEST_LINE.
    """
    number = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise InputError(
                f"{name} row {number}: a line of over {LONGEST_LINE:,} bytes; is it the file that was meant?"
            )
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line := line.strip():
            yield f"{name} row {number}", line


def refuse_spread_json(where: str, line: bytes) -> None:
    """Refuse JSON that is no lines of objects.

    Raises:
        InputError: the line begins a JSON array; or it is the first one, and begins an object that goes on in the next.
    """
    if line == b"[" or line.startswith((b"[{", b"[ {")):
        raise InputError(f"{where}: a JSON array; write one object a line, as `jq -c '.[]'` does")
    if line == b"{" and where.endswith(" row 1"):
        raise InputError(f"{where}: an object over several lines; write one object a line, as `jq -c .` does")


def each_unpacked(paths: Sequence[Path], scratch: Path) -> Iterator[tuple[str, Path]]:
    """The files of all paths, one after the other, as `unpacked_files` has them."""
    for path in paths:
        with unpacked_files(path, scratch) as files:
            yield from files


@contextmanager
def unpacked_files(path: Path, scratch: Path) -> Iterator[list[tuple[str, Path]]]:
    """The files in a packed one, unpacked below `scratch` while they are needed, each with its name for messages; a
    plain file is itself.

    Raises:
        InputError: as `opened`.
    """
    with opened(path) as streams:
        files = []
        for number, (name, stream) in enumerate(streams):
            if getattr(stream, "name", None) == str(path):
                files.append((name, path))
                continue
            target = scratch / f"unpacked-{number}"
            with target.open("wb") as file:
                shutil.copyfileobj(stream, file, 2**20)
            files.append((name, target))
        yield files
        for _, unpacked in files:
            if unpacked != path:
                unpacked.unlink()
