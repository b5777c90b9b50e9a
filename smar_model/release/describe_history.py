"""The history of releases as people read it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from smar_model.evaluation.decision import rule_mark
from smar_model.release.history import MOVES, Change, read_history

COMPARISONS = ("over_", "not_worse_than_")
"""Rules of the gate that a line of the history tells even where they passed: by how much the release is better."""


def show_history(*, as_json: bool) -> None:
    """Print every change, oldest first, with who and why; refreshes of one version that follow each other are one line."""
    # What was put back where a line was damaged stands at the end.
    entries = sorted(read_history(), key=lambda entry: datetime.fromisoformat(entry["at"]).timestamp())
    if as_json:
        print(json.dumps(entries, indent=1, ensure_ascii=False))
        return
    if not entries:
        print("no release yet; `make retrain` makes the first")
        return
    refreshes = 0
    for entry, after in zip(entries, [*entries[1:], None], strict=True):
        alike = [(e["action"], e["model"], e.get("to")) if e else None for e in (entry, after)]
        refreshes += entry["action"] == "refresh"
        if entry["action"] == "refresh" and alike[0] == alike[1]:
            continue
        print(f"{entry['at']}  {entry['model']}: {_told(entry, refreshes)}")
        refreshes = 0
        if entry["action"] in MOVES:
            reasons = entry.get("evidence", {}).get("reasons", [])
            told = [r for r in reasons if not r["passed"] or r["rule"].startswith(COMPARISONS)]
            for reason in told:
                # Decisions of older versions do not say what was judged.
                mark = rule_mark(passed=reason["passed"], judged=reason.get("judged", True))
                print(f"    {mark} {reason['text']}")
            further = [reason.get("judged", True) for reason in reasons if reason not in told]
            if any(further):
                print(f"    ✓ {sum(further)} further rules (--json)")
            if not all(further):
                print(f"    – {len(further) - sum(further)} further rules, not judged (--json)")


def _told(change: Change, refreshes: int) -> str:
    # What a damaged line or a tag does not tell is shown as such.
    entry: Any = dict.fromkeys(("from", "to", "run", "date", "index", "version", "reason"), "?") | change
    origin = f"run {entry['run']}, data up to {entry['date']}"
    by = f" by {entry['by']}" if entry.get("by") else ""
    if entry["action"] == "refresh":
        times = f" {refreshes} times, the last" if refreshes > 1 else ""
        digests = f"{(entry.get('index_from') or 'none')[:12]} → {entry['index'][:12]}"
        return f"version {entry['to']}: index refreshed{times}{by}: {digests}  ({origin})"
    if entry["action"] == "reject":
        return f"version {entry['version']} rejected{by}, version {entry['to'] or 'none'} stays  ({origin}): {entry['reason']}"
    if entry["action"] == "sign":
        return f"version {entry['to']} signed again{by}  ({origin}): {entry['reason']}"
    # The rules below say why a gate promoted.
    why = f": {entry['reason']}" if entry.get("reason") and by != " by the gate" else ""
    return f"version {entry['from'] or 'none'} → {entry['to']}  ({entry['action']}{by}, {origin}){why}"
