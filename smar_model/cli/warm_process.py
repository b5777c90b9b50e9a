"""A process that forks for each command of a run, so that a machine imports its libraries once and not with each of thirty commands.

    python -m smar_model.cli.warm_process SOCKET

`make retrain` and `make ui` start it; `laptop/warm_command.py` hands it a command and ends as that does. Each command is a process of its own with the
arguments, environment, folder, input and outputs of its caller: its exit code, its signals and what it holds in memory are nobody else's. What a
command had to import is imported here when it has ended, for those that follow: no list says what is warm. Spark's stages are lent one Java
(`lent_java.py`). A command whose caller is gone is ended.

Nothing runs here but imports. Where that is not safe, the caller is told to start cold: once the code has changed, as the key of a stage names the files
on the disk, and once anything has started a thread, which a fork would lose.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import random
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from smar_model.cli import main as run_command
from smar_model.cli.lent_java import LentJava
from smar_model.lake.durable_files import replace_plain_file
from smar_model.lake.process_identity import end_with_parent
from smar_model.settings import REPOSITORY, home

LONGEST = 1 << 18
"""Bytes of a message."""
LOOK_SECONDS = 30.0
"""Between two looks at whether Java is idle."""


def code_on_disk() -> tuple[int, int]:
    """How many files there are of what stages are made of, and when one was last written (nanoseconds)."""
    folders = [REPOSITORY / name for name in ("smar_model", "jobs", "sql", "schemas")]
    # Beside them Python writes bytecode, whose folder has no suffix.
    files = [file for folder in folders for file in folder.rglob("*.*") if file.suffix != ".pyc"]
    return len(files), max(file.stat().st_mtime_ns for file in files)


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
class Learned:
    """Modules that commands have imported, of this run and of the one before, whose are imported while Airflow starts."""

    file: Path
    names: dict[str, None] = field(default_factory=dict)
    to_import: deque[str] = field(default_factory=deque)

    def __post_init__(self) -> None:
        with suppress(OSError, ValueError):
            self.names = dict.fromkeys(self.file.read_text(encoding="utf-8").split())
        self.to_import.extend(self.names)

    def add(self, names: list[str]) -> None:
        self.to_import.extend(names)
        if not self.names.keys() >= set(names):
            self.names |= dict.fromkeys(names)
            with suppress(OSError):  # a cache
                replace_plain_file(self.file, "\n".join(self.names))

    def import_one(self) -> None:
        """One that cannot be imported by its name, as another makes it or it is there no more, is forgotten."""
        if self.to_import and (name := self.to_import.popleft()) not in sys.modules:
            try:
                importlib.import_module(name)
            except Exception:
                self.names.pop(name, None)


@dataclass(slots=True)
class WarmProcess:
    listener: socket.socket
    java: LentJava
    learned: Learned
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    commands: list[Command] = field(default_factory=list)
    code: tuple[int, int] = field(default_factory=code_on_disk)

    def next_request(self) -> Request:
        """Serve until a process has been forked for a command; returns in that process, and in it alone."""
        self.selector.register(self.listener, selectors.EVENT_READ, self._accept)
        while True:
            # What is to be imported waits for whoever asks, and goes on while what was asked for runs.
            for key, _ in self.selector.select(0 if self.learned.to_import else LOOK_SECONDS):
                if request := key.data(key.fileobj):
                    return cast(Request, request)
            self.learned.import_one()
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
        gc.freeze()  # what is here is looked through, and so copied, by none of the forked processes
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
                self.learned.add(file.read().decode().split())


def receive(connection: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """A message with its files; None where the other side is gone."""
    try:
        data, files, _, _ = socket.recv_fds(connection, LONGEST, 3)
    except OSError:
        return None, []
    return (json.loads(data) if data else None), files


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.send(json.dumps(message).encode())


def become(request: Request) -> None:
    """Make a forked process what its caller would have started."""
    end_with_parent()
    os.setsid()
    for place, file in enumerate(request.files):
        os.dup2(file, place)
        os.close(file)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.argv = ["smar", *request.arguments]
    random.seed()


def end(code: int) -> NoReturn:
    """End as Python does, but for taking apart what has been imported: that takes a second, and the kernel does it at once."""
    threading._shutdown()  # type: ignore[attr-defined]  # ends pools, waits for other threads; as multiprocessing does
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def run(request: Request) -> int:
    """Run the command; returns its exit code."""
    before = set(sys.modules)
    try:
        run_command()
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        with request.imported as file:
            file.write("\n".join(name for name in sys.modules if name not in before).encode())
    return 0


def main() -> None:
    place = Path(sys.argv[1])
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(place))
    listener.listen(64)
    request = WarmProcess(
        listener, LentJava(place.with_name("java")), Learned(home() / "warm_modules.txt")
    ).next_request()
    become(request)
    end(run(request))


if __name__ == "__main__":
    main()
