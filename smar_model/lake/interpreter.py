"""Handing a command over to the interpreter that `stages.python` names for its stage (design, decision 1)."""

from __future__ import annotations

import os
import shutil
import sys

from smar_model.errors import InputError
from smar_model.settings import Settings

_HANDED_OVER = "SMAR_HANDED_OVER"
"""Set for the second process, so that it does not hand over again."""


def hand_over(stage: str, settings: Settings) -> None:
    """Replace this process by the same command under the stage's own interpreter, where the settings name one.

    Raises:
        InputError: there is no such interpreter on this machine.
    """
    python = settings.stages.python.get(stage)
    if python is None or os.environ.get(_HANDED_OVER) == stage:
        return
    found = shutil.which(python)
    if found is None:
        raise InputError(f"stages.python.{stage}: no interpreter {python!r} on this machine; correct the settings")
    sys.stdout.flush()
    # The process id stays, so that whoever watches or stops this command still does.
    os.execve(found, [found, "-m", "smar_model.cli", *sys.argv[1:]], os.environ | {_HANDED_OVER: stage})
