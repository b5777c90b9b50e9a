"""The outcome of each check of a run, as `checks.json` holds it."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

Kind = Literal["data", "drift"]
Severity = Literal["critical", "warning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The outcome of one check."""

    table: str
    check: str
    severity: Severity
    passed: bool
    observed: str
    detail: str = ""
    """Empty where the check passed."""
    kind: Kind = "data"
    """`drift`: of true queries against synthetic ones, or of the last day's clicks against those before."""


def read_checks(file: Path) -> list[Check]:
    """What check-data found; older versions did not write the kind, which their names tell."""
    known = {field.name for field in fields(Check)}
    return [
        Check(**{"kind": _older_kind(row)} | {name: value for name, value in row.items() if name in known})
        for row in json.loads(file.read_text(encoding="utf-8"))
    ]


def _older_kind(row: dict[str, str]) -> Kind:
    drift = row["table"].startswith("measure-drift/") or row["check"].startswith("shift of ")
    return "drift" if drift else "data"
