"""Stage gate: checks and figures against floors, the champion and the anchors; one decision with its reasons (`docs/gate.md`).

Output: `decision.json`, {promote, verdict, better, compared_with, reasons: [{rule, passed, observed, bound, threshold, unit, text}]}.
Every rule is applied, whatever the others say, and all must pass; a figure that a rule needs and that is not there breaks it. Unless it says
otherwise a rule is about Recall@50 on the held-out days, the same queries for every model.

Three questions are asked of paired differences, and each is answered with clusters of requests as the units:

    not worse     than the champion and the anchors, over all queries: the one-sided 95 % bound of the difference lies above the margin.
                  What cannot be shown is refused.
    no loss       against the champion in a guarded segment: refused where a loss beyond the margin is shown, Holm's rule over all guarded
                  segments at FAMILY_LEVEL, as most are too small to show that there is none.
    better        than the champion: a two-sided permutation p of at most BETTER_LEVEL, Holm's rule over all queries and those segments.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Literal

import numpy as np

from smar_model.evaluation.segments import DEPARTMENT, FEWEST_CLUSTERS, segment_words
from smar_model.evaluation.significance import LEVEL, below, holm, lower_bound
from smar_model.lake.stage import StageContext
from smar_model.settings import Gate

METRIC, PRECISION, OVERALL, OUTSIDE = "recall_at_50", "precision_at_50", "overall", "not_fashion"
FAMILY_LEVEL = 0.10
"""Of wrongly refusing a challenger for any guarded segment."""
BETTER_LEVEL = 0.01
"""Of wrongly calling a challenger better (or worse) anywhere."""
RIVALS = {
    "champion": (
        "champion_margin",
        "the champion, version {version}",
        "no other champion to compare with: floors alone decide",
    ),
    "best_release": (
        "anchor_margin",
        "the best release of the last 28 days, version {version}",
        "the best release of the last 28 days: none but the champion to compare with",
    ),
    "cold_start": (
        "anchor_margin",
        "the cold start of run {run}",
        "the newest cold start: none of the last 28 days but the champion to compare with",
    ),
}
"""Name in `evaluation.json` → setting of its margin, what it is, and what is said where there is none."""
HEALTH = frozenset({"drift", "calibration", "effective_rank", "near_duplicates", "hubness", "latency"})
"""Rules that do not refuse a first release."""
Unit = Literal["count", "share", "points", "p", "milliseconds", "number", "date"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    rule: str
    passed: bool
    observed: float | str | None
    bound: Literal["at least", "at most"] = "at least"
    threshold: float | str | None
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
    compared_with: dict[str, dict[str, Any]]
    """Champion and anchors, by name: version, run, cutoff."""
    reasons: list[Reason]


def run(context: StageContext) -> dict[str, Any]:
    """Decide; a rejection is an outcome, not a failure."""
    decision = decide(
        evaluation=json.loads(context.input("evaluate").file("evaluation.json").read_text(encoding="utf-8")),
        checks=json.loads(context.input("check-data").file("checks.json").read_text(encoding="utf-8")),
        index=context.input("index").metrics,
        minimum_index_recall=context.settings.index.minimum_recall,
        settings=context.settings.gate,
        cutoff=context.run.cutoff,
        rivals={name: asdict(rival) for name, rival in context.run.rivals().items()},
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
    evaluation: dict[str, Any],
    checks: list[dict[str, Any]],
    index: dict[str, Any],
    minimum_index_recall: float,
    settings: Gate,
    cutoff: datetime,
    rivals: dict[str, dict[str, Any]],
) -> Decision:
    """Apply every rule.

    Args:
        evaluation: content of `evaluation.json`.
        checks: content of `checks.json`: {table, check, severity, passed, …} each.
        index: metrics of the stage `index`.
        cutoff: first moment after this run's training.
        rivals: as `Run.rivals`; without any there is nothing to lose, and floors alone decide: what is wrong otherwise is told.
    """
    champion = rivals.get("champion")
    better = _shown_better(evaluation, settings) if champion else []
    drift = [check for check in checks if _is_drift(check)]
    reasons = [
        _checks_passed([check for check in checks if not _is_drift(check)]),
        _no_drift(drift, settings),
        _enough_queries(evaluation, settings),
        _over_baseline(evaluation, "popularity", settings.over_popularity),
        _over_baseline(evaluation, "bm25", settings.over_bm25),
        *(_not_worse(evaluation, name, rivals.get(name), settings) for name in RIVALS),
        *_no_loss_in_segments(evaluation, settings, champion),
        *_better_where_claimed(settings, champion, better),
        _precision_outside_fashion(evaluation, settings, champion),
        _calibration(evaluation, settings),
        *_embedding_health(evaluation, settings),
        _index_recall(index.get("recall_at_100"), minimum_index_recall),
        _latency(index.get("search_p99_ms"), settings),
        _no_backfill(cutoff, champion),
    ]
    if not rivals:
        reasons = [_told(reason) if reason.rule in HEALTH and not reason.passed else reason for reason in reasons]
    promote = all(reason.passed for reason in reasons)
    where = ", ".join(segment_words(name) for name in better)
    verdict = (
        "promote: every rule passed" + (f"; better than the champion: {where}" if better else "")
        if promote
        else "keep the champion: " + "; ".join(reason.text for reason in reasons if not reason.passed)
    )
    compared_with = {name: {n: rival.get(n) for n in ("version", "run", "cutoff")} for name, rival in rivals.items()}
    return Decision(promote=promote, verdict=verdict, better=better, compared_with=compared_with, reasons=reasons)


def _told(reason: Reason) -> Reason:
    return replace(
        reason, passed=True, text=f"{reason.text}: told, not refused, as floors alone decide on a first release"
    )


def _checks_passed(checks: list[dict[str, Any]]) -> Reason:
    broken = [f"{c['table']}: {c['check']}" for c in checks if c["severity"] == "critical" and not c["passed"]]
    critical = sum(check["severity"] == "critical" for check in checks)
    text = f"data checks: {len(broken)} of {critical} critical ones failed" + (
        f" ({', '.join(broken)})" if broken else ""
    )
    return Reason(
        rule="data_checks",
        passed=bool(checks) and not broken,
        observed=len(broken),
        bound="at most",
        threshold=0,
        unit="count",
        text=text,
    )


def _is_drift(check: dict[str, Any]) -> bool:
    """Whether a check is of true queries against synthetic ones, or of the last day's clicks against those before."""
    return check["table"].startswith("measure-drift/") or check["check"].startswith("shift of ")


