"""The report's charts: matplotlib drawings as inline SVG that takes the page's text colour, light or dark."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from typing_extensions import TypedDict

from smar_model.evaluation.evaluation_record import BySegment, Estimate, Reliability
from smar_model.evaluation.terminal_table import MODEL_NAMES, SEGMENT_NAMES

if TYPE_CHECKING:
    from smar_model.evaluation.query_drift import Drift

Dashes = str | tuple[int, tuple[int, ...]]


class Style(NamedTuple):
    color: str
    marker: str
    linestyle: Dashes


class SpeedPoint(TypedDict):
    """Of `index.json`: recall and time of a query with some search parameters."""

    parameters: str
    ms: float
    recall: float
    worst: float


_INK = "#123456"
"""Stands for the page's text colour while matplotlib draws."""
# Okabe and Ito 2008, told apart by the colour-blind too; marker and dash tell them apart without any colour.
_STYLES = {
    "challenger": Style("#0072B2", "o", "-"),
    "champion": Style("#CC79A7", "D", "-."),
    "text_only": Style("#D55E00", "s", "--"),
    "bm25": Style("#009E73", "^", ":"),
    "popularity": Style("#8A8A8A", "x", (0, (5, 1, 1, 1))),
    "oracle": Style("#B8860B", "*", (0, (1, 1))),
}
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A8A8A", "#B8860B")
_DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1)), (0, (1, 1)))
_DRAWING: dict[str, object] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    **{name: _INK for name in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")},
}
NARROW = (4.3, 3.1)
"""Inches: a chart fills a phone's width with readable text; wider screens set several side by side."""


def recall_curves(models: dict[str, BySegment], segment: str, depths: Sequence[int]) -> str:
    """Recall@k of every model with its interval, for one segment."""

    def draw(axes: Axes) -> None:
        for model, style in _STYLES.items():
            if model not in models:
                continue
            points = [models[model][segment][f"recall_at_{k}"] for k in depths]
            if points[0].mean is None:
                continue
            mean, low, high = _in_per_cent(points)
            axes.plot(depths, mean, label=MODEL_NAMES[model], markersize=4, **style._asdict())
            axes.fill_between(depths, low, high, color=style.color, alpha=0.15, linewidth=0)
        axes.set_xscale("log")
        axes.set_xticks(depths, [str(k) for k in depths])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel("k, items looked at")
        axes.set_ylabel("Recall@k, %")
        axes.set_title(SEGMENT_NAMES[segment])
        axes.legend(fontsize=8)

    return draw_svg(f"recall-{segment}", f"Recall curves, {SEGMENT_NAMES[segment]}", [draw])


def segment_levels(
    models: dict[str, BySegment], groups: Sequence[dict[str, str]], counts: dict[str, int], metric: str, title: str
) -> str:
    """A metric of the model and of those that it is compared with, by segment.

    Args:
        groups: segments, name → words; a line stands between groups.
        counts: segment → queries.
    """
    shown = [name for name in ("text_only", "champion", "challenger") if name in models]
    labels, places, edges = _rows(groups, counts)

    def draw(axes: Axes) -> None:
        for number, model in enumerate(shown):
            shift = 0.26 * (number - (len(shown) - 1) / 2)
            values = [models[model][segment][metric] for segment in places]
            _intervals(axes, [place + shift for place in places.values()], values, _STYLES[model], MODEL_NAMES[model])
        _name_rows(axes, labels, places, edges)
        axes.set_xlabel(f"{title}, %")
        axes.legend(
            fontsize=8,
            loc="lower right",
            bbox_to_anchor=(1.02, 1),
            ncols=len(shown),
            columnspacing=0.8,
            handletextpad=0,
        )

    return draw_svg(f"levels-{metric}", f"{title} by segment", [draw], height=1.2 + 0.23 * len(labels))


