"""Rules of the gate that compare with the champion and the anchors, by paired differences with clusters of requests as the units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

import numpy as np

from smar_model.evaluation.decision import Reason, at_least, not_judged, unknown
from smar_model.evaluation.evaluation_record import Difference, EvaluationRecord, Rival
from smar_model.evaluation.segments import DEPARTMENT, FEWEST_CLUSTERS, segment_words
from smar_model.evaluation.significance import LEVEL, below, holm, lower_bound
from smar_model.settings import Gate

METRIC, PRECISION, OVERALL, OUTSIDE = "recall_at_50", "precision_at_50", "overall", "not_fashion"
FAMILY_LEVEL = 0.10
"""Of wrongly refusing a challenger for any guarded segment."""
BETTER_LEVEL = 0.01
"""Of wrongly calling a challenger better (or worse) anywhere."""
RIVALS = {
    "champion": (
        "champion_margin",
        "the champion, version {rival.version}",
        "no other champion to compare with: floors alone decide",
    ),
    "best_release": (
        "anchor_margin",
        "the best release of the last 28 days, version {rival.version}",
        "the best release of the last 28 days: none but the champion to compare with",
    ),
    "cold_start": (
        "anchor_margin",
        "the cold start of run {rival.run}",
        "the newest cold start: none of the last 28 days but the champion to compare with",
    ),
}
"""Name in `evaluation.json` → setting of its margin, what it is, and what is said where there is none."""


class Compared(NamedTuple):
    """The challenger minus a rival, where it has a mean and a spread."""

    mean: float
    error: float
    difference: Difference


def not_worse(evaluation: EvaluationRecord, name: str, rival: Rival | None, settings: Gate) -> Reason:
    """Non-inferiority: what the data cannot show to be within the margin is refused."""
    rule = f"not_worse_than_{name}"
    setting, words, none = RIVALS[name]
    least = -getattr(settings, setting)
    if rival is None:
        return not_judged(rule, "points", none)
    words = words.format(rival=rival)
    found = _compared(evaluation, name, OVERALL, METRIC)
    if found is None or evaluation.clusters < 2:
        return unknown(rule, "points", f"{words}, was not measured on the same queries")
    bound = lower_bound(found.mean, found.error, evaluation.clusters)
    text = (
        f"Recall@50 minus that of {words}: {_points(found.mean)} points, with {LEVEL:.0%} confidence above {_points(bound)}; that "
        f"must be above {_points(least)} (gate.{setting})"
    )
    return at_least(rule, bound, least, "points", text)


def not_worse_than_incumbent(evaluation: EvaluationRecord, settings: Gate) -> Reason:
    """Likewise than the engine whose lists the log shows, by the order within these lists; told where no margin is set."""
    rule, margin, setting = "not_worse_than_incumbent", settings.incumbent_margin, "gate.incumbent_margin"
    within = evaluation.incumbent.within_list if evaluation.incumbent else None
    found = within.differences.get("challenger") if within else None
    if within is None or found is None or found.mean is None or found.standard_error is None or within.clusters < 2:
        text = f"order within the lists that the log shows: not measured against the incumbent ({setting})"
        if margin is None:
            return not_judged(rule, "points", text)
        return unknown(rule, "points", text)
    bound = lower_bound(found.mean, found.standard_error, within.clusters)
    text = (
        f"order within the {within.requests:,} clicked lists that the log shows, minus the incumbent's: {_points(found.mean)} points, "
        f"with {LEVEL:.0%} confidence above {_points(bound)}"
    )
    if margin is None:
        told = f"{text}; told, not judged, as no margin is set ({setting})"
        return not_judged(rule, "points", told, observed=bound)
    return at_least(rule, bound, -margin, "points", f"{text}; that must be above {_points(-margin)} ({setting})")


def no_loss_in_segments(evaluation: EvaluationRecord, settings: Gate, champion: Rival | None) -> Iterator[Reason]:
    """A loss beyond a segment's margin must not be shown, all guarded segments being one family."""
    shown = _loss_p(evaluation, settings) if champion else {}
    for segment, margin in settings.guarded_segments.items():
        rule, words = f"no_loss_in_{segment}", segment_words(segment)
        queries, clusters = _size(evaluation, segment)
        found = _compared(evaluation, "champion", segment, METRIC)
        if champion is None:
            yield not_judged(rule, "p", f"{words}: no other champion to lose against")
            continue
        if _too_few(queries, clusters):
            text = (
                f"{words}: {queries:,} queries for {clusters} items or texts, under {FEWEST_CLUSTERS}: too few to tell"
            )
            yield not_judged(rule, "p", text)
            continue
        if queries is None or clusters is None or found is None:
            text = f"{words}: not measured against the champion (gate.guarded_segments: {segment})"
            yield replace(unknown(rule, "p", text), threshold=FAMILY_LEVEL)
        else:
            p, between = shown[segment], found.difference
            text = (
                f"{words}: Recall@50 {_points(found.mean)} points against the champion's (95 %: {_points(between.low)} to "
                f"{_points(between.high)}, {queries:,} queries), a loss beyond {100 * margin:.2f} points is "
                f"{'not ' if p >= FAMILY_LEVEL else ''}shown: p {'< 0.001' if p < 0.001 else f'{p:.3f}'}, refused below "
                f"{FAMILY_LEVEL:g} (gate.guarded_segments)"
            )
            yield at_least(rule, p, FAMILY_LEVEL, "p", text)


