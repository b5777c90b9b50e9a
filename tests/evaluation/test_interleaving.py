"""Who is preferred: the statistics, and `smar interleaving` over a log."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from scipy.stats import binomtest
from typer.testing import CliRunner, Result

from smar_model.cli import app
from smar_model.errors import InputError
from smar_model.evaluation.interleaving import ShopperDays, judge_preference, level_of_look
from smar_model.evaluation.preference import LEVEL, Pair, describe_preference
from tests.tiny_shop import tiny_settings, write_rows

DAY = date(2026, 11, 19)
PAIR = Pair(3, 5)


def rows_of(*days: list[tuple[str, int, int, int]]) -> ShopperDays:
    """Shopper, requests, won, lost; a list a day."""
    rows = [(DAY + timedelta(days=number), *row) for number, day in enumerate(days) for row in day]
    columns = list(zip(*rows, strict=True))
    return ShopperDays(
        days=columns[0],
        shoppers=np.array(columns[1]),
        requests=np.array(columns[2]),
        won=np.array(columns[3]),
        lost=np.array(columns[4]),
    )


def shoppers(wins: int, losses: int, ties: int = 0, *, prefix: str = "u") -> list[tuple[str, int, int, int]]:
    outcomes = [(1, 0)] * wins + [(0, 1)] * losses + [(0, 0)] * ties
    return [(f"{prefix}{number}", 1, *outcome) for number, outcome in enumerate(outcomes)]


def test_shoppers_are_the_units_whatever_the_number_of_their_requests() -> None:
    found = judge_preference(PAIR, rows_of([("often", 50, 40, 2), *shoppers(2, 5, ties=2)]))
    last = found.last
    assert (last.wins, last.ties, last.losses, last.requests, last.shoppers) == (3, 2, 5, 59, 10)
    assert found.preference == pytest.approx((3 + 1) / 10)
    assert last.p == pytest.approx(binomtest(3, 8).pvalue)


def test_who_wins_a_shopper_may_change_on_a_later_day() -> None:
    found = judge_preference(PAIR, rows_of([("a", 1, 1, 0)], [("a", 3, 0, 2), ("b", 1, 0, 0)]))
    assert [(look.wins, look.ties, look.losses) for look in found.looks] == [(1, 0, 0), (0, 1, 1)]


def test_a_look_spends_its_part_of_the_level_and_the_first_that_shows_decides() -> None:
    levels = [level_of_look(number) for number in range(1, 50_000)]
    assert sum(levels) == pytest.approx(LEVEL, rel=1e-3) and sum(levels) <= LEVEL
    assert levels == sorted(levels, reverse=True)
    some, first = shoppers(18, 6), shoppers(24, 5)
    assert binomtest(24, 29).pvalue < levels[0] < binomtest(18, 24).pvalue < LEVEL
    assert judge_preference(PAIR, rows_of(first)).verdict == "challenger"
    looked_at_daily = judge_preference(PAIR, rows_of(some))
    assert looked_at_daily.verdict == "open"
    assert looked_at_daily.last.p < LEVEL < looked_at_daily.corrected_p
    kept = judge_preference(PAIR, rows_of(first, shoppers(0, 19, prefix="y")))
    assert (kept.verdict, kept.decided_on) == ("challenger", DAY)
    assert kept.last.wins == kept.last.losses


def test_the_worse_challenger_is_named_as_well() -> None:
    found = judge_preference(PAIR, rows_of(shoppers(5, 40)))
    assert found.verdict == "champion"
    assert found.high < 0.5
    assert found.needed is None


def test_equal_versions_are_rarely_told_apart_however_often_one_looks() -> None:
    random, told = np.random.default_rng(5), 0
    for _ in range(200):
        days = []
        for _day in range(14):
            won = random.random(60) < 0.5
            ids = random.integers(0, 300, 60)
            days.append([(f"u{i}", 1, int(w), int(not w)) for i, w in zip(ids, won, strict=True)])
        told += judge_preference(PAIR, rows_of(*days)).verdict != "open"
    assert told <= 10, "at most one in twenty"


def test_requests_needed_show_it_and_nothing_is_told_from_little() -> None:
    assert judge_preference(PAIR, rows_of(shoppers(6, 4))).needed is None
    assert judge_preference(PAIR, rows_of(shoppers(200, 199))).needed is None
    found = judge_preference(PAIR, rows_of(shoppers(112, 88, ties=200)))
    assert found.verdict == "open" and found.needed is not None
    assert found.needed.least < found.needed.about
    assert found.needed.most is None
    assert f"(at least {found.needed.least:,}; no number is enough where its interval ends" in describe_preference(
        found
    )
    # As many more requests a day as before, with just this preference: shown in about four of five continuations.
    random, shown = np.random.default_rng(6), 0
    looks = -(-found.needed.about // 400)
    for _ in range(100):
        days = []
        for day in range(looks):
            wins, ties = random.binomial(200, 0.56), 200
            days.append(shoppers(wins, 200 - wins, ties, prefix=f"{day}-"))
        shown += judge_preference(PAIR, rows_of(shoppers(112, 88, ties=200), *days)).verdict == "challenger"
    assert 65 <= shown <= 97


def impressions(
    request: str, user: str, teams: str, *, day: date = DAY, second: int = 0, **more: Any
) -> list[dict[str, Any]]:
    """A list, a letter of `teams` an item from the top: A the challenger's, B the champion's, - nobody's."""
    at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC) + timedelta(seconds=second)
    names = {"A": ("challenger", "5"), "B": ("champion", "3"), "-": (None, None)}
    return [
        {
            "event_time": at, "event": "impression", "request_id": request, "session_id": f"s-{request}", "user_id": user,
            "query": "red shirt", "item_id": f"item-{place}", "position": place, "team": names[letter][0], "version": names[letter][1],
            "routing": "shipped",
        } | more
        for place, letter in enumerate(teams, start=1)
    ]  # fmt: skip


