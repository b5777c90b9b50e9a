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


_DECISION = TypeAdapter(Decision)


def read_decision(file: Path) -> Decision:
    return _DECISION.validate_python(json.loads(file.read_text(encoding="utf-8")))


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
