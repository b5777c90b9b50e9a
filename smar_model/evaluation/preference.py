"""What an experiment of interleaved lists has shown (`interleaving.py` judges it), and how it is said."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal, NamedTuple

LEVEL = 0.05
"""Of ever telling two equal versions apart, over all looks."""
POWER = 0.8
INTERVAL = 0.95
Verdict = Literal["challenger", "champion", "open"]


class Pair(NamedTuple):
    """Who is compared, by number of their versions: an experiment."""

    champion: int
    challenger: int

    def __str__(self) -> str:
        return f"{self.champion}:{self.challenger}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The sign test on a day, over everything up to it."""

    day: date
    requests: int
    shoppers: int
    wins: int
    """Shoppers won by the challenger."""
    ties: int
    losses: int
    p: float
    level: float
    """What `p` must be at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """Interleaved requests that are still needed until a verdict, with chance POWER."""

    about: int
    """Were the preference what has been seen."""
    least: int
    """Were it at the far end of its interval."""
    most: int | None
    """Were it at the near end; None: that end is no preference at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """An experiment so far."""

    pair: Pair
    looks: tuple[Look, ...]
    """One a day with interleaved requests, the first first; never empty."""
    preference: float
    """For the challenger: (wins + ties / 2) / shoppers; a half: none."""
    low: float
    high: float
    """95 % interval of it as of today, by Clopper and Pearson's of wins among the shoppers that are no tie."""
    corrected_p: float
    """Always valid: the smallest of p LEVEL / level over the looks so far, at most 1."""
    verdict: Verdict
    """Who is preferred at LEVEL over all looks; `open`: not shown yet."""
    decided_on: date | None
    """Day of the first look at which that was shown; later ones do not change it."""
    needed: Needed | None
    """None: there is a verdict, or it cannot be told yet."""

    @property
    def last(self) -> Look:
        return self.looks[-1]


def describe_preference(found: Preference) -> str:
    """The verdict in one sentence."""
    if found.verdict != "open":
        return f"shoppers prefer the {found.verdict}, shown on {found.decided_on}"
    return f"not shown which one shoppers prefer; {needed_text(found.needed)}"


def needed_text(needed: Needed | None) -> str:
    """How many requests are still needed."""
    if needed is None:
        return "how many requests are still needed cannot be told yet"
    over = (
        f"{needed.least:,} to {needed.most:,} over its interval"
        if needed.most is not None
        else f"at least {needed.least:,}; no number is enough where its interval ends, at no preference"
    )
    return f"about {needed.about:,} more requests show it with a chance of {POWER:.0%}, if the preference is as seen ({over})"


def p_text(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"
