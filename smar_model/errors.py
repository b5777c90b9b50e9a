"""What users see without a traceback: bad input, a service that is away, a machine that refuses, and that there is nothing to do."""

from __future__ import annotations

import errno
import os
import re

from smar_model.url_secrets import mask_secrets

BAD_INPUT = 2
"""Exit code of `smar` for bad input."""
NOTHING_TO_DO = 99
"""Exit code of `smar` where there is nothing to do; Airflow's own operators take it for a skipped task."""


class _Masked(Exception):
    """Passwords and keys in its message are masked."""

    def __init__(self, message: object) -> None:
        super().__init__(mask_secrets(str(message)))


class InputError(_Masked, ValueError):
    """Bad input: its message names the file, the row or setting, and what to do.

    The command line prints the message alone and exits with code 2; nothing has been published.
    """


class NoAnswer(_Masked):
    """A service does not answer for now: its message says which. The exit code is 1, which Airflow tries again."""


class NothingToDo(Exception):
    """What was asked for does not exist, which is no fault: its message says so, and the exit code is 99."""


_FULL, _LOCKED = "free some space there", "make it writable for this user"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: f"{_FULL}, or raise the quota",
    errno.EFBIG: "raise the largest size of a file",
    errno.EROFS: _LOCKED,
    errno.EACCES: _LOCKED,
    errno.EPERM: _LOCKED,
    errno.EIO: "check that disk",
    errno.ESTALE: "mount that disk again",
    errno.ENODEV: "mount that disk again",
    errno.ENOTCONN: "mount that disk again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the machine's limit of open files",
    errno.ENOTDIR: "a folder is needed there: move away what stands in its place",
    errno.EISDIR: "a file is needed there: move away what stands in its place",
    errno.EEXIST: "move away what stands in its place",
}
"""What a machine refuses → what to do."""
_TEXTS = {
    os.strerror(code).lower(): remedy
    for code, remedy in _REMEDIES.items()
    if code in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE}
} | {
    "database or disk is full": _FULL,
    "not enough free space": _FULL,
    "requested and 0 written": _FULL,
    "attempt to write a readonly database": _LOCKED,
    "unable to open database file": _LOCKED,
    "disk i/o error": "check that disk",
}
"""The same in the words of libraries that keep no error number: SQLite, Arrow, Spark, PyTorch, FAISS."""
_PATH = re.compile(r"(?:file:|(?<!\w))(/[^\s'\":,;()\[\]]+)")


def first_line(error: BaseException) -> str:
    """Of an error's message, with the next one where it ends in a colon; its kind where it has none."""
    first, *rest = (str(error).strip() or type(error).__name__).splitlines()
    return f"{first} {rest[0].strip()}" if rest and first.endswith(":") else first


def machine_failure(error: BaseException | None, *, default_place: str) -> str | None:
    """One line about a full or read-only disk, too many open files and the like, with the file and what to do; None: it is none of those.

    Args:
        default_place: the folder to name where the error names no file.
    """
    met: set[int] = set()
    while error is not None and id(error) not in met:
        met.add(id(error))
        if isinstance(error, OSError) and error.errno in _REMEDIES:
            place = error.filename2 or error.filename or default_place
            return f"{_shown(place)}: {error.strerror or os.strerror(error.errno)}; {_REMEDIES[error.errno]}, then run the command again"
        text = str(error)
        for words, remedy in _TEXTS.items():
            if (at := text.lower().find(words)) >= 0:
                line = text[text.rfind("\n", 0, at) + 1 :].partition("\n")[0]
                named = _PATH.search(line)
                return f"{named[1] if named else default_place}: {text[at : at + len(words)]}; {remedy}, then run the command again"
        error = error.__cause__ or error.__context__
    return None


def _shown(place: object) -> str:
    return os.fsdecode(place) if isinstance(place, bytes) else str(place)
