"""Redis on 127.0.0.1."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from laptop.ui import free_port
from smar_model.lake.process_identity import end_with_parent
from tests.services.stack import end


@contextmanager
def running_redis(folder: Path) -> Iterator[str]:
    """Its address."""
    port = free_port(0)
    folder.mkdir(parents=True)
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    server = subprocess.Popen(
        ["redis-server", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=end_with_parent,
    )
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        end(server)
