"""What is wrong with a delivery: one record a fault, with its place, what was found, and how to mend it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from smar_model.errors import InputError


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that has to be mended, or that a person should look at."""

    file: Path
    """File or folder."""
    found: str
    """With row or column."""
    mend: str

    def __str__(self) -> str:
        return f"{self.file}: {self.found}; {self.mend}"


_VARYING = re.compile(r"'[^']*'|\d+")
OnFault = Callable[[Fault], None]


def refuse(fault: Fault) -> None:
    """The `OnFault` of a reader that goes no further.

    Raises:
        InputError: always.
    """
    raise InputError(str(fault))


def fault_of(error: InputError) -> Fault:
    """What a reader of files raised, as a fault."""
    file, _, rest = str(error).partition(": ")
    found, _, mend = rest.rpartition("; ")
    return Fault(Path(file), found or rest, mend if found else "see README.md, 'Your own shop'")


@dataclass(slots=True)
class RepeatedFaults:
    """Faults of rows, of which a file may have a million: the first of a kind is kept whole, the others are counted."""

    first: dict[tuple[Path, str], Fault] = field(default_factory=dict)
    counts: dict[tuple[Path, str], int] = field(default_factory=dict)

    def add(self, fault: Fault) -> None:
        """Faults of a file whose words differ in quoted values and numbers alone are of one kind."""
        key = (fault.file, _VARYING.sub("…", fault.found))
        self.first.setdefault(key, fault)
        self.counts[key] = self.counts.get(key, 0) + 1

    def faults(self) -> list[Fault]:
        """One fault a file and kind, which says how many others there are."""
        found = []
        for key, fault in self.first.items():
            more = self.counts[key] - 1
            found.append(
                Fault(fault.file, f"{fault.found} (and {more:,} more like it)" if more else fault.found, fault.mend)
            )
        return found
