"""A full disk, in errors of libraries that keep no file's name: the folder that was written to is named."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CODES = {errno.ENOSPC, errno.EDQUOT}
_WORDS = ("no space left", "disk is full", "quota exceeded")


def is_full_disk(error: BaseException) -> bool:
    """Whether an error says that a disk, or a quota, is full."""
    return getattr(error, "errno", None) in _CODES or any(words in str(error).lower() for words in _WORDS)


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Name the folder in which there was no space.

    Raises:
        OSError: the disk is full; with the folder as its file, where the error named none.
    """
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if getattr(error, "filename", None) is None and is_full_disk(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise
