"""Rules of the gate that need no other release: checks, floors, the health of the model and its index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from smar_model.checks.outcomes import Check
from smar_model.evaluation.decision import Reason, at_least, at_most, not_judged, unknown
from smar_model.evaluation.evaluation_record import EvaluationRecord, Routing
from smar_model.settings import Gate


def checks_passed(checks: Sequence[Check]) -> Reason:
    critical = [check for check in checks if check.severity == "critical"]
    broken = [f"{c.table}: {c.check}" for c in critical if not c.passed]
    text = f"data checks: {len(broken)} of {len(critical)} critical ones failed"
    return Reason(
        rule="data_checks",
        passed=bool(checks) and not broken,
        observed=len(broken),
        bound="at most",
        threshold=0,
        unit="count",
        text=text + (f" ({', '.join(broken)})" if broken else ""),
    )


def no_drift(drift: Sequence[Check], settings: Gate) -> Reason:
    failed = [c for c in drift if not c.passed]
    refused = [c for c in failed if c.severity == "critical" or settings.drift == "warning"]
    text = f"drift: {len(failed)} of {len(drift)} checks failed, {len(refused)} of them count (gate.drift: {settings.drift})"
    if failed:
        text += ": " + ", ".join(f"{c.check}, is {c.observed}" for c in failed)
    return Reason(
        rule="drift",
        passed=bool(drift) and not refused,
        observed=len(refused) if drift else None,
        bound="at most",
        threshold=0,
        unit="count",
        text=text if drift else "drift was not measured: check-data has no check of it",
    )


def enough_queries(evaluation: EvaluationRecord, settings: Gate) -> Reason:
    queries, least = evaluation.queries, settings.minimum_queries
    text = f"{queries:,} queries judged, at least {least:,} needed (gate.minimum_queries)"
    return at_least("minimum_queries", queries, least, "count", text)


def over_baseline(evaluation: EvaluationRecord, baseline: str, ratio: float) -> Reason:
    rule = f"over_{baseline}"
    own, other = (evaluation.figure(model, "overall", "recall_at_50") for model in ("challenger", baseline))
    if own is None or other is None:
        return unknown(rule, "share", f"Recall@50 of this model or of {baseline} was not measured")
    floor = ratio * other
    text = f"Recall@50 {own:.1%}, at least {floor:.1%} needed: {ratio:g} × {baseline}'s {other:.1%} (gate.{rule})"
    return at_least(rule, own, floor, "share", text)


def calibration(evaluation: EvaluationRecord, settings: Gate) -> Reason:
    rule, most = "calibration", settings.maximum_calibration_error
    if evaluation.routing is None:
        text = "P(q): this model does not route"
        return not_judged(rule, "share", text)
    routed = evaluation.routing.populations.get("all") if isinstance(evaluation.routing, Routing) else None
    if routed is None or routed.calibration_error is None:
        return unknown(rule, "share", "the calibration error of P(q) was not measured")
    error = routed.calibration_error
    text = f"P(q) is off by {error:.1%} on average, at most {most:.1%} allowed (gate.maximum_calibration_error)"
    return at_most(rule, error, most, "share", text)


def embedding_health(evaluation: EvaluationRecord, settings: Gate) -> Iterator[Reason]:
    kinds = evaluation.embeddings
    ranks = {kind: health["effective_rank"] for kind, health in kinds.items() if "effective_rank" in health}
    if not ranks or len(ranks) < len(kinds):
        yield unknown("effective_rank", "number", "the effective rank of the embeddings was not measured")
    else:
        kind = min(ranks, key=lambda kind: ranks[kind])
        least = settings.minimum_effective_rank
        text = f"embeddings use {ranks[kind]:.1f} directions ({kind}), at least {least:g} needed (gate.minimum_effective_rank)"
        yield at_least("effective_rank", ranks[kind], least, "number", text)

    twins, most = kinds.get("multimodal", {}).get("near_duplicates"), settings.maximum_near_duplicates
    if twins is None:
        yield unknown("near_duplicates", "share", "near duplicates among the embeddings were not measured")
    else:
        text = f"{twins:.1%} of the items have a twin in the space, at most {most:.1%} allowed (gate.maximum_near_duplicates)"
        yield at_most("near_duplicates", twins, most, "share", text)

    hubs, most = evaluation.hubness.get("challenger"), settings.maximum_hub_skewness
    if hubs is None or not hubs.expected:
        yield unknown("hubness", "number", "hubness was not measured")
    else:
        # If every item were found by chance alone, the counts would be Poisson's, whose skewness is 1 / √mean.
        beyond = hubs.skewness - hubs.expected**-0.5
        text = (
            f"hubs: skewness of how often items are found {beyond:.2f} beyond chance, at most {most:g} allowed "
            "(gate.maximum_hub_skewness)"
        )
        yield at_most("hubness", beyond, most, "number", text)


def index_recall(observed: float | None, least: float) -> Reason:
    if observed is None:
        return unknown("index_recall", "share", "the recall of the index was not measured")
    text = f"the index finds {observed:.1%} of the exact nearest, at least {least:.1%} needed (index.minimum_recall)"
    return at_least("index_recall", observed, least, "share", text)


def latency(observed: float | None, settings: Gate) -> Reason:
    most, setting = settings.maximum_search_p99_ms, "gate.maximum_search_p99_ms"
    if most is None:
        text = "search latency: " + ("not measured" if observed is None else f"99 % within {observed:.3g} ms")
        return not_judged("latency", "milliseconds", f"{text}, no limit is set ({setting})", observed=observed)
    if observed is None:
        return unknown("latency", "milliseconds", f"search latency was not measured ({setting})")
    text = f"search latency: 99 % of single queries within {observed:.3g} ms, at most {most:g} allowed ({setting})"
    return at_most("latency", observed, most, "milliseconds", text)


def interleaving(settings: Gate, *, has_champion: bool) -> Iterator[Reason]:
    """That shoppers are asked as well: a run's model has never been served, so `promote` waits for what they prefer, and not the gate."""
    asked = settings.interleaving
    if asked:
        text = (
            f"interleaving: promotion waits until shoppers are shown to prefer it, of {asked.users:,} at least, within {asked.days} days "
            "(gate.interleaving)"
        )
        if not has_champion:
            text = "interleaving: no other champion to be interleaved with"
        yield not_judged("interleaving", "count", text)