def _no_drift(drift: list[dict[str, Any]], settings: Gate) -> Reason:
    failed = [c for c in drift if not c["passed"]]
    refused = [c for c in failed if c["severity"] == "critical" or settings.drift == "warning"]
    text = f"drift: {len(failed)} of {len(drift)} checks failed, {len(refused)} of them count (gate.drift: {settings.drift})"
    if failed:
        text += ": " + ", ".join(f"{c['check']}, is {c.get('observed')}" for c in failed)
    return Reason(
        rule="drift",
        passed=bool(drift) and not refused,
        observed=len(refused) if drift else None,
        bound="at most",
        threshold=0,
        unit="count",
        text=text if drift else "drift was not measured: check-data has no check of it",
    )


def _enough_queries(evaluation: dict[str, Any], settings: Gate) -> Reason:
    queries, least = evaluation["queries"], settings.minimum_queries
    text = f"{queries:,} queries judged, at least {least:,} needed (gate.minimum_queries)"
    return _at_least("minimum_queries", queries, least, "count", text)


def _over_baseline(evaluation: dict[str, Any], baseline: str, ratio: float) -> Reason:
    rule = f"over_{baseline}"
    own, other = (_mean(evaluation, model, OVERALL, METRIC) for model in ("challenger", baseline))
    if own is None or other is None:
        return _unknown(rule, "share", f"Recall@50 of this model or of {baseline} was not measured")
    floor = ratio * other
    text = f"Recall@50 {own:.1%}, at least {floor:.1%} needed: {ratio:g} × {baseline}'s {other:.1%} (gate.{rule})"
    return _at_least(rule, own, floor, "share", text)


