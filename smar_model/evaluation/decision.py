"""The gate's decision with its reasons, as `decision.json` holds it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from smar_model.evaluation.evaluation_record import Rival

Unit = Literal["count", "share", "points", "p", "milliseconds", "number", "date"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    rule: str
    passed: bool
    observed: int | float | str | None
    bound: Literal["at least", "at most"] = "at least"
    threshold: int | float | str | None
    unit: Unit
    """Of both: shares and points (differences of shares) are 0 to 1."""
    text: str
    """For people: what was compared, with both figures, and the setting."""
    judged: bool = True
    """Whether the rule compared anything: without a champion, or a margin, there may be nothing to judge, and it passes."""

    @property
    def mark(self) -> str:
        """Of a list of rules."""
        return rule_mark(passed=self.passed, judged=self.judged)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    promote: bool
    verdict: str
    """One line: why."""
    better: list[str]
    """Where the challenger is shown to be better than the champion: `overall`, guarded segments and those of `gate.better_in`."""
    compared_with: dict[str, Rival]
    """Champion and anchors, by name."""
    reasons: list[Reason]

    @property
    def count(self) -> str:
        """In words: how many rules passed, of those that judged anything."""
        judged = [reason for reason in self.reasons if reason.judged]
        text = f"{sum(reason.passed for reason in judged)} of {len(judged)} rules passed"
        not_judged = len(self.reasons) - len(judged)
        return text + (f"; {not_judged} not judged" if not_judged else "")


def rule_mark(*, passed: bool, judged: bool) -> str:
    return "✗" if not passed else "✓" if judged else "–"


_DECISION = TypeAdapter(Decision)


def read_decision(file: Path) -> Decision:
    return _DECISION.validate_python(json.loads(file.read_text(encoding="utf-8")))


def not_judged(rule: str, unit: Unit, text: str, *, observed: float | None = None) -> Reason:
    """A rule that has nothing to compare with, or is told alone: it passes, and is not counted."""
    return Reason(rule=rule, passed=True, observed=observed, threshold=None, unit=unit, text=text, judged=False)


def at_least(rule: str, observed: float, threshold: float, unit: Unit, text: str) -> Reason:
    return Reason(rule=rule, passed=observed >= threshold, observed=observed, threshold=threshold, unit=unit, text=text)


def at_most(rule: str, observed: float, threshold: float, unit: Unit, text: str) -> Reason:
    passed = observed <= threshold
    return Reason(
        rule=rule, passed=passed, observed=observed, bound="at most", threshold=threshold, unit=unit, text=text
    )


def unknown(rule: str, unit: Unit, text: str) -> Reason:
    """A figure that the rule needs is not there, which breaks it."""
    return Reason(rule=rule, passed=False, observed=None, threshold=None, unit=unit, text=text)
