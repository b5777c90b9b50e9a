"""Which code a process runs."""

from __future__ import annotations

import subprocess

from smar_model.settings import REPOSITORY


def commit() -> str:
    """Commit of the checkout, `-dirty` where files differ from it; `unknown` outside a checkout."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=12", "--match="]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
