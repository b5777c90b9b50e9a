"""`smar sweep`: pretraining's weights α, β, γ over a grid, drawn for all queries, fashion and the others (SMAR, figure 3).

A sweep is a comparison (`smar_model/evaluation/compare.py`) whose rows come from the grid: resumed, reused and kept alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import matplotlib
from matplotlib.figure import Figure
from pydantic import Field

from smar_model.errors import InputError
from smar_model.evaluation.compare import current_rows, measure_missing
from smar_model.evaluation.comparison import Bench, Comparison, Row, Trainings, load_yaml
from smar_model.evaluation.judge import NOVEL
from smar_model.evaluation.measured_rows import Measured
from smar_model.lake.stage import Stage

PANELS = {NOVEL: "Overall", "fashion": "Fashion", "not_fashion": "Not-fashion"}
"""Segments, all of novel queries."""
METRIC = "target_recall_at_50"
STYLES = {"α": ("#0072B2", "o", "-"), "β": ("#D55E00", "s", "--"), "γ": ("#009E73", "^", ":")}


class Sweep(Trainings):
    """A settings file of `smar sweep`."""

    variant: str
    alpha: tuple[float, ...] = Field(min_length=1)
    beta: tuple[float, ...] = Field(min_length=1)
    gamma: tuple[float, ...] = Field(min_length=1)

    def points(self) -> dict[str, tuple[float, float, float]]:
        """Name → (α, β, γ); without the point that learns nothing."""
        grid = itertools.product(self.alpha, self.beta, self.gamma)
        return {f"a{a:g}-b{b:g}-c{c:g}": (a, b, c) for a, b, c in grid if a or b or c}

    def comparison(self) -> Comparison:
        rows = {
            name: Row(label=name, variant=self.variant, settings={"training": {"modality_weights": list(weights)}})
            for name, weights in self.points().items()
        }
        return Comparison(
            **self.model_dump(include=set(Trainings.model_fields)),
            tables={"Grid": rows},
        )


def sweep(file: Path, *, stages: Mapping[str, Stage], minutes: float | None = None) -> Path:
    """Measure the points that are missing, as many as the minutes allow, and draw those there are.

    Raises:
        InputError: the sweep is wrong, or a stage refuses its input.
    """
    settings = load_yaml(Sweep, file)
    bench = Bench(name=file.stem, comparison=settings.comparison(), stages=stages)
    measure_missing(bench, minutes=minutes)
    drawing = bench.folder.with_suffix(".svg")
    draw(settings, current_rows(bench), drawing)
    return drawing


def recalls(settings: Sweep, rows: Sequence[Measured], segment: str) -> dict[tuple[float, float, float], float]:
    """Measured point → Recall@50 of a segment, mean over seeds."""
    found: dict[tuple[float, float, float], list[float]] = {}
    for row in rows:
        if segment in row.metrics and (recall := row.metrics[segment].estimates[METRIC].mean) is not None:
            found.setdefault(settings.points()[row.name], []).append(recall)
    return {point: mean(values) for point, values in found.items()}


def draw(settings: Sweep, rows: Sequence[Measured], file: Path) -> None:
    """For each weight, the best Recall@50 over the other two at each of its values; the best point as title."""
    if not rows:
        raise InputError(f"{file.stem}: no point is measured yet; run `smar sweep` again")
    with matplotlib.rc_context({"svg.hashsalt": file.stem, "font.size": 10, "axes.spines.top": False}):
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        for axes, (segment, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
            found = recalls(settings, rows, segment)
            for place, (weight, (colour, marker, dashes)) in enumerate(STYLES.items()):
                values = sorted({point[place] for point in found})
                best = [100 * max(r for point, r in found.items() if point[place] == v) for v in values]
                axes.plot(values, best, color=colour, marker=marker, linestyle=dashes, label=weight)
            if found:
                point = max(found, key=lambda p: found[p])
                title += "\nbest: " + ", ".join(f"{n} {v:g}" for n, v in zip(STYLES, point, strict=True))
            axes.set_title(title)
            axes.set_xlabel("weight")
            axes.grid(alpha=0.25)
        figure.axes[0].set_ylabel("Recall@50, %, best over the other weights")
        figure.axes[0].legend(frameon=False)
        figure.savefig(file, format="svg", metadata={"Date": None})
