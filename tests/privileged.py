"""What a test may need of root: PID namespaces and a small disk. Where it is not allowed, the run says so among its warnings, not only as a skip."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NEW_NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
"""Before a command: it runs in a PID namespace of its own, with its own /proc."""


def need_namespaces() -> None:
    _need([*NEW_NAMESPACE, "true"], "PID namespaces")


def need_own_mounts() -> None:
    _need(["unshare", "--mount", "true"], "a process's own mounts")


@contextmanager
def small_disk(folder: Path, *, size: str) -> Iterator[Path]:
    """A file system of this size, as `512k`, at the folder."""
    folder.mkdir()
    _need(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], "mounting a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _need(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        problem = done.stderr.strip() if done.returncode else ""
    except FileNotFoundError as error:
        problem = str(error)
    if problem:
        warnings.warn(f"NOT TESTED: {what} is not allowed here ({problem}); run the tests as root", stacklevel=3)
        pytest.skip(f"{what} needs root: {problem}")
