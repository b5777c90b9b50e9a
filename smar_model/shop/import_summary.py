"""What came of an import, in lines for people: nothing is left out, changed or taken for granted without a count."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class LeftOut:
    """What was left out, or changed, for one reason."""

    example: str
    """Where the first of them is."""
    count: int = 0


@dataclass(slots=True)
class Unknown:
    """Events, or judgments, that name items which the shop does not have."""

    what: str
    count: int
    of: int
    example: str

    def line(self) -> str:
        share = f"{self.count:,} of {self.of:,} {self.what} name items that the shop does not have"
        return f"unknown items: {share} (such as {self.example!r})"


@dataclass(slots=True)
class ImportSummary:
    counts: Counter[str] = field(default_factory=Counter)
    """Rows and pictures added."""
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    """What was not added, by the reason in words."""
    changed: dict[str, LeftOut] = field(default_factory=dict)
    """What was cast, mended or taken for granted, by what was done in words."""
    notes: list[str] = field(default_factory=list)
    """Lines of the source's own, such as the balance of its records."""
    unknown: list[Unknown] = field(default_factory=list)

    def leave_out(self, reason: str, example: str, count: int) -> None:
        self.left_out.setdefault(reason, LeftOut(example)).count += count

    def change(self, what: str, example: str, count: int) -> None:
        self.changed.setdefault(what, LeftOut(example)).count += count

    def lines(self) -> list[str]:
        """All but what was added and what the shop lacks."""
        return [
            *self.notes,
            *(f"changed: {out.count:,} {what} (such as {out.example})" for what, out in self.changed.items()),
            *(f"left out: {out.count:,} {reason} (such as {out.example})" for reason, out in self.left_out.items()),
            *(unknown.line() for unknown in self.unknown),
        ]
