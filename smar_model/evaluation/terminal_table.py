"""The table that `make retrain` prints."""

from __future__ import annotations

import textwrap

from smar_model.evaluation.evaluation_record import EvaluationRecord, OrderWithinLists
from smar_model.evaluation.preference import Preference, describe_preference

WIDTH = 100
"""Columns."""
MODEL_NAMES = {
    "popularity": "popularity",
    "bm25": "BM25",
    "text_only": "text-only",
    "champion": "champion before",
    "best_release": "best of 28 days",
    "cold_start": "cold start",
    "challenger": "this run's SMAR",
    "oracle": "oracle",
    "incumbent": "the log's engine",
}
SEGMENT_NAMES = {"overall": "overall", "fashion": "fashion", "not_fashion": "not fashion"}
METRIC_NAMES = {
    "recall_at_50": "R@50",
    "recall_at_100": "R@100",
    "ndcg_at_10": "nDCG@10",
    "precision_at_50": "P@50",
}


def format_table(evaluation: EvaluationRecord) -> str:
    """Plain text, at most WIDTH columns wide: a model a row, segments side by side, figures in per cent, n queries."""
    width = max(map(len, MODEL_NAMES.values()))
    columns = [len(name) + 1 for name in METRIC_NAMES.values()]
    heads = [f"{name}, n = {evaluation.segments[segment]:,}" for segment, name in SEGMENT_NAMES.items()]
    lines = [
        " │".join([" " * width, *(f" {head:^{sum(columns) - 1}}" for head in heads)]),
        " │".join(
            [" " * width] + ["".join(f"{n:>{w}}" for n, w in zip(METRIC_NAMES.values(), columns, strict=True))] * 3
        ),
        "─┼".join(["─" * width] + ["─" * sum(columns)] * 3),
    ]
    for model, name in MODEL_NAMES.items():
        if model in evaluation.models:
            cells = [
                "".join(
                    f"{percent(evaluation.figure(model, segment, metric)):>{w}}"
                    for metric, w in zip(METRIC_NAMES, columns, strict=True)
                )
                for segment in SEGMENT_NAMES
            ]
            lines.append(" │".join([f"{name:<{width}}", *cells]))
    notes = [
        f"R (recall): {evaluation.measures['found']}.",
        f"nDCG, P: {evaluation.measures['graded']}.",
    ]
    if evaluation.incumbent and evaluation.incumbent.within_list:
        notes.append(_within_lists(evaluation.incumbent.within_list))
    if evaluation.interleaving:
        notes.append(_interleaved(evaluation.interleaving.preference))
    notes += [
        f"{MODEL_NAMES[model]}: not measured, {reason}."
        for model, reason in evaluation.not_measured.items()
        if model in MODEL_NAMES
    ]
    return "\n".join([*lines, "", *(textwrap.fill(note, WIDTH) for note in notes)])


def _within_lists(within: OrderWithinLists) -> str:
    """One sentence: figures, and in brackets the difference from the incumbent."""
    figures = [
        f"{MODEL_NAMES[name]} {percent(figure.mean)}"
        + (f" ({points(within.differences[name].mean)})" if name in within.differences else "")
        for name, figure in within.models.items()
        if name in MODEL_NAMES
    ]
    return f"Order within {within.requests:,} clicked lists of the log, %: {', '.join(figures)}."


def _interleaved(found: Preference) -> str:
    return (
        f"Version {found.pair.challenger} interleaved with {found.pair.champion}, {found.last.shoppers:,} shoppers: "
        f"preference {found.preference:.3f} ({found.low:.3f} to {found.high:.3f}; a half is none), {describe_preference(found)}."
    )


def percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}"


def points(share: float | None) -> str:
    """A difference with its sign, in points."""
    return "–" if share is None else f"{100 * share:+.1f}".replace("-", "−")
