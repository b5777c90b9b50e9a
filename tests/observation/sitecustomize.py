"""Notes which files of the checkout the processes of a stage read. Python imports this at its start where the folder is on PYTHONPATH.

Children inherit it: Spark's Python workers through the JVM, torchrun's processes, forks. `tests/observed_files.py` sets it up and reads it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

NOTES = os.environ.get("SMAR_NOTES_OF_FILES", "")
"""Folder: one file a stage and process."""
STAGE = "SMAR_OBSERVED_STAGE"
CHECKOUT = f"{Path(__file__).resolve().parents[2]}{os.sep}"
NOT_OURS = (f"{CHECKOUT}.venv{os.sep}", f"{CHECKOUT}.git{os.sep}")


def observe(stage: str) -> None:
    noted: set[str] = set()

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event != "open" or not isinstance(arguments[0], (str, bytes)):
            return
        path = os.path.abspath(os.fsdecode(arguments[0]))
        writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if path in noted or writes or not path.startswith(CHECKOUT) or path.startswith(NOT_OURS):
            return
        if not os.path.isfile(path):  # a folder, or a name in one (`dir_fd`)
            return
        noted.add(path)
        notes = os.open(f"{NOTES}{os.sep}{stage}.{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(notes, f"{path.removeprefix(CHECKOUT)}\n".encode())
        os.close(notes)

    sys.addaudithook(note)


if NOTES:
    words = sys.orig_argv
    if "smar_model.cli" in words[:-1]:  # a stage may call another one by its command
        os.environ[STAGE] = words[words.index("smar_model.cli") + 1]
    if STAGE in os.environ:
        observe(os.environ[STAGE])
