"""`smar ARGUMENTS` by the warm process of this run (`smar_model/cli/warm_process.py`), whose socket SMAR_WARM names; cold where there is none.

Run as a file, with the standard library alone: `python -I -S laptop/warm_command.py ARGUMENTS`. It ends as the command does, by the same code or signal.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def start_cold(arguments: list[str]) -> NoReturn:
    os.execv(sys.executable, [sys.executable, "-m", "smar_model.cli", *arguments])


def main(arguments: list[str]) -> int:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = {"arguments": arguments, "folder": str(Path.cwd()), "environment": dict(os.environ)}
    try:
        connection.connect(os.environ.get("SMAR_WARM", ""))
        socket.send_fds(connection, [json.dumps(command).encode()], [0, 1, 2])
    except OSError:
        start_cold(arguments)

    def pass_on(number: int, frame: FrameType | None) -> None:
        connection.send(json.dumps({"signal": number}).encode())

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    try:
        answer = json.loads(connection.recv(1 << 16) or "{}")
    except ConnectionError:
        answer = {}
    if "cold" in answer:
        print(f"a cold start: {answer['cold']}", file=sys.stderr)
        start_cold(arguments)
    if "signal" in answer:
        with suppress(OSError):  # nobody handles SIGKILL
            signal.signal(answer["signal"], signal.SIG_DFL)
        os.kill(os.getpid(), answer["signal"])
    if "ended" in answer:
        return answer["ended"]
    print("error: the warm process has gone while it ran this command; run it again", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
