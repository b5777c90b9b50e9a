"""Bounds within which delivered files are read: of a line, and of what a packed file unpacks to."""

from __future__ import annotations

import io
from typing import IO

from smar_model.errors import InputError
from smar_model.lake.object_paths import AnyPath

LONGEST_LINE = 16 * 2**20
"""Bytes of a line of JSON."""
ALWAYS_UNPACKED = 256 * 2**20
"""Bytes to which a file may unpack whatever its size."""
MOST_TIMES = 200
"""How many times its size a larger one may unpack to; exports take 5 to 50, and gzip allows 1,032."""


def refuse_unpacked(path: AnyPath, *, unpacked: int, packed: int) -> None:
    """Bytes that a file has unpacked to so far, and its own.

    Raises:
        InputError: it grows beyond what exports do.
    """
    if unpacked > max(ALWAYS_UNPACKED, MOST_TIMES * packed):
        raise InputError(
            f"{path}: unpacks to over {MOST_TIMES} times its size, which no export does; "
            "unpack it yourself if it is right"
        )


class BoundedStream(io.RawIOBase):
    """An unpacked stream that ends with an error where it grows beyond what exports do."""

    def __init__(self, stream: io.BufferedIOBase | IO[bytes], path: AnyPath, packed: int) -> None:
        self._stream, self._path, self._packed, self._count = stream, path, packed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        self._count += len(content)
        refuse_unpacked(self._path, unpacked=self._count, packed=self._packed)
        return len(content)
