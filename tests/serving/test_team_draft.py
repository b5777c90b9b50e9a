"""Team draft: no item twice, each prefix fair, the same draft from the same request."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from smar_model.serving.team_draft import draft

LETTERS = "abcdefghijklmnop"
CASES = {
    "the same": (LETTERS[:8], LETTERS[:8]),
    "reversed": (LETTERS[:8], LETTERS[7::-1]),
    "nothing in common": (LETTERS[:8], LETTERS[8:]),
    "one swap": ("abcdefgh", "abdcefgh"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("k", [1, 5, 8])
def test_each_list_has_k_items_and_none_twice_and_teams_take_turns(case: str, k: int) -> None:
    rankings = CASES[case]
    for request in range(200):
        picks = draft(*rankings, k, f"{request}")
        items = [rankings[pick.from_challenger][pick.place] for pick in picks]
        assert len(items) == len(set(items)) == k
        for length in range(2, k + 1, 2):
            teams = Counter(pick.team for pick in picks[:length])
            assert teams["champion"] == teams["challenger"] == length // 2
        for pick, item in zip(picks, items, strict=True):
            assert (pick.team == "challenger") is pick.from_challenger
            mine, before = rankings[pick.from_challenger], items[: items.index(item)]
            assert set(mine[: pick.place]) <= set(before), "a team passed over an item that it ranks higher"


def test_who_clicks_without_looking_prefers_nobody_at_any_place() -> None:
    champion, challenger = CASES["nothing in common"]
    at = Counter[int]()
    for request in range(4_000):
        for place, pick in enumerate(draft(champion, challenger, 8, f"request {request}")):
            at[place] += pick.team == "challenger"
    # Four standard errors of 4,000 coins.
    assert all(abs(count / 4_000 - 0.5) < 4 * 0.5 / 4_000**0.5 for count in at.values())
    assert len(at) == 8


def test_a_request_gives_the_same_draft_again() -> None:
    champion, challenger = CASES["reversed"]
    random.seed(1)
    first = draft(champion, challenger, 8, "0123abcd")
    random.seed(2)
    assert draft(champion, challenger, 8, "0123abcd") == first
    assert len({tuple(draft(champion, challenger, 8, f"{n}")) for n in range(100)}) > 4


def test_what_is_left_of_one_ranking_is_shown_and_belongs_to_nobody() -> None:
    picks = draft("ab", "bcdef", 10, "seed")
    items = [("ab", "bcdef")[pick.from_challenger][pick.place] for pick in picks]
    assert sorted(items) == list("abcdef")
    assert [pick.team for pick in picks[-2:]] == [None, None]
    credited = Counter(pick.team for pick in picks if pick.team)
    assert abs(credited["champion"] - credited["challenger"]) <= 1
    assert draft("", "", 10, "seed") == []
    assert [pick.team for pick in draft("", "ab", 10, "seed")] == [None, None]
