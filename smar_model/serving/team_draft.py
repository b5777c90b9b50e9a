"""Team draft: two rankings as one list, in which each item belongs to the team that picked it (Radlinski, Kurup and Joachims 2008, CIKM).

The two pick in rounds, and a coin says who begins each: so both have as many items in every full round of two, and either place in it as
often. A shopper who clicks without looking clicks as often on the items of one as of the other.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from smar_model.serving.log_rows import Team


class Pick(NamedTuple):
    team: Team | None
    """Whose item it is; None of what is left of one ranking when the other has nothing more to pick."""
    from_challenger: bool
    """In whose ranking it stands there."""
    place: int
    """In that ranking, from 0."""


def draft(champion: Sequence[str], challenger: Sequence[str], k: int, seed: str) -> list[Pick]:
    """Up to k picks, no item twice.

    Args:
        champion, challenger: ids of items, best first.
        seed: of the coins; the same gives the same draft.
    """
    coins = random.Random(seed)
    rankings, places, picked = (champion, challenger), [0, 0], [0, 0]
    taken: set[str] = set()
    picks: list[Pick] = []
    while len(picks) < k:
        for side in (0, 1):
            while places[side] < len(rankings[side]) and rankings[side][places[side]] in taken:
                places[side] += 1
        left = [places[side] < len(rankings[side]) for side in (0, 1)]
        if not any(left):
            break
        if all(left):
            side = coins.getrandbits(1) if picked[0] == picked[1] else int(picked[1] < picked[0])
            team: Team | None = "challenger" if side else "champion"
            picked[side] += 1
        else:  # which nobody has competed for: a click on it says nothing about the two
            side, team = int(left[1]), None
        picks.append(Pick(team, bool(side), places[side]))
        taken.add(rankings[side][places[side]])
    return picks
