"""Lines of text files as shops' systems write them: any encoding, any line ends, packed with gzip (`.gz`) or not.

Memory holds one line, of LONGEST_ROW characters at most.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from smar_model.errors import InputError

LONGEST_ROW = 16 * 2**20
"""Characters; more means that a stray quotation mark has swallowed the rest of the file, or that it is no such file."""
UTF8 = "utf-8-sig"
"""UTF-8, with a byte order mark or without."""
NAMES = {"cp1252": "Windows-1252", "utf-16": "UTF-16", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16"}
"""What `find_encoding` may find but UTF-8, as people call it."""
_BLOCK = 2**20
_LEAST_ZEROS = 0.1
"""Share of the bytes at every second place."""
_LONG_RUN = re.compile(rb"[\x80-\xff]{4,}")
_MOST_IN_RUNS = 0.1
"""Share of letters outside ASCII that stand four or more together: hardly any in Western European text, most in Cyrillic or Chinese."""


def text_lines(path: Path, encoding: str = UTF8, name: str | None = None) -> Iterator[str]:
    """Lines of a file with their ends: LF, CR LF, or CR as spreadsheets of old write.

    Args:
        name: what messages call the file; unset, its path.

    Raises:
        InputError: the file is missing, cut off or damaged, not in this encoding, or has too long a line or a NUL; names
            the row.
    """
    number, name = 0, name or str(path)
    try:
        with _open_text(path, encoding) as file:
            for number, line in enumerate(iter(partial(file.readline, LONGEST_ROW + 1), ""), start=1):
                if len(line) > LONGEST_ROW:
                    raise InputError(f"{name} row {number}: over {LONGEST_ROW:,} characters; correct or remove the row")
                if "\0" in line:
                    raise InputError(
                        f"{name} row {number}: NUL bytes, which no text has; the file is damaged or no text: export it again"
                    )
                yield line
    except UnicodeDecodeError:
        raise InputError(_not_text(path, encoding, name)) from None
    except UnicodeError as error:  # UTF-16 without its mark
        raise InputError(f"{name}: not {encoding} text ({error}); save the file as UTF-8") from None
    except FileNotFoundError:
        raise InputError(f"{name}: no such file; give the folder that holds the published files, unpacked") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name} row {number + 1}: damaged ({error}); download or copy it again") from None


def find_encoding(path: Path, name: str | None = None) -> str:
    """Encoding of a whole file, by its byte order mark or its bytes: UTF-8, UTF-16, or Windows-1252 (and so Latin-1).

    A damaged file, and one with a few NUL bytes, is UTF-8, as is one of which most letters outside ASCII are: `text_lines` names the row.

    Raises:
        InputError: the file is missing, or its text is none of these.
    """
    try:
        with _open(path) as file:
            head = file.read(4096)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        if found := _utf16_without_mark(head):
            return found
        if bad_row(path, UTF8) is None:
            return UTF8
        valid, invalid, in_runs, high = _letters_outside_ascii(path)
    except FileNotFoundError:
        raise InputError(f"{name or path}: no such file; correct its name, or the folder") from None
    except (OSError, EOFError, zlib.error):
        return UTF8  # `text_lines` names the row
    if valid > invalid:
        return UTF8
    if in_runs > _MOST_IN_RUNS * high or bad_row(path, "cp1252") is not None:
        raise InputError(
            f"{name or path}: text that is neither UTF-8 nor Western European (Windows-1252); save the file as UTF-8, "
            "or name its `encoding`, such as cp1251 or gb18030, where columns are named by a mapping"
        )
    return "cp1252"


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


def _open_text(path: Path, encoding: str) -> TextIO:
    # No newline is translated: fields in quotation marks may hold some.
    return io.TextIOWrapper(_open(path), encoding=encoding, newline="")


def _blocks(path: Path) -> Iterator[bytes]:
    with _open(path) as file:
        yield from iter(partial(file.read, _BLOCK), b"")


def _utf16_without_mark(head: bytes) -> str | None:
    """UTF-16 has zeros at every second byte of its ASCII letters, and hardly any at the others."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) < _LEAST_ZEROS * len(head) / 2 or min(even, odd) > max(even, odd) / 4:
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def bad_row(path: Path, encoding: str) -> int | None:
    """Row, from 1, of the first byte that is not of this encoding; None where all are."""
    decoder = codecs.getincrementaldecoder(encoding)()
    newlines = returns = 0
    blocks = _blocks(path)
    while True:
        block = next(blocks, b"")
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            before = bytes(error.object[: error.start]).decode(encoding, "replace")
            return 1 + (newlines + before.count("\n") or returns + before.count("\r"))
        newlines, returns = newlines + text.count("\n"), returns + text.count("\r")
        if not block:
            return None


def _not_text(path: Path, encoding: str, name: str) -> str:
    kind = "UTF-8" if encoding == UTF8 else encoding
    return f"{name} row {bad_row(path, encoding) or 1}: not {kind} text; save the file as UTF-8"


def _letters_outside_ascii(path: Path) -> tuple[int, int, int, int]:
    """Valid letters of UTF-8, invalid ones; bytes from 0x80 in runs of four and more, and all of them."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    valid = invalid = in_runs = high = 0
    for block in _blocks(path):
        text = decoder.decode(block)
        bad = text.count("\ufffd")
        valid += len(text) - len(text.encode("ascii", "ignore")) - bad
        invalid += bad
        in_runs += sum(map(len, _LONG_RUN.findall(block)))
        high += sum(block.count(byte) for byte in range(0x80, 0x100)) if not block.isascii() else 0
    return valid, invalid, in_runs, high
