"""Which process wrote something, named so that no restart and no PID namespace repeats it, and whether it still runs.

A host's name and a PID are not enough: containers of one machine may share the first and repeat the second. To them come the kernel's boot id,
the inode of the process's PID namespace and the moment it started. Only a process of the same boot and namespace can be asked for; of
another one, the age of what it wrote decides, or its lease.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import platform
import re
import signal
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Literal, NotRequired

from typing_extensions import TypedDict

_ENDED = {"Z", "X"}
"""States in /proc of a process that runs no more: one whose parent has not asked for its exit code is there still."""
_TEMPORARY = re.compile(r"\..+\.(?:[0-9a-f]{32}|([0-9a-f]+)-([0-9a-f]+)-([0-9a-f]{8})-[0-9a-f]+)", re.DOTALL)
_count = itertools.count()
_PR_SET_PDEATHSIG = 1


class Process(TypedDict):
    """What a process is known by; the last three only where the system tells them, and earlier versions of SMAR wrote none of them."""

    host: str
    pid: int
    boot: NotRequired[str]
    """The kernel's boot id."""
    pid_namespace: NotRequired[int | None]
    """Its inode."""
    started: NotRequired[int]
    """Clock ticks since the boot."""


def this_process() -> Process:
    found = Process(host=platform.node(), pid=os.getpid())
    boot, started = _boot(), _start("self")
    if boot and started:
        found |= {"boot": boot, "pid_namespace": _pid_namespace(), "started": started[0]}
    return found


def end_with_parent() -> None:
    """From now on this process, which has just been forked, gets SIGTERM when the thread that forked it is gone. Linux alone knows how."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def process_state(process: Mapping[str, object]) -> Literal["alive", "gone", "unknown"]:
    """Whether a process runs that `this_process` has described.

    Where an earlier version of SMAR wrote it, with host and PID alone, these are asked for, which is right but for namespaces.
    """
    pid = process.get("pid")
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0 or process.get("host") != platform.node():
        return "unknown"
    boot = process.get("boot")
    if boot is not None and (boot, process.get("pid_namespace")) != (_boot(), _pid_namespace()):
        return "unknown"
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except (ProcessLookupError, OverflowError):
        return "gone"
    if not _sees_own_processes() or (now := _start(str(pid))) is None:
        return "alive"
    started, state = now
    return "gone" if state in _ENDED or process.get("started", started) != started else "alive"


def temporary_beside(path: Path) -> Path:
    """A hidden name beside a file or folder, for what is moved to its name when it is whole; tells who is writing it."""
    process = this_process()
    made = f"{process['pid']:x}-{process.get('started', 0):x}-{_machine(process)}-{next(_count):x}"
    return path.with_name(f".{path.name}.{made}")


def is_temporary(name: str) -> bool:
    """Whether `temporary_beside` made a name, of this or an earlier version of SMAR."""
    return _TEMPORARY.fullmatch(name) is not None


def writer_state(name: str) -> Literal["alive", "gone", "unknown"]:
    """Whether the process runs that writes under a name of `temporary_beside`."""
    match, here = _TEMPORARY.fullmatch(name), this_process()
    if match is None or match[1] is None or match[3] != _machine(here):
        return "unknown"
    started = {"started": int(match[2], 16)} if "started" in here else {}
    return process_state({**here, "pid": int(match[1], 16), **started})


def _machine(process: Process) -> str:
    """Digest of all in which the processes of one boot and namespace are alike."""
    return sha256(repr([process.get(n) for n in ("host", "boot", "pid_namespace")]).encode()).hexdigest()[:8]


def _boot() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def _pid_namespace() -> int | None:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None


def _sees_own_processes() -> bool:
    """Whether /proc has the processes of our namespace: one that was entered without a mount of its own shows another's."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def _start(pid: str) -> tuple[int, str] | None:
    """When a process started, in clock ticks since the boot, and its state's letter."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the command's name in brackets, which may hold spaces and brackets.
    fields = text.rpartition(")")[2].split()
    return int(fields[19]), fields[0]
