"""What is wrong with a delivery: one record a fault, with its place, what was found, and how to mend it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from smar_model.errors import InputError
from smar_model.lake.object_paths import AnyPath, place_of


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that has to be mended, or that a person should look at."""

    file: AnyPath
    """File or folder."""
    found: str
    """With row or column."""
    mend: str

    def __str__(self) -> str:
        return f"{self.file}: {self.found}; {self.mend}"


_MORE = re.compile(r" \(and … more like it\)")
_VARYING = re.compile(r"'[^']*'|\d+")
MOST_ALIKE = 3
"""Files with the same fault that are each named."""
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
    return Fault(place_of(file), found or rest, mend if found else "see README.md, 'Your own shop'")


@dataclass(slots=True)
class RepeatedFaults:
    """Faults of rows, of which a file may have a million: the first of a kind is kept whole, the others are counted."""

    first: dict[tuple[AnyPath, str], Fault] = field(default_factory=dict)
    counts: dict[tuple[AnyPath, str], int] = field(default_factory=dict)

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


def fold(faults: list[Fault]) -> list[Fault]:
    """Where more than MOST_ALIKE files of one kind have the same fault, the first is kept whole and the others are counted."""
    alike: dict[tuple[str, str, str], list[Fault]] = {}
    for fault in faults:
        key = (fault.file.suffix, _MORE.sub("", _VARYING.sub("…", fault.found)), _VARYING.sub("…", fault.mend))
        alike.setdefault(key, []).append(fault)
    folded = []
    for some in alike.values():
        if len({fault.file for fault in some}) <= MOST_ALIKE:
            folded += some
            continue
        first, others = some[0], [fault.file for fault in some[1:]]
        last = others[-1]
        example = last.name if last.parent == first.file.parent else f"{last.parent.name}/{last.name}"
        more = f" (and {len(others):,} more files like it, such as {example})"
        folded.append(Fault(first.file, f"{first.found}{more}", first.mend))
    return folded
