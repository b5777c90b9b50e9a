"""A small start for commands that only ask: none of the packages that MLflow and Arrow import wherever they happen to be installed.

MLflow tries pandas, Polars, SciPy and Spark when it is imported, Arrow pandas when it first converts a value: a second and 100 MB, for types that
nothing here uses. Both do without where these are not installed.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

_USUAL, _AT_START = gc.get_threshold(), (100_000, 50, 100)
OPTIONAL = ("pandas", "polars", "pyspark", "scipy", "sklearn")


class _NotInstalled(MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname.partition(".")[0] in OPTIONAL:
            raise ModuleNotFoundError(f"{fullname}: not imported by a command that only asks", name=fullname)


_FINDER = _NotInstalled()


def start_small() -> None:
    """For a process that asks the registry and an index, before it imports either."""
    sys.meta_path.insert(0, _FINDER)
    # Libraries make a million objects when they are imported; to look through these again and again took a fifth of the start.
    gc.set_threshold(*_AT_START)


def settle() -> None:
    """For a server that began small and has all that it answers with: what it holds is not looked through again, what comes as often as Python
    usually does."""
    if gc.get_threshold() == _AT_START:
        gc.freeze()
        gc.set_threshold(*_USUAL)


def allow_all() -> None:
    """From here on everything can be imported: for what needs pandas after all (digests of rows), or PyTorch, whose companions look for what
    is installed."""
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)
