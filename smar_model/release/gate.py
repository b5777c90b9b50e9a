"""Stage gate: checks and figures against floors, the champion and the anchors; one decision with its reasons (`docs/gate.md`).

Output: `decision.json`, a `Decision`. Every rule is applied, whatever the others say, and all must pass; a figure that a rule needs and
that is not there breaks it. Unless it says otherwise a rule is about Recall@50 on the held-out days, the same queries for every model.

Three questions are asked of paired differences (`rival_rules.py`), and each is answered with clusters of requests as the units:

    not worse     than the champion and the anchors, over all queries: the one-sided 95 % bound of the difference lies above the margin.
                  What cannot be shown is refused.
    no loss       against the champion in a guarded segment: refused where a loss beyond the margin is shown, Holm's rule over all guarded
                  segments at FAMILY_LEVEL, as most are too small to show that there is none.
    better        than the champion: a two-sided permutation p of at most BETTER_LEVEL, Holm's rule over all queries and those segments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime

from smar_model.checks.outcomes import Check, read_checks
from smar_model.evaluation.decision import Decision
from smar_model.evaluation.evaluation_record import EvaluationRecord, Rival, read_evaluation, rivals_of
from smar_model.evaluation.segments import segment_words
from smar_model.lake.stage import StageContext
from smar_model.release import floor_rules, rival_rules
from smar_model.settings import Gate

HEALTH = frozenset({"drift", "calibration", "effective_rank", "near_duplicates", "hubness", "latency"})
"""Rules that do not refuse a first release."""


def run(context: StageContext) -> dict[str, float | str]:
    """Decide; a rejection is an outcome, not a failure."""
    decision = decide(
        evaluation=read_evaluation(context.input("evaluate").file("evaluation.json")),
        checks=read_checks(context.input("check-data").file("checks.json")),
        index=context.input("index").metrics,
        minimum_index_recall=context.settings.index.minimum_recall,
        settings=context.settings.gate,
        cutoff=context.run.cutoff,
        rivals=rivals_of(context.run),
    )
    context.report(decision.verdict)
    content = json.dumps(asdict(decision), indent=1, ensure_ascii=False)
    context.output("decision.json").write_text(content, encoding="utf-8")
    return {
        "decision": "promote" if decision.promote else "keep",
        "verdict": decision.verdict,
        "better": ", ".join(decision.better) or "nowhere",
        "rules_broken": sum(not reason.passed for reason in decision.reasons),
    }


def decide(
    *,
    evaluation: EvaluationRecord,
    checks: Sequence[Check],
    index: Mapping[str, float],
    minimum_index_recall: float,
    settings: Gate,
    cutoff: datetime,
    rivals: dict[str, Rival],
) -> Decision:
    """Apply every rule.

    Args:
        index: metrics of the stage `index`.
        cutoff: first moment after this run's training.
        rivals: by name; without any there is nothing to lose, and floors alone decide: what is wrong otherwise is told.
    """
    champion = rivals.get("champion")
    better = rival_rules.shown_better(evaluation, settings) if champion else []
    reasons = [
        floor_rules.checks_passed([check for check in checks if check.kind == "data"]),
        floor_rules.no_drift([check for check in checks if check.kind == "drift"], settings),
        floor_rules.enough_queries(evaluation, settings),
        floor_rules.over_baseline(evaluation, "popularity", settings.over_popularity),
        floor_rules.over_baseline(evaluation, "bm25", settings.over_bm25),
        *(rival_rules.not_worse(evaluation, name, rivals.get(name), settings) for name in rival_rules.RIVALS),
        rival_rules.not_worse_than_incumbent(evaluation, settings),
        *rival_rules.no_loss_in_segments(evaluation, settings, champion),
        *rival_rules.better_where_claimed(settings, champion, better),
        rival_rules.precision_outside_fashion(evaluation, settings, champion),
        floor_rules.calibration(evaluation, settings),
        *floor_rules.embedding_health(evaluation, settings),
        floor_rules.index_recall(index.get("recall_at_100"), minimum_index_recall),
        floor_rules.latency(index.get("search_p99_ms"), settings),
        rival_rules.no_backfill(cutoff, champion),
        *floor_rules.interleaving(settings, has_champion=champion is not None),
    ]
    if not rivals:
        told = ": told, not refused, as floors alone decide on a first release"
        reasons = [
            replace(reason, passed=True, judged=False, text=reason.text + told)
            if reason.rule in HEALTH and not reason.passed
            else reason
            for reason in reasons
        ]
    promote = all(reason.passed for reason in reasons)
    where = ", ".join(segment_words(name) for name in better)
    verdict = (
        "promote: every rule passed" + (f"; better than the champion: {where}" if better else "")
        if promote
        else "keep the champion: " + "; ".join(reason.text for reason in reasons if not reason.passed)
    )
    return Decision(promote=promote, verdict=verdict, better=better, compared_with=rivals, reasons=reasons)
