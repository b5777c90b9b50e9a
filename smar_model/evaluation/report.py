"""Stage report: one self-contained page, `report.html`, that people read before they trust a model."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pyarrow.dataset as ds
from PIL import Image

from smar_model.data.catalogue import read_catalogue
from smar_model.evaluation import charts
from smar_model.evaluation.evaluate import COMPARED_METRICS, RECALL_DEPTHS
from smar_model.evaluation.terminal_table import METRIC_NAMES, MODEL_NAMES, SEGMENT_NAMES

if TYPE_CHECKING:
    from smar_model.lake.stage import StageContext

SHOWN_ITEMS = 6
_TABLE_METRICS = {**METRIC_NAMES, "mrr": "MRR"}
_TRAINING = ("adapt-vision", "pretrain", "finetune", "train-text-only")
_NOT_LOSSES = ("learning_rate", "scale")
_WAYS = {
    "multimodal_over_text": "pictures for all",
    "hard_over_text": "hard routing",
    "soft_over_text": "soft routing",
    "hard_over_multimodal": "hard routing",
    "soft_over_multimodal": "soft routing",
}
"""Comparisons of `routing_quality`, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A thumbnail as the page holds it, once, however often it is shown."""

    number: int
    address: str
    """data: address"""
    width: int
    height: int


def run(context: StageContext) -> dict[str, Any]:
    """Write the page from what the other stages published."""
    evaluation = json.loads(context.input("evaluate").file("evaluation.json").read_text(encoding="utf-8"))
    checks = json.loads(context.input("check-data").file("checks.json").read_text(encoding="utf-8"))
    histories = {
        name: json.loads(context.inputs[name].file("history.json").read_text(encoding="utf-8"))
        for name in _TRAINING
        if name in context.inputs
    }
    shown = evaluation["shown"]["queries"]
    items = {q["target"] for q in shown if q["target"]} | {
        answer["item_id"] for q in shown for answers in q["answers"].values() for answer in answers[:SHOWN_ITEMS]
    }
    catalogue = read_catalogue(context.table("prepare-items", "catalogue"))
    titles = dict(zip(catalogue["item_id"], catalogue["title"], strict=True))
    page = render(
        run_name=context.run.name,
        run_date=str(context.run.date),
        evaluation=evaluation,
        checks=checks,
        histories=histories,
        pretrained_up_to=context.input("pretrain").metrics.get("trained_up_to"),
        started_from=context.input("finetune").metrics.get("started_from"),
        index=context.input("index").metrics,
        titles={item: titles[item] for item in sorted(items)},
        pictures=read_pictures(context.table("prepare-items", "pictures"), items),
    )
    context.output("report.html").write_text(page, encoding="utf-8")
    return {"bytes": len(page.encode()), "shown_queries": len(shown)}


def read_pictures(files: Sequence[Path], items: set[str]) -> dict[str, Picture]:
    """Main thumbnail of each of the items that has one; items with the same picture share it."""
    if not files:
        return {}
    table = ds.dataset([str(f) for f in files]).to_table(
        columns=["item_id", "frame", "picture_digest", "thumbnail"], filter=ds.field("item_id").isin(sorted(items))
    )
    rows = sorted(table.to_pylist(), key=lambda row: (row["item_id"], row["frame"]))
    by_digest: dict[str, Picture] = {}
    found: dict[str, Picture] = {}
    for row in rows:
        if row["item_id"] in found:
            continue
        if row["picture_digest"] not in by_digest:
            width, height = Image.open(io.BytesIO(row["thumbnail"])).size
            by_digest[row["picture_digest"]] = Picture(
                number=len(by_digest),
                address="data:image/jpeg;base64," + base64.b64encode(row["thumbnail"]).decode(),
                width=width,
                height=height,
            )
        found[row["item_id"]] = by_digest[row["picture_digest"]]
    return found


def render(
    *,
    run_name: str,
    run_date: str,
    evaluation: dict[str, Any],
    checks: list[dict[str, Any]],
    histories: dict[str, list[dict[str, float]]],
    pretrained_up_to: str | None,
    started_from: str | None,
    index: dict[str, Any],
    titles: dict[str, str],
    pictures: dict[str, Picture],
) -> str:
    """The page as text.

    Args:
        evaluation: content of `evaluation.json`.
        checks: rows of {table, check, severity, passed, observed, detail}.
        histories: training stage → its loss curve.
        pretrained_up_to, started_from: first day that pretraining did not see, and what fine-tuning went on from.
        titles: of the items shown.
        pictures: of those that have one.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": _percent, "points": _points, "area": _area}
    template = environment.from_string(Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8"))
    routing = evaluation["routing"]
    unique = {picture.number: picture for picture in pictures.values()}
    return template.render(
        run_name=run_name,
        run_date=run_date,
        evaluation=evaluation,
        pretrained_up_to=pretrained_up_to,
        started_from=started_from,
        checks=sorted(checks, key=lambda check: (check["passed"], check["severity"] != "critical")),
        index=index,
        titles=titles,
        pictures=pictures,
        store=[unique[number] for number in sorted(unique)],
        shown_items=SHOWN_ITEMS,
        model_names=MODEL_NAMES,
        segment_names=SEGMENT_NAMES,
        table_metrics=_TABLE_METRICS,
        forest_plots=[
            charts.forest_plot(evaluation["differences"], metric, METRIC_NAMES[metric])
            for metric in COMPARED_METRICS
            if evaluation["differences"]
        ],
        recall_curves=[
            charts.recall_curves(evaluation["models"], segment, RECALL_DEPTHS)
            for segment in SEGMENT_NAMES
            if evaluation["segments"][segment]
        ],
        losses=[charts.loss_curves(history, name, _NOT_LOSSES) for name, history in histories.items() if history],
        not_trained=[name for name, history in histories.items() if not history],
        reliability=charts.reliability(**routing["reliability"]) if routing else None,
        ways=_WAYS,
    )


def _percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}"


def _area(under_curve: float | None) -> str:
    return "–" if under_curve is None else f"{under_curve:.3f}"


def _points(share: float | None) -> str:
    """A difference with its sign, in points."""
    return "–" if share is None else f"{100 * share:+.1f}".replace("-", "−")
