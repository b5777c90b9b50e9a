"""A process of its own that keeps a machine's commands warm while `make retrain` or `make ui` runs (`smar_model/cli/warm_process.py`)."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from smar_model.lake.process_identity import end_with_parent
from smar_model.settings import REPOSITORY

COLD = "SMAR_COLD"
"""Set to anything: every command imports all of its libraries by itself, as on a cluster."""


@contextmanager
def warm_start(variables: dict[str, str], output: IO[str] | IO[bytes]) -> Iterator[dict[str, str]]:
    """Start it; gives the environment in which the DAGs' commands find it. It ends with the block.

    Args:
        variables: environment of the commands.
        output: what Java says goes here.
    """
    if os.environ.get(COLD):
        yield variables
        return
    # A socket's path may have a hundred letters: the home folder's may have more.
    with tempfile.TemporaryDirectory(prefix="smar-warm-") as folder:
        place = str(Path(folder) / "socket")
        command = [sys.executable, "-I", "-S", str(REPOSITORY / "laptop" / "warm_command.py")]
        variables = variables | {"SMAR_WARM": place, "SMAR_COMMAND": shlex.join(command)}
        process = subprocess.Popen(
            [sys.executable, "-m", "smar_model.cli.warm_process", place],
            cwd=REPOSITORY,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=end_with_parent,
        )
        try:
            yield variables
        finally:
            process.terminate()
            process.wait()
