"""Stage gate: checks and figures against floors and the champion, one decision with its reasons.

Output: `decision.json`, {promote, verdict, reasons: [{rule, passed, observed, threshold, text}]}. All rules are about
Recall@50 over all queries of the held-out days, the same queries for every model, and must all pass.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from smar_model.lake.stage import StageContext
from smar_model.settings import Gate

METRIC, SEGMENT = "recall_at_50", "overall"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    rule: str
    passed: bool
    observed: float | str | None
    threshold: float | str | None
    text: str
    """For people: what was compared, with both figures."""


def run(context: StageContext) -> dict[str, Any]:
    """Decide; a rejection is an outcome, not a failure."""
    evaluation = json.loads(context.input("evaluate").file("evaluation.json").read_text(encoding="utf-8"))
    checks = json.loads(context.input("check-data").file("checks.json").read_text(encoding="utf-8"))
    rival = context.run.rival()
    reasons = decide(
        evaluation=evaluation,
        checks=checks,
        index_recall=context.input("index").metrics["recall_at_100"],
        minimum_index_recall=context.settings.index.minimum_recall,
        settings=context.settings.gate,
        cutoff=context.run.cutoff,
        champion=rival,
    )
    promote = all(reason.passed for reason in reasons)
    broken = "; ".join(reason.text for reason in reasons if not reason.passed)
    verdict = "promote: every rule passed" if promote else f"keep the champion: {broken}"
    context.report(verdict)
    decision = {
        "promote": promote,
        "verdict": verdict,
        "compared_with": rival["version"] if rival else None,
        "reasons": [asdict(reason) for reason in reasons],
    }
    context.output("decision.json").write_text(json.dumps(decision, indent=1, ensure_ascii=False), encoding="utf-8")
    return {
        "decision": "promote" if promote else "keep",
        "verdict": verdict,
        "rules_broken": sum(not r.passed for r in reasons),
    }


def decide(
    *,
    evaluation: dict[str, Any],
    checks: list[dict[str, Any]],
    index_recall: float,
    minimum_index_recall: float,
    settings: Gate,
    cutoff: datetime,
    champion: dict[str, Any] | None,
) -> list[Reason]:
    """Apply every rule, whatever the others say.

    Args:
        evaluation: content of `evaluation.json`.
        checks: content of `checks.json`: {table, check, severity, passed, …} each.
        cutoff: first moment after this run's training.
        champion: the release to compare with, or None: then floors alone decide.
    """
    return [
        _checks_passed(checks),
        _enough_queries(evaluation, settings),
        _index_recall(index_recall, minimum_index_recall),
        _over_baseline(evaluation, "popularity", settings.over_popularity),
        _over_baseline(evaluation, "bm25", settings.over_bm25),
        _not_worse_than_champion(evaluation, settings.champion_margin, champion),
        _no_backfill(cutoff, champion),
    ]


def _checks_passed(checks: list[dict[str, Any]]) -> Reason:
    broken = [f"{c['table']}: {c['check']}" for c in checks if c["severity"] == "critical" and not c["passed"]]
    passed = bool(checks) and not broken
    text = f"data checks: {len(broken)} of {len(checks)} critical ones failed" + (
        f" ({', '.join(broken)})" if broken else ""
    )
    return Reason(rule="data_checks", passed=passed, observed=len(broken), threshold=0, text=text)


def _enough_queries(evaluation: dict[str, Any], settings: Gate) -> Reason:
    queries = evaluation["queries"]
    return Reason(
        rule="minimum_queries",
        passed=queries >= settings.minimum_queries,
        observed=queries,
        threshold=settings.minimum_queries,
        text=f"{queries:,} queries judged, at least {settings.minimum_queries:,} needed (gate.minimum_queries)",
    )


def _index_recall(observed: float, threshold: float) -> Reason:
    return Reason(
        rule="index_recall",
        passed=observed >= threshold,
        observed=observed,
        threshold=threshold,
        text=f"the index finds {observed:.1%} of the exact nearest, at least {threshold:.1%} needed (index.minimum_recall)",
    )


def _over_baseline(evaluation: dict[str, Any], baseline: str, ratio: float) -> Reason:
    own, other = _recall(evaluation, "challenger"), _recall(evaluation, baseline)
    floor = None if other is None else ratio * other
    if own is None or floor is None:
        text = f"Recall@50 of this model or of {baseline} was not measured"
        return Reason(rule=f"over_{baseline}", passed=False, observed=own, threshold=floor, text=text)
    text = (
        f"Recall@50 {own:.1%}, at least {floor:.1%} needed: {ratio:g} × {baseline}'s {other:.1%} (gate.over_{baseline})"
    )
    return Reason(rule=f"over_{baseline}", passed=own >= floor, observed=own, threshold=floor, text=text)


def _recall(evaluation: dict[str, Any], model: str) -> float | None:
    figures = evaluation["models"].get(model)
    return figures[SEGMENT][METRIC]["mean"] if figures else None


def _not_worse_than_champion(evaluation: dict[str, Any], margin: float, champion: dict[str, Any] | None) -> Reason:
    rule, threshold = "not_worse_than_champion", -margin
    if champion is None:
        text = "no other champion to compare with: floors alone decide"
        return Reason(rule=rule, passed=True, observed=None, threshold=threshold, text=text)
    difference = evaluation["differences"].get("champion", {}).get(SEGMENT, {}).get(METRIC)
    if difference is None or difference["low"] is None:
        text = f"the champion, version {champion['version']}, was not measured on the same queries"
        return Reason(rule=rule, passed=False, observed=None, threshold=threshold, text=text)
    mean, low, high = (100 * difference[bound] for bound in ("mean", "low", "high"))
    text = (
        f"Recall@50 minus that of the champion, version {champion['version']}: {mean:+.2f} points, 95 % interval "
        f"{low:+.2f} to {high:+.2f}; its lower end may be {100 * threshold:+.2f} (gate.champion_margin)"
    )
    return Reason(
        rule=rule, passed=difference["low"] >= threshold, observed=difference["low"], threshold=threshold, text=text
    )


def _no_backfill(cutoff: datetime, champion: dict[str, Any] | None) -> Reason:
    if champion is None:
        text = "no other champion whose training could have been later"
        return Reason(rule="no_backfill", passed=True, observed=cutoff.isoformat(), threshold=None, text=text)
    passed = datetime.fromisoformat(champion["cutoff"]) <= cutoff
    text = f"trained up to {cutoff:%Y-%m-%d}, the champion up to {champion['cutoff'][:10]}: " + (
        "not earlier" if passed else "a run over older days does not replace a model that knows later ones"
    )
    return Reason(
        rule="no_backfill", passed=passed, observed=cutoff.isoformat(), threshold=champion["cutoff"], text=text
    )
