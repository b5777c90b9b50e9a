"""Stage report: one self-contained page, `report.html`, that people read before they trust a model.

It needs no network and no script; charts are SVG, each picture is in it once.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pyarrow.dataset as ds
from PIL import Image

from smar_model.checks.outcomes import read_checks
from smar_model.data.catalogue import read_catalogue
from smar_model.evaluation import charts
from smar_model.evaluation.decision import read_decision
from smar_model.evaluation.evaluation_record import EvaluationRecord, Routing, read_evaluation
from smar_model.evaluation.incumbent_answer import answer_in_words, counts_in_words, incumbent_measures
from smar_model.evaluation.judged_models import COMPARED_METRICS, RECALL_DEPTHS
from smar_model.evaluation.preference import LEVEL, describe_preference, p_text
from smar_model.evaluation.query_drift import Drift
from smar_model.evaluation.segments import FEWEST_CLUSTERS, grouped, segment_words
from smar_model.evaluation.terminal_table import MODEL_NAMES, SEGMENT_NAMES, percent, points
from smar_model.lake.checkout import commit
from smar_model.lake.contracts import load_contract
from smar_model.lake.digests import digest_file
from smar_model.settings import REPOSITORY

if TYPE_CHECKING:
    from smar_model.lake.artifacts import Artifact
    from smar_model.lake.stage import StageContext

SHOWN_ITEMS = 6
_TARGET = {"recall_at_10": "R@10", "recall_at_50": "R@50", "recall_at_100": "R@100", "mrr": "MRR"}
_GRADED = {
    "ndcg_at_10": "nDCG@10",
    "precision_at_10": "P@10",
    "precision_at_50": "P@50",
    "graded_recall_at_50": "R@50",
    "graded_f1_at_50": "F1@50",
    "graded_map_at_100": "MAP@100",
}
_TRAINING = ("adapt-vision", "pretrain", "finetune", "train-text-only")
_COMPARED_WITH = ("champion", "text_only", "best_release", "cold_start", "bm25")
_DRAWN = ("champion", "text_only", "bm25")
"""Models of which the first two that there are have a chart by segment; the others are in tables."""
_BESIDE_THE_INCUMBENT = ("incumbent", "challenger", "champion", "text_only", "bm25")
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


def run(context: StageContext) -> dict[str, int]:
    """Write the page from what the other stages published."""
    evaluation = read_evaluation(context.input("evaluate").file("evaluation.json"))
    checks = read_checks(context.input("check-data").file("checks.json"))
    drift = _read_drift(context.table("measure-drift", "query_drift"))
    histories = {name: _read(context.inputs[name], "history.json") for name in _TRAINING if name in context.inputs}
    index = context.input("index").metrics | _read(context.input("index"), "index.json")
    items = _shown_items(evaluation)
    catalogue = read_catalogue(context.table("prepare-items", "catalogue"))
    titles = dict(zip(catalogue["item_id"], catalogue["title"], strict=True))
    pictures = read_pictures(context.table("prepare-items", "pictures"), items)
    unique = {picture.number: picture for picture in pictures.values()}
    page = _template().render(
        run_name=context.run.name,
        run_date=str(context.run.date),
        may_promote=context.run.promotion != "never",
        decision=read_decision(context.input("gate").file("decision.json")),
        evaluation=evaluation,
        incumbent_measures=incumbent_measures(evaluation.incumbent) if evaluation.incumbent else [],
        pretrained_up_to=context.input("pretrain").metrics.get("trained_up_to"),
        started_from=context.input("finetune").metrics.get("started_from"),
        checks=sorted(checks, key=lambda check: (check.passed, check.severity != "critical")),
        index=nested_tables("index", index),
        versions=_versions(context),
        settings=_flat(context.settings.model_dump(mode="json", exclude_defaults=True)),
        titles={item: titles[item] for item in sorted(items)},
        pictures=pictures,
        store=[unique[number] for number in sorted(unique)],
        groups=grouped(evaluation.segments),
        others=[n for n in _COMPARED_WITH if n in evaluation.differences],
        not_trained=[name for name, history in histories.items() if not history],
        drift=drift,
        drift_chart=charts.query_drift(drift, load_contract("query_drift").drift["auc"])
        if any(row.auc is not None for row in drift)
        else None,
        index_chart=charts.recall_by_speed(speeds, index["search_parameters"], index["recall"]["floor"])
        if len(speeds := index.get("recall_by_speed", [])) > 1
        else None,
        losses=[charts.loss_curves(history, name, _NOT_LOSSES) for name, history in histories.items() if history],
        **_charts(evaluation),
    )
    context.output("report.html").write_text(page, encoding="utf-8")
    return {"bytes": len(page.encode()), "shown_queries": len(evaluation.shown.queries)}


def _shown_items(evaluation: EvaluationRecord) -> set[str]:
    """Those whose picture and title the page needs."""
    shown = evaluation.shown.queries + (evaluation.incumbent.shown if evaluation.incumbent else [])
    wanted = {query.target for query in shown if query.target}
    found = {a.item_id for query in shown for answers in query.answers.values() for a in answers[:SHOWN_ITEMS]}
    return wanted | found | {hub.item_id for hub in evaluation.hubness["challenger"].worst}


def _charts(evaluation: EvaluationRecord) -> dict[str, str | list[str] | dict[str, list[str]] | None]:
    """Name in the template → drawings of how well models find, and of P(q)."""
    models, differences, counts = evaluation.models, evaluation.differences, evaluation.segments
    told = [
        {n: w for n, w in group.items() if evaluation.segment_clusters[n] >= FEWEST_CLUSTERS}
        for group in grouped(counts)
    ]
    # A shop, or a test, may be too small for any.
    drawn = [group for group in told if group] or [{"overall": "all queries"}]
    charted = [name for name in _DRAWN if name in differences][:2]
    routing = evaluation.routing
    return {
        "levels": charts.segment_levels(models, drawn, counts, "recall_at_50", "Recall@50"),
        "forest_plots": {
            metric: [charts.forest_plot(differences[o], drawn, counts, metric, words, o) for o in charted]
            for metric, words in (("recall_at_50", "Recall@50"), ("ndcg_at_10", "nDCG@10"), ("precision_at_50", "P@50"))
        },
        "recovered": charts.recovered_shares(evaluation.recovered, drawn, counts) if evaluation.recovered else None,
        "recall_curves": [
            charts.recall_curves(models, segment, RECALL_DEPTHS) for segment in SEGMENT_NAMES if counts[segment]
        ],
        "reliability": charts.reliability(routing.reliability) if isinstance(routing, Routing) else None,
    }


def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": percent, "points": points, "area": _area, "chance": _chance, "cell": _cell}
    environment.filters |= {"figure": _figure, "segment_words": segment_words, "grade": _grade}
    environment.filters |= {"answer_in_words": answer_in_words, "counts_in_words": counts_in_words}
    environment.filters |= {"preference": describe_preference, "small_chance": p_text}
    environment.globals |= {
        "level_of_looks": LEVEL,
        "shown_items": SHOWN_ITEMS,
        "model_names": MODEL_NAMES,
        "segment_names": SEGMENT_NAMES,
        "incumbent_models": _BESIDE_THE_INCUMBENT,
        "fewest_clusters": FEWEST_CLUSTERS,
        "target_metrics": _TARGET,
        "graded_metrics": _GRADED,
        "compared": {name: (_TARGET | _GRADED)[name] for name in COMPARED_METRICS},
        "ways": _WAYS,
    }
    return environment.from_string(Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8"))


def _read(artifact: Artifact, name: str) -> Any:
    return json.loads(artifact.file(name).read_text(encoding="utf-8"))


def _read_drift(files: Sequence[Path]) -> list[Drift]:
    schema = load_contract("query_drift").arrow_schema()
    rows = ds.dataset([str(f) for f in files], schema=schema).to_table().to_pylist() if files else []
    return [Drift(**row) for row in rows]


def _versions(context: StageContext) -> dict[str, dict[str, str]]:
    """Heading → name → version: of the code, and of what the page was made from, by the digests of its content."""
    made: dict[str, str] = {}
    for artifact in context.inputs.values():
        made |= artifact.manifest["inputs"]
    made |= {name: artifact.digest for name, artifact in context.inputs.items()}
    lock = digest_file(REPOSITORY / "requirements.lock")
    code = {"commit": commit(), "requirements.lock": lock[:12]}
    code |= {name: version(name) for name in ("torch", "faiss-cpu", "pyarrow", "numpy")}
    return {
        "Code": {"settings file": context.run.settings_source, **code},
        "Outputs read, by content": {name: made[name][:12] for name in sorted(made)},
    }


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in settings.items():
        flat |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": str(value)}
        )
    return flat


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


def nested_tables(name: str, value: dict[str, Any] | list[Any]) -> dict[str, tuple[list[str], list[list[Any]]]]:
    """Caption → head and rows, from mappings and lists nested in any way: what holds single values alone is one table."""
    if isinstance(value, list):
        if not any(isinstance(entry, dict) for entry in value):
            return {name: (["", "value"], [[number, entry] for number, entry in enumerate(value, 1)])}
        head = list(dict.fromkeys(column for row in value for column in row))
        return {name: (head, [[row.get(column) for column in head] for row in value])}
    single = [[key, entry] for key, entry in value.items() if not isinstance(entry, dict | list)]
    tables = {name: (["", "value"], single)} if single else {}
    for key, entry in value.items():
        if isinstance(entry, dict | list) and entry:
            tables |= nested_tables(f"{name}: {key}", entry)
    return tables


def _cell(value: Any) -> str:
    """Any value of an index's manifest, short."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = "" if value is None else str(value)
    return text if len(text) <= 60 else text[:12] + "…"


def _chance(p: float | None) -> str:
    if p is None:
        return "–"
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def _grade(of_people: float) -> str:
    """A grade on the scale of schemas/judgments.yaml; of two raters who differ by one it is between two."""
    words: dict[float, str] = {3: "exact", 2: "substitute", 1: "complement", 0: "irrelevant"}
    return f"{of_people:g} {words.get(of_people, 'of 3')}"


def _area(under_curve: float | None) -> str:
    return "–" if under_curve is None else f"{under_curve:.3f}"


def _figure(value: float | str | None, unit: str) -> str:
    """A figure of the gate, with its unit."""
    if value is None or isinstance(value, str):
        return value or "–"
    written = {
        "share": f"{100 * value:.1f} %",
        "points": f"{100 * value:+.2f} points",
        "p": f"p {_chance(value)}",
        "milliseconds": f"{value:.1f} ms",
        "number": f"{value:.2f}",
        "count": f"{value:,}",
    }
    return written[unit].replace("-", "−")
