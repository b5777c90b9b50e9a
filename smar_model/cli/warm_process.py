"""A process that forks for each command of a run, so that a machine imports its libraries once and not with each of thirty commands.

    python -m smar_model.cli.warm_process SOCKET

`make retrain` and `make ui` start it; `laptop/warm_command.py` hands it a command and ends as that does. Each command is a process of its own with the
arguments, environment, folder, input and outputs of its caller: its exit code, its signals and what it holds in memory are nobody else's. What a
command had to import is imported here when it has ended, for those that follow, so no list says what is warm. Spark's stages are lent one Java
(`lent_java.py`). A command whose caller is gone is ended.

Nothing runs here but imports. Where that is not safe, the caller is told to start cold: once the code has changed, as the key of a stage names the files
on the disk, and once anything has started a thread, which a fork would lose.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import random
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from smar_model.cli import main as run_command
from smar_model.cli.lent_java import LentJava
from smar_model.settings import REPOSITORY

LONGEST = 1 << 18
"""Bytes of a message."""
LOOK_SECONDS = 30.0
"""Between two looks at whether Java is idle."""
_PR_SET_PDEATHSIG = 1


def code_on_disk() -> tuple[int, int]:
    """How many files what stages read of ours is in, and when one was last written (nanoseconds)."""
    folders = ("smar_model", "jobs", "sql", "schemas")
    written = [file.stat().st_mtime_ns for folder in folders for file in (REPOSITORY / folder).rglob("*.[!p]*")]
    written += [file.stat().st_mtime_ns for folder in folders for file in (REPOSITORY / folder).rglob("*.py")]
    return len(written), max(written)


@dataclass(slots=True, kw_only=True)
class Request:
    """What a forked process is to do."""

    arguments: list[str]
    folder: str
    environment: dict[str, str]
    files: list[int]
    """Standard input, output and error."""
    imported: BinaryIO
    """Where it says what it has imported."""


@dataclass(slots=True, kw_only=True)
class Command:
    """A forked process that runs, and where its caller waits."""

    pid: int
    ended: int
    """A file descriptor that can be read once it has (`pidfd_open`)."""
    caller: socket.socket
    imported: BinaryIO


@dataclass(slots=True)
class WarmProcess:
    listener: socket.socket
    java: LentJava
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    commands: list[Command] = field(default_factory=list)
    code: tuple[int, int] = field(default_factory=code_on_disk)

    def next_request(self) -> Request:
        """Serve until a process has been forked for a command; returns in that process, and in it alone."""
        self.selector.register(self.listener, selectors.EVENT_READ, self._accept)
        while True:
            for key, _ in self.selector.select(LOOK_SECONDS):
                if request := key.data(key.fileobj):
                    return cast(Request, request)
            self.java.end_idle()

    def _accept(self, listener: socket.socket) -> None:
        self._when_heard(listener.accept()[0], self._begin)

    def _when_heard(self, connection: socket.socket, handler: Callable[[socket.socket], Request | None]) -> None:
        with suppress(KeyError):
            self.selector.unregister(connection)
        self.selector.register(connection, selectors.EVENT_READ, handler)

    def _forget(self, connection: socket.socket) -> None:
        self.selector.unregister(connection)
        connection.close()

    def _begin(self, connection: socket.socket) -> Request | None:
        """The first message of a connection: a command, or a stage that would borrow Java."""
        message, files = receive(connection)
        if message is None:
            self._forget(connection)
        elif "java" in message:
            answer = self.java.lend(message["java"], message["environment"])
            self._when_heard(connection, self._take_java_back if answer["lent"] else self._forget)
            send(connection, answer)
        elif why := self._unsafe():
            send(connection, {"cold": why})
            self._forget(connection)
        else:
            return self._fork(connection, message, files)
        for file in files:
            os.close(file)
        return None

    def _take_java_back(self, connection: socket.socket) -> None:
        message, _ = receive(connection)
        self.java.take_back(sound=message is not None)
        self._forget(connection)

    def _unsafe(self) -> str | None:
        """Why no command may be forked from here any more."""
        if code_on_disk() != self.code:
            return "the code has changed since this process began"
        if threading.active_count() > 1:
            return f"threads run here: {', '.join(thread.name for thread in threading.enumerate()[1:])}"
        return None

    def _fork(self, caller: socket.socket, message: dict[str, Any], files: list[int]) -> Request | None:
        imported = os.fdopen(os.memfd_create("imported"), "w+b")
        sys.stdout.flush()
        sys.stderr.flush()
        if (pid := os.fork()) == 0:
            self._leave()
            return Request(**message, files=files, imported=imported)
        for file in files:
            os.close(file)
        command = Command(pid=pid, ended=os.pidfd_open(pid), caller=caller, imported=imported)
        self.commands.append(command)
        self._when_heard(caller, lambda _: self._pass_on(command))
        self.selector.register(command.ended, selectors.EVENT_READ, lambda _: self._end(command))
        return None

    def _leave(self) -> None:
        """In the forked process: close all that belongs to the other."""
        for key in list(self.selector.get_map().values()):
            os.close(key.fd)
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.detach()
        self.selector.close()
        for command in self.commands:
            command.imported.close()
        self.java.leave()

    def _pass_on(self, command: Command) -> None:
        """A signal for a command; a caller that is gone ends it."""
        message, _ = receive(command.caller)
        with suppress(ProcessLookupError):
            os.killpg(command.pid, message["signal"] if message else signal.SIGTERM)
        if message is None:
            self._forget(command.caller)

    def _end(self, command: Command) -> None:
        _, status = os.waitpid(command.pid, 0)
        self.selector.unregister(command.ended)
        os.close(command.ended)
        self.commands.remove(command)
        code = os.waitstatus_to_exitcode(status)
        if command.caller.fileno() >= 0:
            with suppress(OSError):
                send(command.caller, {"signal": -code} if code < 0 else {"ended": code})
            self._forget(command.caller)
        with command.imported as file:
            file.seek(0)
            if code == 0:
                import_all(file.read().decode().split())


def receive(connection: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """A message with its files; None where the other side is gone."""
    try:
        data, files, _, _ = socket.recv_fds(connection, LONGEST, 3)
    except OSError:
        return None, []
    return (json.loads(data) if data else None), files


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.send(json.dumps(message).encode())


def import_all(names: Iterable[str]) -> None:
    """What a command has imported; what cannot be imported by its name, such as a module that another one makes, is passed over."""
    for name in names:
        if name not in sys.modules:
            with suppress(Exception):
                importlib.import_module(name)


def become(request: Request) -> None:
    """Make a forked process what its caller would have started."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    os.setsid()
    for place, file in enumerate(request.files):
        os.dup2(file, place)
        os.close(file)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.argv = ["smar", *request.arguments]
    random.seed()


def main() -> None:
    place = Path(sys.argv[1])
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(place))
    listener.listen(64)
    request = WarmProcess(listener, LentJava(place.with_name("java"))).next_request()
    become(request)
    before = set(sys.modules)
    try:
        run_command()
    finally:
        with request.imported as file:
            file.write("\n".join(name for name in sys.modules if name not in before).encode())


if __name__ == "__main__":
    main()