def click(shown: list[dict[str, Any]], place: int, *, after: float = 5, **more: Any) -> dict[str, Any]:
    row = shown[place - 1]
    return row | {"event": "click", "event_time": row["event_time"] + timedelta(seconds=after)} | more


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Settings of a shop without a log yet."""
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(tiny_settings(tmp_path / "shop").model_dump(mode="json")), encoding="utf-8")
    (tmp_path / "shop" / "click_log").mkdir(parents=True)
    return path


def write_day(shop: Path, events: list[dict[str, Any]], *, day: date = DAY, lines: bool = False) -> Path:
    folder = shop.parent / "shop" / "click_log" / f"dt={day}"
    if not lines:
        write_rows(folder / "part-0.parquet", "click_log", events)
        return folder / "part-0.parquet"
    folder.mkdir(parents=True)
    text = "\n".join(json.dumps(event | {"event_time": event["event_time"].isoformat()}) for event in events)
    (folder / "part-0.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    return folder / "part-0.jsonl.gz"


def ask(shop: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["interleaving", "--settings", str(shop), *arguments])


def read(shop: Path, *arguments: str) -> Any:
    done = ask(shop, "--json", *arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize("lines", [False, True])
def test_clicks_are_credited_to_the_team_that_showed_the_item(shop: Path, lines: bool) -> None:
    won, lost, tie = (impressions(f"r{n}", f"u{n}", "ABAB") for n in (1, 2, 3))
    events = [*won, *lost, *tie, *impressions("plain", "u4", "----")]
    # What an action's own row says of the team does not count: its impression's does.
    events += [click(won, 1), click(won, 3, team=None, version=None), click(won, 2), click(lost, 2, team="challenger")]
    events += [click(tie, 1), click(tie, 2)]
    write_day(shop, events, lines=lines)
    (found,) = read(shop)["pairs"]
    assert found["pair"] == {"champion": 3, "challenger": 5}
    look = found["looks"][-1]
    assert (look["requests"], look["shoppers"], look["wins"], look["ties"], look["losses"]) == (3, 3, 1, 1, 1)
    assert read(shop)["left_out"] == []


def test_what_does_not_count_is_told_with_its_number_reason_and_example(shop: Path) -> None:
    fine = impressions("fine", "u1", "AB")
    events = [*fine, click(fine, 2), click(fine, 2), click(fine, 2, after=9), click(fine, 1, after=-5)]
    events += [click(fine, 1, item_id="item-9", after=7)]
    one_team, no_version = impressions("one-team", "u2", "AA"), impressions("no-version", "u3", "AB", version=None)
    strange, several = impressions("strange", "u4", "AB"), impressions("several", "u5", "AB")
    strange[0]["team"] = "tertium"
    several[1]["user_id"] = "u6"
    both = impressions("both", "u7", "AB") + impressions("both", "u7", "BA")[:1]
    both[-1]["position"] = 3
    events += [*one_team, *no_version, *strange, *several, *both]
    for number in range(40):  # within a minute
        shown = impressions(f"bot-{number}", "machine", "AB")
        events += [*shown, click(shown, 1)]
    write_day(shop, events)
    found = read(shop)
    look = found["pairs"][0]["looks"][-1]
    assert (look["requests"], look["wins"], look["losses"]) == (1, 0, 1)
    left = {(row["what"], row["why"]): (row["count"], row["example"]) for row in found["left_out"]}
    assert left["request", "all items shown are of one team"] == (1, "one-team")
    assert left["request", "a team has no number of a version"] == (1, "no-version")
    assert left["request", "a team is neither champion nor challenger"] == (1, "strange")
    assert left["request", "of several shoppers"] == (1, "several")
    assert left["request", "an item is of both teams"] == (1, "both")
    assert left["request", "bot_rate"] == (40, "bot-0")
    assert left["shopper", "bot_rate"] == (1, "machine")
    assert left["click", "duplicate_event"] == (1, "fine/item-2")
    assert left["click", "replayed_event"] == (1, "fine/item-2")
    assert left["click", "action_before_impression"] == (1, "fine/item-1")
    assert left["click", "action_without_impression"] == (1, "fine/item-9")
    text = ask(shop).stdout
    assert "left out: 40 requests: bot_rate, as bot-0" in text
    assert "left out: 1 shoppers: bot_rate, as machine" in text


def test_items_that_nobody_competed_for_count_for_nobody(shop: Path) -> None:
    shown = impressions("r1", "u1", "AB--")
    write_day(shop, [*shown, click(shown, 2), click(shown, 3), click(shown, 4)])
    found = read(shop)
    assert (found["pairs"][0]["looks"][0]["losses"], found["pairs"][0]["looks"][0]["requests"]) == (1, 1)
    (left,) = found["left_out"]
    assert (left["why"], left["count"]) == ("its item is of neither team", 2)


def test_pairs_and_days_are_kept_apart_and_can_be_asked_for(shop: Path) -> None:
    for number in range(3):
        day = DAY + timedelta(days=number)
        shown = impressions(f"r{number}", "u1", "AB", day=day)
        other = [
            r | {"version": "7" if r["team"] == "challenger" else "3"}
            for r in impressions(f"o{number}", "u2", "AB", day=day)
        ]
        write_day(shop, [*shown, click(shown, 1), *(other if number == 2 else [])], day=day)
    assert [(p["pair"]["challenger"], len(p["looks"])) for p in read(shop)["pairs"]] == [(5, 3), (7, 1)]
    assert [p["pair"]["challenger"] for p in read(shop, "--pair", "3:7")["pairs"]] == [7]
    (one,) = read(shop, "--pair", "3:5", "--from", str(DAY), "--to", str(DAY + timedelta(days=1)))["pairs"]
    assert [look["day"] for look in one["looks"]] == [str(DAY), str(DAY + timedelta(days=1))]
    table = ask(shop).stdout.splitlines()
    assert table[1].split()[:5] == ["3:5", "3", "3", "1", "1"]
    assert "cannot be told yet" in ask(shop).stdout


def test_a_log_without_interleaved_lists_says_how_to_begin(shop: Path) -> None:
    plain = impressions("r1", "u1", "--")
    for row in plain:
        del row["team"], row["version"], row["routing"]
    file = write_day(shop, plain)
    pq.write_table(pq.read_table(file).drop_columns(["team", "version", "routing"]), file)
    said = ask(shop).stdout.strip()
    assert "\n" not in said and "smar serve --interleave champion:challenger" in said
    assert read(shop)["pairs"] == []


def test_bad_input_is_one_message_that_names_it(shop: Path, tmp_path: Path) -> None:
    for arguments, named in (
        (("--pair", "3"), "--pair '3'"),
        (("--from", "2026-11-20", "--to", "2026-11-19"), "--from 2026-11-20"),
        (("--log", str(tmp_path / "nowhere")), "nowhere"),
    ):
        with pytest.raises(InputError, match=named):
            raise ask(shop, *arguments).exception or AssertionError("it was taken")
    damaged = write_day(shop, impressions("r1", "u1", "AB"))
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"part-0\.parquet"):
        raise ask(shop).exception or AssertionError("it was taken")