def _not_worse(evaluation: dict[str, Any], name: str, rival: dict[str, Any] | None, settings: Gate) -> Reason:
    """Non-inferiority: what the data cannot show to be within the margin is refused."""
    rule = f"not_worse_than_{name}"
    setting, words, none = RIVALS[name]
    least = -getattr(settings, setting)
    if rival is None:
        return Reason(rule=rule, passed=True, observed=None, threshold=least, unit="points", text=none)
    words = words.format(**rival)
    found, clusters = _difference(evaluation, name, OVERALL, METRIC), evaluation.get("clusters") or 0
    if found is None or clusters < 2:
        return _unknown(rule, "points", f"{words}, was not measured on the same queries")
    bound = lower_bound(found["mean"], found["standard_error"], clusters)
    text = (
        f"Recall@50 minus that of {words}: {_points(found['mean'])} points, with {LEVEL:.0%} confidence above {_points(bound)}; that "
        f"must be above {_points(least)} (gate.{setting})"
    )
    return _at_least(rule, bound, least, "points", text)


def _no_loss_in_segments(
    evaluation: dict[str, Any], settings: Gate, champion: dict[str, Any] | None
) -> Iterator[Reason]:
    """A loss beyond a segment's margin must not be shown, all guarded segments being one family."""
    shown = _loss_p(evaluation, settings) if champion else {}
    for segment, margin in settings.guarded_segments.items():
        rule, words = f"no_loss_in_{segment}", segment_words(segment)
        queries, clusters = (_count(evaluation, part, segment) for part in ("segments", "segment_clusters"))
        found = _difference(evaluation, "champion", segment, METRIC)
        text, passed = "", True
        if champion is None:
            text = f"{words}: no other champion to lose against"
        elif queries is not None and clusters is not None and clusters < FEWEST_CLUSTERS:
            text = (
                f"{words}: {queries:,} queries for {clusters} items or texts, under {FEWEST_CLUSTERS}: too few to tell"
            )
        elif queries is None or clusters is None or found is None:
            passed, text = False, f"{words}: not measured against the champion (gate.guarded_segments: {segment})"
        if text:
            yield Reason(rule=rule, passed=passed, observed=None, threshold=FAMILY_LEVEL, unit="p", text=text)
            continue
        assert found is not None
        p = shown[segment]
        text = (
            f"{words}: Recall@50 {_points(found['mean'])} points against the champion's (95 %: {_points(found['low'])} to "
            f"{_points(found['high'])}, {queries:,} queries), a loss beyond {100 * margin:.2f} points is "
            f"{'not ' if p >= FAMILY_LEVEL else ''}shown: p {'< 0.001' if p < 0.001 else f'{p:.3f}'}, refused below {FAMILY_LEVEL:g} (gate.guarded_segments)"
        )
        yield _at_least(rule, p, FAMILY_LEVEL, "p", text)


def _loss_p(evaluation: dict[str, Any], settings: Gate) -> dict[str, float]:
    """Guarded segment → p of "no loss beyond the margin", adjusted; of those large enough to tell."""
    p = {
        segment: below(-margin, found["mean"], found["standard_error"], clusters)
        for segment, margin in settings.guarded_segments.items()
        if (found := _difference(evaluation, "champion", segment, METRIC))
        and (clusters := _count(evaluation, "segment_clusters", segment) or 0) >= FEWEST_CLUSTERS
    }
    return dict(zip(p, holm(np.array(list(p.values()))).tolist(), strict=True))


def _shown_better(evaluation: dict[str, Any], settings: Gate) -> list[str]:
    found = {
        segment: difference
        for segment in dict.fromkeys((OVERALL, *settings.guarded_segments, *settings.better_in))
        if (difference := _difference(evaluation, "champion", segment, METRIC))
        and difference.get("p") is not None
        and (segment == OVERALL or (_count(evaluation, "segment_clusters", segment) or 0) >= FEWEST_CLUSTERS)
    }
    adjusted = holm(np.array([difference["p"] for difference in found.values()]))
    return [
        segment
        for (segment, difference), p in zip(found.items(), adjusted, strict=True)
        if difference["mean"] > 0 and p <= BETTER_LEVEL
    ]


