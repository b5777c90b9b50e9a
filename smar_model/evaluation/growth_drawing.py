"""What more time brings: Recall@50 of novel queries over the seconds of training, a line for each model that a comparison names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import mean

import matplotlib
from matplotlib.figure import Figure

from smar_model.evaluation.comparison import Bench
from smar_model.evaluation.judge import NOVEL
from smar_model.evaluation.measured_rows import Measured

GROWTH = "growth.svg"
METRIC = "target_recall_at_50"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def draw_growth(bench: Bench, rows: Mapping[str, Mapping[int, Measured]], file: Path) -> None:
    """Draw the lines of which at least two points are measured, each with its 95 % interval (means over seeds); else draw nothing.

    Args:
        rows: name → seed → what was measured.
    """
    lines = {label: _points(bench, rows, names) for label, names in bench.comparison.growth.items()}
    lines = {label: points for label, points in lines.items() if len(points) > 1}
    if not lines:
        return
    with matplotlib.rc_context({"svg.hashsalt": file.stem, "font.size": 10, "axes.spines.top": False}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        for number, (label, points) in enumerate(lines.items()):
            seconds, recall, low, high = zip(*points, strict=True)
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(seconds, recall, color=colour, marker="o", label=label)
            axes.fill_between(seconds, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.set_xscale("log")
        ticks = sorted({point[0] for points in lines.values() for point in points})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.set_xticks([], minor=True)
        axes.set_xlabel("seconds of training")
        axes.set_ylabel("Recall@50 of novel queries, %")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, format="svg", metadata={"Date": None})


def _points(
    bench: Bench, rows: Mapping[str, Mapping[int, Measured]], names: tuple[str, ...]
) -> list[tuple[float, float, float, float]]:
    """Seconds, recall and its interval in per cent, of the measured ones."""
    found = []
    for name in names:
        estimates = [m.metrics[NOVEL].estimates[METRIC] for m in rows.get(name, {}).values() if NOVEL in m.metrics]
        known = [
            (e.mean, e.low, e.high)
            for e in estimates
            if e.mean is not None and e.low is not None and e.high is not None
        ]
        if known:
            recall, low, high = (100 * mean(values) for values in zip(*known, strict=True))
            found.append((bench.seconds(name), recall, low, high))
    return sorted(found)
