"""The report's charts: matplotlib drawings as inline SVG that takes the page's text colour, light or dark."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smar_model.evaluation.terminal_table import MODEL_NAMES, SEGMENT_NAMES

_INK = "#123456"
"""Stands for the page's text colour while matplotlib draws."""
# Okabe and Ito 2008, told apart by the colour-blind too; marker and dash tell them apart without any colour.
_STYLES: dict[str, dict[str, Any]] = {
    "challenger": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "champion": {"color": "#CC79A7", "marker": "D", "linestyle": "-."},
    "text_only": {"color": "#D55E00", "marker": "s", "linestyle": "--"},
    "bm25": {"color": "#009E73", "marker": "^", "linestyle": ":"},
    "popularity": {"color": "#8A8A8A", "marker": "x", "linestyle": (0, (5, 1, 1, 1))},
}
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A8A8A", "#B8860B")
_DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1)), (0, (1, 1)))
_DRAWING: dict[str, Any] = {
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


def recall_curves(models: dict[str, Any], segment: str, depths: Sequence[int]) -> str:
    """Recall@k of every model with its interval, for one segment."""

    def draw(axes: Axes) -> None:
        for model, style in _STYLES.items():
            if model not in models:
                continue
            points = [models[model][segment][f"recall_at_{k}"] for k in depths]
            if points[0]["mean"] is None:
                continue
            axes.plot(depths, [100 * p["mean"] for p in points], label=MODEL_NAMES[model], markersize=4, **style)
            axes.fill_between(
                depths,
                [100 * p["low"] for p in points],
                [100 * p["high"] for p in points],
                color=style["color"],
                alpha=0.15,
                linewidth=0,
            )
        axes.set_xscale("log")
        axes.set_xticks(depths, [str(k) for k in depths])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel("k, items looked at")
        axes.set_ylabel("Recall@k, %")
        axes.set_title(SEGMENT_NAMES[segment])
        axes.legend(fontsize=8)

    return draw_svg(f"recall-{segment}", f"Recall curves, {SEGMENT_NAMES[segment]}", [draw])


def forest_plot(differences: dict[str, Any], metric: str, title: str) -> str:
    """Paired differences of the challenger to each other model by segment, with their intervals."""
    rows = [
        (f"{MODEL_NAMES[model]}, {SEGMENT_NAMES[segment]}", differences[model][segment][metric], _STYLES[model])
        for model in _STYLES
        if model in differences
        for segment in SEGMENT_NAMES
        if differences[model][segment][metric]["mean"] is not None
    ]

    def draw(axes: Axes) -> None:
        for place, (_, value, style) in enumerate(rows):
            mean, low, high = (100 * value[name] for name in ("mean", "low", "high"))
            axes.errorbar(
                mean,
                place,
                xerr=[[mean - low], [high - mean]],
                color=style["color"],
                marker=style["marker"],
                markersize=5,
                capsize=3,
            )
        axes.axvline(0, color=_INK, linewidth=1)
        axes.set_yticks(range(len(rows)), [label for label, _, _ in rows], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("points; right of 0 is better")
        axes.set_title(f"{title}: this run minus …")

    return draw_svg(f"forest-{metric}", f"Paired differences in {title}", [draw], height=1.2 + 0.24 * len(rows))


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


def reliability(before: list[dict[str, float]], after: list[dict[str, float]]) -> str:
    """Predicted P(q), before and after calibration, against the share of visual queries; how many queries have which P(q)."""

    def draw_reliability(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=1, linestyle=":")
        for bins, label, model in ((before, "before calibration", "text_only"), (after, "P(q)", "challenger")):
            points = [(b["mean_probability"], b["visual_share"]) for b in bins]
            axes.plot(*zip(*points, strict=True), label=label, markersize=4, **_STYLES[model])
        axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel("share visual")
        axes.set_title("reliability of P(q)")
        axes.legend(fontsize=8)

    def draw_counts(axes: Axes) -> None:
        axes.bar(
            [b["low"] for b in after],
            [b["queries"] for b in after],
            width=[b["high"] - b["low"] for b in after],
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