def _better_where_claimed(settings: Gate, champion: dict[str, Any] | None, better: list[str]) -> Iterator[Reason]:
    for segment in settings.better_in:
        if champion is None:
            passed, text = True, "no other champion to be better than"
        else:
            passed = segment in better
            text = f"shown to be {'' if passed else 'no '}better than the champion"
        yield Reason(
            rule=f"better_in_{segment}",
            passed=passed,
            observed=int(passed) if champion else None,
            threshold=1,
            unit="count",
            text=f"{segment_words(segment)}: {text} (gate.better_in)",
        )


def _precision_outside_fashion(evaluation: dict[str, Any], settings: Gate, champion: dict[str, Any] | None) -> Reason:
    rule = "precision_outside_fashion"
    queries, clusters = (_count(evaluation, part, OUTSIDE) for part in ("segments", "segment_clusters"))
    found, theirs = (
        _difference(evaluation, "champion", OUTSIDE, PRECISION),
        _mean(evaluation, "champion", OUTSIDE, PRECISION),
    )
    text = ""
    if champion is None:
        text = "relevance precision outside fashion: no other champion to compare with"
    elif queries is not None and clusters is not None and clusters < FEWEST_CLUSTERS:
        text = (
            f"relevance precision outside fashion: {queries:,} queries for {clusters} items or texts, too few to tell"
        )
    if text:
        return Reason(rule=rule, passed=True, observed=None, threshold=None, unit="points", text=text)
    if found is None or theirs is None or clusters is None:
        return _unknown(rule, "points", "P@50 outside fashion was not measured against the champion")
    least = -settings.precision_margin * theirs
    bound = lower_bound(found["mean"], found["standard_error"], clusters)
    text = (
        f"P@50 outside fashion minus the champion's {theirs:.1%}: {_points(found['mean'])} points, with {LEVEL:.0%} confidence above "
        f"{_points(bound)}; that must be above {_points(least)}, {settings.precision_margin:.0%} of it (gate.precision_margin)"
    )
    return _at_least(rule, bound, least, "points", text)


def _calibration(evaluation: dict[str, Any], settings: Gate) -> Reason:
    rule, most = "calibration", settings.maximum_calibration_error
    if "routing" in evaluation and evaluation["routing"] is None:
        text = "P(q): this model does not route"
        return Reason(rule=rule, passed=True, observed=None, bound="at most", threshold=most, unit="share", text=text)
    error = _at(evaluation, "routing", "populations", "all", "calibration_error")
    if error is None:
        return _unknown(rule, "share", "the calibration error of P(q) was not measured")
    text = f"P(q) is off by {error:.1%} on average, at most {most:.1%} allowed (gate.maximum_calibration_error)"
    return _at_most(rule, error, most, "share", text)


def _embedding_health(evaluation: dict[str, Any], settings: Gate) -> Iterator[Reason]:
    kinds = evaluation.get("embeddings") or {}
    ranks = {kind: health.get("effective_rank") for kind, health in kinds.items()}
    if not ranks or None in ranks.values():
        yield _unknown("effective_rank", "number", "the effective rank of the embeddings was not measured")
    else:
        kind = min(ranks, key=lambda kind: ranks[kind])
        least = settings.minimum_effective_rank
        text = f"embeddings use {ranks[kind]:.1f} directions ({kind}), at least {least:g} needed (gate.minimum_effective_rank)"
        yield _at_least("effective_rank", ranks[kind], least, "number", text)

    twins, most = _at(kinds, "multimodal", "near_duplicates"), settings.maximum_near_duplicates
    if twins is None:
        yield _unknown("near_duplicates", "share", "near duplicates among the embeddings were not measured")
    else:
        text = f"{twins:.1%} of the items have a twin in the space, at most {most:.1%} allowed (gate.maximum_near_duplicates)"
        yield _at_most("near_duplicates", twins, most, "share", text)

    skewness, expected = (_at(evaluation, "hubness", "challenger", part) for part in ("skewness", "expected"))
    if skewness is None or not expected:
        yield _unknown("hubness", "number", "hubness was not measured")
    else:
        # If every item were found by chance alone, the counts would be Poisson's, whose skewness is 1 / √mean.
        beyond, most = skewness - expected**-0.5, settings.maximum_hub_skewness
        text = (
            f"hubs: skewness of how often items are found {beyond:.2f} beyond chance, at most {most:g} allowed "
            "(gate.maximum_hub_skewness)"
        )
        yield _at_most("hubness", beyond, most, "number", text)


