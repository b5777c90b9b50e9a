"""Paths as commands print them."""

from __future__ import annotations

from pathlib import Path


def short_path(path: str) -> str:
    """Relative to the current folder where it is below it: terminals make that one clickable word."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
