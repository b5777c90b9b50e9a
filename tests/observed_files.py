"""What the processes of a stage read in the checkout, as `tests/observation/sitecustomize.py` notes it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from importlib.util import source_from_cache
from pathlib import Path

from smar_model.settings import REPOSITORY


def observing(notes: Path, *, stage: str | None = None) -> dict[str, str]:
    """Environment of a process that notes into a folder what it and its children read.

    Args:
        stage: whose work it does; None: `smar STAGE`, or it starts processes that are.
    """
    notes.mkdir(exist_ok=True)
    path = os.pathsep.join(filter(None, [str(REPOSITORY / "tests" / "observation"), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "SMAR_NOTES_OF_FILES": str(notes)} | ({"SMAR_OBSERVED_STAGE": stage} if stage else {})


def observed_files(notes: Path) -> Mapping[str, set[str]]:
    """Stage → files of the checkout that its processes read, the source in the place of its bytecode."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in notes.iterdir():
        for name in file.read_text(encoding="utf-8").splitlines():
            if ".egg-info/" in name:  # what pip wrote into the checkout, which importlib.metadata lists
                continue
            found[file.name.rpartition(".")[0]].add(source_from_cache(name) if name.endswith(".pyc") else name)
    return found