def _index_recall(observed: float | None, least: float) -> Reason:
    if observed is None:
        return _unknown("index_recall", "share", "the recall of the index was not measured")
    text = f"the index finds {observed:.1%} of the exact nearest, at least {least:.1%} needed (index.minimum_recall)"
    return _at_least("index_recall", observed, least, "share", text)


def _latency(observed: float | None, settings: Gate) -> Reason:
    most, setting = settings.maximum_search_p99_ms, "gate.maximum_search_p99_ms"
    if most is None:
        text = "search latency: " + ("not measured" if observed is None else f"99 % within {observed:.3g} ms")
        return Reason(
            rule="latency",
            passed=True,
            observed=observed,
            bound="at most",
            threshold=None,
            unit="milliseconds",
            text=f"{text}, no limit is set ({setting})",
        )
    if observed is None:
        return _unknown("latency", "milliseconds", f"search latency was not measured ({setting})")
    text = f"search latency: 99 % of single queries within {observed:.3g} ms, at most {most:g} allowed ({setting})"
    return _at_most("latency", observed, most, "milliseconds", text)


def _no_backfill(cutoff: datetime, champion: dict[str, Any] | None) -> Reason:
    if champion is None:
        passed, text = True, "no other champion whose training could have been later"
    else:
        passed = datetime.fromisoformat(champion["cutoff"]) <= cutoff
        text = f"trained up to {cutoff:%Y-%m-%d}, the champion up to {champion['cutoff'][:10]}: " + (
            "not earlier" if passed else "a run over older days does not replace a model that knows later ones"
        )
    return Reason(
        rule="no_backfill",
        passed=passed,
        observed=f"{cutoff:%Y-%m-%d}",
        threshold=champion["cutoff"][:10] if champion else None,
        unit="date",
        text=text,
    )


def _at_least(rule: str, observed: float, threshold: float, unit: Unit, text: str) -> Reason:
    return Reason(rule=rule, passed=observed >= threshold, observed=observed, threshold=threshold, unit=unit, text=text)


def _at_most(rule: str, observed: float, threshold: float, unit: Unit, text: str) -> Reason:
    passed = observed <= threshold
    return Reason(
        rule=rule, passed=passed, observed=observed, bound="at most", threshold=threshold, unit=unit, text=text
    )


def _unknown(rule: str, unit: Unit, text: str) -> Reason:
    return Reason(rule=rule, passed=False, observed=None, threshold=None, unit=unit, text=text)


def _difference(evaluation: dict[str, Any], rival: str, segment: str, metric: str) -> dict[str, Any] | None:
    """Challenger minus a rival, where it has a mean and a spread."""
    found = _at(evaluation, "differences", rival, segment, metric)
    return found if found and found.get("mean") is not None and found.get("standard_error") is not None else None


def _mean(evaluation: dict[str, Any], model: str, segment: str, metric: str) -> float | None:
    return _at(evaluation, "models", model, segment, metric, "mean")


def _count(evaluation: dict[str, Any], part: str, segment: str) -> int | None:
    """Queries or clusters of a segment; a department without any has no entry."""
    return _at(evaluation, part, segment) if not segment.startswith(DEPARTMENT) else _at(evaluation, part, segment) or 0


def _at(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"
