"""`smar interleaving`: experiments that a shop's click log has, a pair of versions each, and the table that people read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from smar_model.data.query_text import normalise_query, visible_text
from smar_model.delivery.interleaved_requests import LeftOut, days_of_log, read_interleaved_requests
from smar_model.delivery.shop_figures import TextForms
from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.errors import InputError
from smar_model.evaluation.interleaving import ShopperDays, judge_preference
from smar_model.evaluation.preference import INTERVAL, LEVEL, Pair, Preference, describe_preference, p_text
from smar_model.lake.object_paths import AnyPath
from smar_model.settings import Settings

HOW_TO_BEGIN = "smar serve --interleave champion:challenger --share 0.1 --log {log}"
HEADS = ("pair", "days", "requests", "shoppers", "wins", "ties", "losses", "preference", "p", "corrected", "verdict")
WHATS = {"request": "requests", "shopper": "shoppers", "click": "clicks"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiments:
    """What a log says of interleaved versions."""

    log: str
    days: int
    """Of the log, looked at."""
    preferences: tuple[Preference, ...]
    """In the order of their last day: the newest is the last."""
    left_out: tuple[LeftOut, ...]
    growing: int
    """Files of living servers, whose rows are not read yet."""

    def of(self, pair: Pair) -> Preference | None:
        return next((found for found in self.preferences if found.pair == pair), None)


def parse_pair(text: str) -> Pair:
    """`3:5` → champion 3, challenger 5.

    Raises:
        InputError: it is not two numbers.
    """
    if not (match := re.fullmatch(r"([1-9]\d{0,8}):([1-9]\d{0,8})", text.strip())):
        raise InputError(f"--pair {text!r}: write two numbers of versions, champion:challenger, as 3:5")
    return Pair(int(match[1]), int(match[2]))


def click_log_of(settings: Settings) -> AnyPath:
    return ShopInputs.of(settings).root / "click_log"


def read_experiments(
    settings: Settings,
    *,
    log: AnyPath | None = None,
    first: date | None = None,
    last: date | None = None,
    pair: Pair | None = None,
) -> Experiments:
    """Judge every pair of the log, or one.

    Args:
        log: folder with the log's days; None: the settings' shop's.
        first, last: days to look at; None: all. Looks are counted from `first`.

    Raises:
        InputError: there is no log, or a file of it cannot be read.
    """
    place = log or click_log_of(settings)
    days = days_of_log(place, first, last)
    forms = TextForms(normalise=normalise_query, visible=visible_text)
    zone = ShopInputs(place.parent, None, settings.shop.time_zone).zone
    found = read_interleaved_requests(place, days, clicks=settings.clicks, forms=forms, zone=zone)
    judged = [
        judge_preference(
            Pair(*versions),
            ShopperDays(days=rows.days, shoppers=rows.shoppers, requests=rows.requests, won=rows.won, lost=rows.lost),
        )
        for versions, rows in found.pairs.items()
        if pair in {None, Pair(*versions)}
    ]
    return Experiments(
        log=str(place),
        days=len(days),
        preferences=tuple(sorted(judged, key=lambda found: (found.last.day, found.pair))),
        left_out=tuple(found.left_out),
        growing=growing_files(place),
    )


def growing_files(log: AnyPath) -> int:
    """How many files of a log `smar serve --log` is writing to: they are hidden until midnight UTC, 64 MB or the server's end."""
    if not isinstance(log, Path):
        return 0  # a server writes into folders
    return sum(1 for _ in log.glob("dt=*/.smar-*"))


def format_experiments(experiments: Experiments) -> str:
    """The table, a pair a row, then a line for each thing that was left out."""
    growing = (
        f"{experiments.growing:,} file(s) of servers that are up are not read yet: they are whole at midnight UTC, at 64 MB and when the "
        "server ends"
    )
    if not experiments.preferences and not experiments.left_out:
        advice = growing if experiments.growing else f"begin with `{HOW_TO_BEGIN.format(log=experiments.log)}`"
        return f"{experiments.log}: no interleaved list in {experiments.days:,} days; {advice}"
    rows = [HEADS, *(_row(found) for found in experiments.preferences)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(HEADS))]
    lines = ["  ".join(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += ["", *(f"{found.pair}: {describe_preference(found)}" for found in experiments.preferences)]
    lines += [f"left out: {describe_left_out(left)}" for left in experiments.left_out]
    lines += [growing] if experiments.growing else []
    return "\n".join([*lines, "", *NOTES])


NOTES = (
    "A pair is champion:challenger; wins are shoppers won by the challenger. preference: (wins + ties / 2) / shoppers, a half is none,",
    f"with its {INTERVAL:.0%} interval. p: exact sign test over shoppers that are no tie. corrected: always valid p over all daily looks,",
    f"which is what the verdict goes by ({LEVEL:g}).",
)


def _row(found: Preference) -> tuple[str, ...]:
    last = found.last
    return (
        str(found.pair),
        str(len(found.looks)),
        f"{last.requests:,}",
        f"{last.shoppers:,}",
        f"{last.wins:,}",
        f"{last.ties:,}",
        f"{last.losses:,}",
        f"{found.preference:.3f} ({found.low:.3f} to {found.high:.3f})",
        p_text(last.p),
        p_text(found.corrected_p),
        found.verdict,
    )


def describe_left_out(left: LeftOut) -> str:
    return f"{left.count:,} {WHATS[left.what]}: {left.why}, as {left.example}"


def experiments_as_json(experiments: Experiments) -> dict[str, Any]:
    """For `--json`: everything, days as text."""
    return {
        "log": experiments.log,
        "days": experiments.days,
        "pairs": [preference_as_json(found) for found in experiments.preferences],
        "left_out": [asdict(left) for left in experiments.left_out],
    }


def preference_as_json(found: Preference) -> dict[str, Any]:
    looks: Sequence[dict[str, Any]] = [asdict(look) | {"day": str(look.day)} for look in found.looks]
    return asdict(found) | {
        "pair": {"champion": found.pair.champion, "challenger": found.pair.challenger},
        "looks": looks,
        "decided_on": str(found.decided_on) if found.decided_on else None,
        "needed": asdict(found.needed) if found.needed else None,
    }