def forest_plot(
    differences: Mapping[str, Mapping[str, Estimate]],
    groups: Sequence[dict[str, str]],
    counts: dict[str, int],
    metric: str,
    title: str,
    other: str,
) -> str:
    """Paired differences of the model to another one by segment, with their intervals; arguments as of `segment_levels`."""
    labels, places, edges = _rows(groups, counts)

    def draw(axes: Axes) -> None:
        values = [differences[segment][metric] for segment in places]
        _intervals(axes, list(places.values()), values, _STYLES[other], None)
        axes.axvline(0, color=_INK, linewidth=1)
        _name_rows(axes, labels, places, edges)
        axes.set_xlabel("points; right of 0 is better")
        axes.set_title(f"{title}: this run − {MODEL_NAMES[other]}", fontsize=9, loc="right")

    return draw_svg(
        f"forest-{other}-{metric}",
        f"Paired differences in {title} to {MODEL_NAMES[other]} by segment",
        [draw],
        height=1.2 + 0.2 * len(labels),
    )


def recovered_shares(shares: dict[str, Estimate], groups: Sequence[dict[str, str]], counts: dict[str, int]) -> str:
    """(model − text-only) / (oracle − text-only) by segment; those in which the oracle itself is not clearly better are left out."""
    known = [{name: words for name, words in group.items() if shares[name].mean is not None} for group in groups]
    labels, places, edges = _rows([group for group in known if group], counts)

    def draw(axes: Axes) -> None:
        _intervals(axes, list(places.values()), [shares[name] for name in places], _STYLES["challenger"], None)
        for end in (0, 100):
            axes.axvline(end, color=_INK, linewidth=1, linestyle=":")
        _name_rows(axes, labels, places, edges)
        axes.set_xlabel("% of the oracle's gain over text-only")

    return draw_svg("recovered", "Recovered share by segment", [draw], height=0.9 + 0.2 * len(labels))


def query_drift(rows: Sequence[Drift], limits: Mapping[Any, float]) -> str:
    """How well a classifier tells synthetic from true queries: in all, by department, by method.

    Args:
        limits: severity → largest AUC of all queries.
    """
    known = [row for row in rows if row.auc is not None]

    def draw(axes: Axes) -> None:
        colours = {"all": _PALETTE[0], "department": _PALETTE[2], "method": _PALETTE[1]}
        markers = {"all": "D", "department": "o", "method": "s"}
        for scope, colour in colours.items():
            points = [(row.auc, place) for place, row in enumerate(known) if row.scope == scope]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker=markers[scope], linestyle="", label=scope)
        for severity, most in limits.items():
            axes.axvline(most, color=_INK, linewidth=1, linestyle=":" if severity == "warning" else "-", label=severity)
        axes.set_yticks(range(len(known)), [row.segment.replace("_", " ") for row in known], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0.48, 1.02)
        axes.set_xlabel("AUC; 0.5: cannot be told apart")
        axes.legend(fontsize=7, loc="center left")

    return draw_svg("drift", "AUC of a classifier of synthetic and true queries", [draw], height=1 + 0.22 * len(known))


def recall_by_speed(points: Sequence[SpeedPoint], used: str, floor: float) -> str:
    """Recall@100 of the index against exact search, by the time that a query takes.

    Args:
        points: from fast to slow.
        used: search parameters that are in use; their point is marked.
        floor: recall that was asked for.
    """

    def draw(axes: Axes) -> None:
        for recalls, words, model in (
            ([p["recall"] for p in points], "all queries", "challenger"),
            ([p["worst"] for p in points], "worst share of pictures", "text_only"),
        ):
            shares, style = [100 * recall for recall in recalls], _STYLES[model]._asdict()
            axes.plot([p["ms"] for p in points], shares, label=words, markersize=4, **style)
        for point in points:
            if point["parameters"] == used:
                axes.axvline(point["ms"], color=_INK, linewidth=1, linestyle=":", label="in use")
        axes.axhline(100 * floor, color=_INK, linewidth=1, linestyle="--", label="floor")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:.2g}")
        axes.xaxis.set_minor_formatter("{x:.2g}")
        axes.tick_params(axis="x", which="minor", labelsize=7)
        axes.set_xlabel("ms a query, one thread")
        axes.set_ylabel("Recall@100 against exact search, %")
        axes.legend(fontsize=8, loc="lower right")

    return draw_svg("index-speed", "Recall of the index against the time of a query", [draw])


def _rows(groups: Sequence[dict[str, str]], counts: dict[str, int]) -> tuple[list[str], dict[str, int], list[float]]:
    """Labels with the number of queries, place of each segment, and places between groups."""
    labels, places, edges = list[str](), dict[str, int](), list[float]()
    for group in groups:
        for name, words in group.items():
            places[name] = len(labels)
            labels.append(f"{words} · {counts[name]:,}")
        edges.append(len(labels) - 0.5)
    return labels, places, edges[:-1]


