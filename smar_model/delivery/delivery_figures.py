"""Figures of a delivery, table by table."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

from smar_model.lake.object_paths import AnyPath


@dataclass(frozen=True, slots=True)
class Detail:
    """What is wrong: a column or a value, or the file that such rows are in."""

    name: str
    rows: int
    file: AnyPath | None = None
    """Which has the first of them; None: `name` is a file."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Rows that will end in quarantine."""

    name: str
    rows: int
    example: str
    file: AnyPath | None = None
    """Which the example is in."""
    details: tuple[Detail, ...] = ()


@dataclass(frozen=True, slots=True)
class Department:
    name: str
    items: int
    with_pictures: int
    clicks: int = 0


@dataclass(slots=True)
class ItemFigures:
    rows: int = 0
    items: int = 0
    with_pictures: int = 0
    pictures: int = 0
    by_url: int = 0
    digit_titles: int = 0
    reasons: list[Reason] = field(default_factory=list)
    departments: list[Department] = field(default_factory=list)
    oddities: dict[str, Oddity] = field(default_factory=dict)
    scripts: dict[str, int] = field(default_factory=dict)
    """Script → items with a letter of it in the title."""


@dataclass(frozen=True, slots=True)
class Oddity:
    """Rows that no rule refuses and that are hardly meant so."""

    rows: int
    example: str
    file: AnyPath | None = None

    def with_more(self, other: Oddity) -> Oddity:
        return Oddity(self.rows + other.rows, self.example, self.file)


@dataclass(slots=True)
class FilePositions:
    """Positions of a file of the log."""

    file: AnyPath
    lowest: int | None = None
    at_0: int = 0
    at_1: int = 0

    @property
    def count_from_0(self) -> bool:
        """Each list of results has its first one: a stray 0 does not say so."""
        return self.lowest == 0 and 2 * self.at_0 >= self.at_1


@dataclass(slots=True)
class DayFigures:
    day: date
    rows: int = 0
    reasons: list[Reason] = field(default_factory=list)
    impressions: int = 0
    clicks: int = 0
    """Kept ones, both."""
    raw_impressions: int = 0
    requests: int = 0
    positions: list[FilePositions] = field(default_factory=list)
    oddities: dict[str, Oddity] = field(default_factory=dict)

    @property
    def kept(self) -> int:
        return self.rows - sum(reason.rows for reason in self.reasons)


@dataclass(slots=True)
class JudgmentFigures:
    rows: int = 0
    queries: int = 0
    bad_grades: int = 0
    bad_example: str = ""
    empty: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Column → rows in which it is empty, and the first one's line or row."""
    unknown_items: int = 0
    unknown_example: str = ""
    repeated: int = 0
    contradicted: int = 0
    """Of the repeated ones, those with another grade."""
    repeated_example: str = ""
