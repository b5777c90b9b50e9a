"""What `smar shop check` goes by, and what it has found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import date

from smar_model.delivery.delivery_faults import Fault
from smar_model.delivery.delivery_figures import DayFigures, ItemFigures, JudgmentFigures
from smar_model.lake.object_paths import AnyPath
from smar_model.settings import Checks, Clicks, Pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckBounds:
    """Settings that the check goes by."""

    clicks: Clicks = field(default_factory=Clicks)
    checks: Checks = field(default_factory=Checks)
    pictures: Pictures = field(default_factory=Pictures)
    window_days: int | None = None
    """None: every day of the log."""
    evaluation_days: int = 1
    fetch: bool = False
    """Whether pictures named by URL are fetched."""
    today: date | None = None
    """Days after it lie in the future; None: not looked at."""


@dataclass(slots=True)
class ShopCheck:
    """What was found."""

    root: AnyPath
    faults: list[Fault] = field(default_factory=list)
    """What ends a run: it has to be mended."""
    warnings: list[Fault] = field(default_factory=list)
    casts: list[str] = field(default_factory=list)
    items: ItemFigures | None = None
    days: list[DayFigures] = field(default_factory=list)
    """Of the whole log, in order."""
    incomplete: list[date] = field(default_factory=list)
    """Days that are not complete, and so not among `days`; the warnings say why."""
    window: list[date] = field(default_factory=list)
    """Its last days, which a run would read."""
    judgments: JudgmentFigures | None = None
    clicked_queries: int = 0
    queries_once: int = 0
    query_scripts: dict[str, int] = field(default_factory=dict)
    queries_by_last_days: list[int] = field(default_factory=list)
    """Distinct queries with a click on the last day, the last two days, and so on."""
    items_by_last_days: list[int] = field(default_factory=list)
    """Likewise the items whose text stands since before these days."""
    items_before_cutoff: int = 0
    opened_pictures: int = 0
    usable_pictures: int = 0
    broken_pictures: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Reason → how many of the opened ones, and one of them."""
    missing_pictures: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Kind of a name that leads to no picture (of `NAMES`) → how many there are, and one of them."""
    alike_pictures: tuple[int, str] = (0, "")
    """The most opened pictures that are one and the same, and one of them."""
    one_colour_pictures: tuple[int, str] = (0, "")
    """Opened ones of nearly one colour, and one of them."""
    shared_pictures: tuple[int, int, str] = (0, 0, "")
    """Names that too many items list, the most items that list one, and that one."""
    bad_values: Counter[str] = field(default_factory=Counter)
    """`table.column` → values that are told of as faults or warnings, and are empty for the figures."""

    refused_times: int = 0
    """Items whose updated_at is a fault for itself."""
    whole_catalogue: bool = True
    """Whether each file of the catalogue could be read."""

    @property
    def has_catalogue(self) -> bool:
        """Whether there is any usable item: without, nothing is known of others' items."""
        return bool(self.items and self.items.items)

    @property
    def passed(self) -> bool:
        return not self.faults