def _name_rows(axes: Axes, labels: Sequence[str], places: dict[str, int], edges: Sequence[float]) -> None:
    axes.set_yticks(list(places.values()), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    for edge in edges:
        axes.axhline(edge, color=_INK, linewidth=0.5, alpha=0.4)


def _intervals(
    axes: Axes, places: Sequence[float], values: Sequence[Estimate], style: Style, label: str | None
) -> None:
    mean, low, high = _in_per_cent(values)
    axes.errorbar(
        mean,
        places,
        xerr=[[m - a for m, a in zip(mean, low, strict=True)], [b - m for m, b in zip(mean, high, strict=True)]],
        color=style.color,
        marker=style.marker,
        linestyle="",
        markersize=4,
        linewidth=1.2,
        capsize=2,
        label=label,
    )


def _in_per_cent(values: Sequence[Estimate]) -> tuple[list[float], list[float], list[float]]:
    """Means, lower and upper ends of estimates that there are."""
    known = [(v.mean, v.low, v.high) for v in values if v.mean is not None and v.low is not None and v.high is not None]
    mean, low, high = ([100 * value[end] for value in known] for end in range(3))
    return mean, low, high


def loss_curves(history: list[dict[str, float]], title: str, left_out: Iterable[str]) -> str:
    """Every part of a training loss by step."""
    # Not the first entry's alone: a part of the loss may join later.
    names = dict.fromkeys(n for entry in history for n in entry if "/" not in n and n not in {"step", *left_out})

    def draw(axes: Axes) -> None:
        for number, name in enumerate(names):
            points = [(entry["step"], entry[name]) for entry in history if name in entry]
            axes.plot(
                *zip(*points, strict=True),
                label=name,
                color=_PALETTE[number % len(_PALETTE)],
                linestyle=_DASHES[number % len(_DASHES)],
            )
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.set_title(title)
        axes.legend(fontsize=8)

    return draw_svg(f"loss-{title}", f"Training losses of {title}", [draw])


def reliability(curve: Reliability) -> str:
    """Predicted P(q), before and after calibration, against the share of visual queries; how many queries have which P(q)."""

    def draw_reliability(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=1, linestyle=":")
        for bins, label, model in (
            (curve.before, "before calibration", "text_only"),
            (curve.after, "P(q)", "challenger"),
        ):
            points = [(b.mean_probability, b.visual_share) for b in bins]
            axes.plot(*zip(*points, strict=True), label=label, markersize=4, **_STYLES[model]._asdict())
        axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel("share visual")
        axes.set_title("reliability of P(q)")
        axes.legend(fontsize=8)

    def draw_counts(axes: Axes) -> None:
        axes.bar(
            [b.low for b in curve.after],
            [b.queries for b in curve.after],
            width=[b.high - b.low for b in curve.after],
            align="edge",
            color="#0072B2",
            alpha=0.6,
        )
        axes.set_xlim(-0.03, 1.03)
        axes.set_yscale("log")  # nearly all queries are at one end or the other
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_ylabel("queries")
        axes.set_xlabel("P(q)")

    return draw_svg("reliability", "Reliability of P(q)", [draw_reliability, draw_counts], ratios=[3, 1])


def draw_svg(
    name: str, label: str, panels: Sequence[Any], *, height: float = NARROW[1], ratios: Sequence[float] | None = None
) -> str:
    drawing: Any = {**_DRAWING, "svg.hashsalt": name}
    with matplotlib.rc_context(drawing):
        figure = Figure(figsize=(NARROW[0], height))
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
        for draw, panel in zip(panels, axes, strict=True):
            draw(panel)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue(), name, label)


def _inline(svg: str, name: str, label: str) -> str:
    """An SVG document as part of a page: no addresses, ids of its own, the page's colour and fonts, any size."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    prefix = re.sub(r"\W", "-", name)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = svg.replace(_INK, "currentColor")
    size = r'<svg [^>]*?viewBox="([^"]*)"[^>]*>'
    return re.sub(size, rf'<svg viewBox="\1" role="img" aria-label="{html.escape(label)}">', svg, count=1)
