"""Which of two versions shoppers prefer, from interleaved lists: team draft (Radlinski, Kurup, Joachims 2008, "How does clickthrough data
reflect retrieval quality?").

1. In a request each clicked item counts once, for the team that put it there. The team with more of them wins the request.
2. A shopper is won by the team that won more of her requests, whatever their number; else she is a tie. Shoppers are the units, as
   requests of one shopper are not independent.
3. Where both versions are alike, a shopper who is no tie is won by either with chance 1/2: the exact sign test, two-sided.

The test is looked at every day, and may be acted on at any look. So each of the first EVEN_LOOKS looks spends LEVEL / (2 EVEN_LOOKS), and a
later one, of number k, LEVEL EVEN_LOOKS / (2 k (k - 1)), which sums to LEVEL over any number of looks: by the union bound the chance that two
equal versions are ever told apart is at most LEVEL, whatever the looks have in common. The smallest p LEVEL / (what its look spends) so far is an
always valid p (Johari, Pekelis, Walsh 2017, "Always valid inference"). A mixture martingale (Howard et al. 2021) would be sharper, but asks for
outcomes that stay as they are, and who wins a shopper may change with her next request.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import binomtest, norm

LEVEL = 0.05
"""Of ever telling two equal versions apart, over all looks."""
POWER = 0.8
INTERVAL = 0.95
EVEN_LOOKS = 14
"""Looks that share half of LEVEL evenly, as many as an experiment has days by default."""
MOST_LOOKS = 365
"""Beyond which no number of requests is promised."""
FEWEST_DECIDED = 20
"""Shoppers won by one of the two, below which nothing is said of how many requests are needed."""
Verdict = Literal["challenger", "champion", "open"]


class Pair(NamedTuple):
    """Who is compared, by number of their versions: an experiment."""

    champion: int
    challenger: int

    def __str__(self) -> str:
        return f"{self.champion}:{self.challenger}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopperDays:
    """What interleaved requests of one pair came to: a row a shopper and day, in any order; arrays are (R,)."""

    days: Sequence[date]
    """Of each row."""
    shoppers: np.ndarray
    """Any values that can be sorted."""
    requests: np.ndarray
    """Of that shopper on that day."""
    won: np.ndarray
    """Of those, in which more items of the challenger's were clicked."""
    lost: np.ndarray
    """Likewise of the champion's."""


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


def judge_preference(pair: Pair, rows: ShopperDays) -> Preference:
    """Judge an experiment by all its interleaved requests from its first day on.

    Raises:
        ValueError: there are none.
    """
    looks = _looks(rows)
    if not looks:
        raise ValueError(f"pair {pair}: no interleaved requests")
    last = looks[-1]
    decided = last.wins + last.losses
    ends = _interval(last.wins, decided)
    low, high = ((end * decided + last.ties / 2) / last.shoppers for end in ends)
    crossed = next((look for look in looks if look.p <= look.level), None)
    verdict: Verdict = "open"
    if crossed:
        verdict = "challenger" if crossed.wins > crossed.losses else "champion"
    return Preference(
        pair=pair,
        looks=looks,
        preference=(last.wins + last.ties / 2) / last.shoppers,
        low=low,
        high=high,
        corrected_p=min(1.0, *(look.p * LEVEL / look.level for look in looks)),
        verdict=verdict,
        decided_on=crossed.day if crossed else None,
        needed=None if crossed else _needed(looks),
    )


def level_of_look(number: int) -> float:
    """What the look of this number, from 1, spends of LEVEL."""
    if number <= EVEN_LOOKS:
        return LEVEL / (2 * EVEN_LOOKS)
    return LEVEL * EVEN_LOOKS / (2 * number * (number - 1))


def _looks(rows: ShopperDays) -> tuple[Look, ...]:
    if not len(rows.days):
        return ()
    names, shopper = np.unique(rows.shoppers, return_inverse=True)
    days = np.asarray([day.toordinal() for day in rows.days])
    more, seen, requests, looks = np.zeros(len(names), dtype=np.int64), np.zeros(len(names), dtype=bool), 0, []
    for number, day in enumerate(np.unique(days), start=1):
        today = days == day
        np.add.at(more, shopper[today], (rows.won[today] - rows.lost[today]).astype(np.int64))
        seen[shopper[today]] = True
        requests += int(rows.requests[today].sum())
        wins, losses = int((more > 0).sum()), int((more < 0).sum())
        looks.append(
            Look(
                day=date.fromordinal(int(day)),
                requests=requests,
                shoppers=int(seen.sum()),
                wins=wins,
                ties=int(seen.sum()) - wins - losses,
                losses=losses,
                p=float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0,
                level=level_of_look(number),
            )
        )
    return tuple(looks)


def _interval(wins: int, decided: int) -> tuple[float, float]:
    if not decided:
        return 0.0, 1.0
    found = binomtest(wins, decided).proportion_ci(INTERVAL, method="exact")
    return float(found.low), float(found.high)


def _needed(looks: Sequence[Look]) -> Needed | None:
    last = looks[-1]
    decided = last.wins + last.losses
    if decided < FEWEST_DECIDED:
        return None
    share = last.wins / decided
    # Less than a standard error from a half: not even the direction is known.
    if abs(share - 0.5) < 0.5 / math.sqrt(decided):
        return None
    about = _requests_until_shown(share, looks)
    low, high = _interval(last.wins, decided)
    far, near = (high, low) if share > 0.5 else (low, high)
    least = _requests_until_shown(far, looks)
    if about is None or least is None:
        return None
    is_shown = (near - 0.5) * (share - 0.5) > 0
    return Needed(about=about, least=least, most=_requests_until_shown(near, looks) if is_shown else None)


def _requests_until_shown(share: float, looks: Sequence[Look]) -> int | None:
    """Further requests until a look at which a share of wins is shown with chance POWER, as many of them a day as until now; normal
    approximation of the sign test. None: not within MOST_LOOKS."""
    last = looks[-1]
    per_look = last.requests / len(looks)
    decided_share = (last.wins + last.losses) / last.requests
    for number in range(len(looks) + 1, MOST_LOOKS + 1):
        spread = norm.isf(level_of_look(number) / 2) * 0.5 + norm.ppf(POWER) * math.sqrt(share * (1 - share))
        requests = (spread / (share - 0.5)) ** 2 / decided_share
        if requests <= number * per_look:
            return max(1, math.ceil(max(requests, (number - 1) * per_look) - last.requests))
    return None
