"""The Java that a run's Spark stages are lent, one after another (`jobs/borrowed_java.py` borrows it).

It is warm: it has loaded and compiled what the stages have in common. Each stage still has a Spark context of its own, with its own settings and scratch
folder. A stage that ends without giving Java back has left it in a state that nobody knows: it is ended, and the next stage gets a new one.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

IDLE_SECONDS = 300.0
"""Java that nobody has asked for in this time is ended: it holds a gigabyte."""


@dataclass(slots=True)
class LentJava:
    address: Path
    """File into which Java writes how it is reached."""
    process: subprocess.Popen[bytes] | None = None
    command: list[str] = field(default_factory=list)
    lent: bool = False
    returned_at: float = 0.0

    def lend(self, command: list[str], environment: dict[str, str]) -> dict[str, Any]:
        """What the borrower needs: the file into which Java writes how it is reached, and its process; of none, if another stage has it.

        Args:
            command: starts a Java that would do; one that was started by another command does not.
        """
        if self.lent:
            return {"lent": False}
        if self.process is None or self.process.poll() is not None or self.command != command:
            self.end()
            self.command = command
            self.process = subprocess.Popen(
                command,
                env=environment | {"_PYSPARK_DRIVER_CONN_INFO_PATH": str(self.address)},
                stdin=subprocess.PIPE,  # Java ends when it is closed, so with this process, too
                start_new_session=True,
            )
        self.lent = True
        return {"lent": True, "process": self.process.pid, "address": str(self.address)}

    def take_back(self, *, sound: bool) -> None:
        self.lent, self.returned_at = False, time.monotonic()
        if not sound:
            self.end()

    def end_idle(self) -> None:
        if not self.lent and time.monotonic() - self.returned_at > IDLE_SECONDS:
            self.end()

    def end(self) -> None:
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        self.leave()
        self.address.unlink(missing_ok=True)
        self.process = None

    def leave(self) -> None:
        """In a forked process: hold nothing that keeps Java alive."""
        if self.process and self.process.stdin:
            self.process.stdin.close()