def _loss_p(evaluation: EvaluationRecord, settings: Gate) -> dict[str, float]:
    """Guarded segment → p of "no loss beyond the margin", adjusted; of those large enough to tell."""
    p = {
        segment: below(-margin, found.mean, found.error, clusters)
        for segment, margin in settings.guarded_segments.items()
        if (found := _compared(evaluation, "champion", segment, METRIC))
        and (clusters := _size(evaluation, segment)[1] or 0) >= FEWEST_CLUSTERS
    }
    return dict(zip(p, holm(np.array(list(p.values()))).tolist(), strict=True))


def shown_better(evaluation: EvaluationRecord, settings: Gate) -> list[str]:
    """Segments, `overall` first, in which the challenger is shown to be better than the champion."""
    found = {
        segment: (compared.mean, compared.difference.p)
        for segment in dict.fromkeys((OVERALL, *settings.guarded_segments, *settings.better_in))
        if (compared := _compared(evaluation, "champion", segment, METRIC))
        and compared.difference.p is not None
        and (segment == OVERALL or (_size(evaluation, segment)[1] or 0) >= FEWEST_CLUSTERS)
    }
    adjusted = holm(np.array([p for _, p in found.values()]))
    return [
        segment
        for (segment, (mean, _)), p in zip(found.items(), adjusted, strict=True)
        if mean > 0 and p <= BETTER_LEVEL
    ]


def better_where_claimed(settings: Gate, champion: Rival | None, better: list[str]) -> Iterator[Reason]:
    for segment in settings.better_in:
        if champion is None:
            passed, text = True, "no other champion to be better than"
        else:
            passed = segment in better
            text = f"{'' if passed else 'not '}shown to be better than the champion"
        yield Reason(
            rule=f"better_in_{segment}",
            passed=passed,
            observed=int(passed) if champion else None,
            threshold=1,
            unit="count",
            text=f"{segment_words(segment)}: {text} (gate.better_in)",
            judged=champion is not None,
        )


def precision_outside_fashion(evaluation: EvaluationRecord, settings: Gate, champion: Rival | None) -> Reason:
    rule = "precision_outside_fashion"
    queries, clusters = _size(evaluation, OUTSIDE)
    text = ""
    if champion is None:
        text = "relevance precision outside fashion: no other champion to compare with"
    elif _too_few(queries, clusters):
        text = (
            f"relevance precision outside fashion: {queries:,} queries for {clusters} items or texts, too few to tell"
        )
    if text:
        return not_judged(rule, "points", text)
    found = _compared(evaluation, "champion", OUTSIDE, PRECISION)
    theirs = evaluation.figure("champion", OUTSIDE, PRECISION)
    if found is None or theirs is None or clusters is None:
        return unknown(rule, "points", "P@50 outside fashion was not measured against the champion")
    least = -settings.precision_margin * theirs
    bound = lower_bound(found.mean, found.error, clusters)
    text = (
        f"P@50 outside fashion minus the champion's {theirs:.1%}: {_points(found.mean)} points, with {LEVEL:.0%} confidence above "
        f"{_points(bound)}; that must be above {_points(least)}, {settings.precision_margin:.0%} of it (gate.precision_margin)"
    )
    return at_least(rule, bound, least, "points", text)


def no_backfill(cutoff: datetime, champion: Rival | None) -> Reason:
    """The champion must not know later days."""
    if champion is None:
        passed, text = True, "no other champion whose training could have been later"
    else:
        passed = datetime.fromisoformat(champion.cutoff) <= cutoff
        text = f"trained up to {cutoff:%Y-%m-%d}, the champion up to {champion.cutoff[:10]}: " + (
            "not earlier" if passed else "a run over older days does not replace a model that knows later ones"
        )
    return Reason(
        rule="no_backfill",
        passed=passed,
        observed=f"{cutoff:%Y-%m-%d}",
        threshold=champion.cutoff[:10] if champion else None,
        unit="date",
        text=text,
        judged=champion is not None,
    )


def _compared(evaluation: EvaluationRecord, rival: str, segment: str, metric: str) -> Compared | None:
    found = evaluation.differences.get(rival, {}).get(segment, {}).get(metric)
    if found is None or found.mean is None or found.standard_error is None:
        return None
    return Compared(mean=found.mean, error=found.standard_error, difference=found)


def _size(evaluation: EvaluationRecord, segment: str) -> tuple[int | None, int | None]:
    """Queries and clusters of a segment; a department without any has no entry."""
    none = 0 if segment.startswith(DEPARTMENT) else None
    return evaluation.segments.get(segment, none), evaluation.segment_clusters.get(segment, none)


def _too_few(queries: int | None, clusters: int | None) -> bool:
    """Whether a segment that was measured is too small to tell anything."""
    return queries is not None and clusters is not None and clusters < FEWEST_CLUSTERS


def _points(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:+.2f}"
