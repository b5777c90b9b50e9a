"""A run of the tiny shop whose stages before embed are published as the real ones would be, with untrained models."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from smar_model.data.query_text import normalise_query
from smar_model.lake.artifacts import Artifact
from smar_model.lake.digests import digest_bytes, digest_json
from smar_model.lake.publishing import Attempt
from smar_model.lake.runs import Run
from smar_model.lake.stage import StageContext, run_stage
from smar_model.lake.stage_key import digest_making
from smar_model.settings import Network
from smar_model.stages import STAGES
from smar_model.training.model_files import new_model, save_model
from smar_model.training.model_folder import model_digest
from tests.earlier_models import a_release
from tests.tiny_shop import DAYS, draw_picture, tiny_events, tiny_items, tiny_run, write_rows

NETWORK = {"dimension": 16, "text": {"width": 16, "heads": 2, "tower": "words"}}
"""As what ships: exporting a tower with layers takes seconds."""
HISTORY = [{"step": n, "loss": 3.0 / n, "text": 1.0 / n, "image": 2.0 / n, "learning_rate": 0.1} for n in range(1, 9)]


@dataclass(kw_only=True)
class PublishedRun:
    run: Run
    root: Path

    def publish(self, stage: str, write: Callable[[Path], None], metrics: dict[str, Any] | None = None) -> Artifact:
        """Make an output of a stage real and note it in the run."""
        attempt = Attempt(stage, digest_json([self.run.name, stage]))
        write(attempt.folder)
        made_by = digest_making(STAGES[stage], self.run) if stage in STAGES else ""
        artifact = attempt.publish(metrics=metrics or {}, inputs={}, settings={}, made_by=made_by)
        self.run.write_state(stage, "finished", key=artifact.key)
        return artifact

    def context(self, stage: str, folder: Path) -> StageContext:
        names = (*STAGES[stage].inputs, *STAGES[stage].optional_inputs)
        inputs = {name: found for name in names if (found := self.run.find_output(name))}
        return StageContext(stage=STAGES[stage], run=self.run, inputs=inputs, folder=folder, key="0" * 64)

    def publish_model(self, stage: str, *, variant: str = "smar", seed: int = 0) -> Artifact:
        torch.manual_seed(seed)
        settings = self.run.settings
        tokenizer = self.run.output("train-tokenizer").file("tokenizer.json")
        network = Network.model_validate({**NETWORK, "variant": variant})
        vocabulary = self.run.output("train-tokenizer").metrics["vocabulary"]
        model = new_model(network, vocabulary=vocabulary, query_length=12, item_length=32, pictures=settings.pictures)

        def write(folder: Path) -> None:
            save_model(model, folder / "model", tokenizer)
            (folder / "history.json").write_text(json.dumps(HISTORY), encoding="utf-8")

        return self.publish(stage, write)


def publish_run(
    root: Path,
    *,
    with_truth: bool,
    name: str = "tiny",
    variant: str = "smar",
    interleaved: Sequence[dict[str, Any]] = (),
    **sections: Any,
) -> PublishedRun:
    """Tables and untrained models of the tiny shop, in SMAR_HOME; truth as requests that name colours.

    Args:
        interleaved: further rows of `shown_lists`.
    """
    items = tiny_items()
    write_rows(root / "items.parquet", "items", items)
    events = {day: tiny_events(day, items) for day in DAYS}
    if with_truth:
        truth = [{"item_id": i["item_id"], "attributes": [("colour", i["attributes"]["colour"])]} for i in items]
        write_rows(root / "truth" / "items.parquet", "truth_items", truth)
        colour = {i["item_id"]: i["attributes"]["colour"] for i in items}
        for day, (_, requests) in events.items():
            rows = [{**r, "named": [("colour", colour[r["item_id"]])]} for r in requests]
            write_rows(root / "truth" / "requests" / f"dt={day}" / "part-0.parquet", "truth_requests", rows)
    published = PublishedRun(run=tiny_run(root, name=name, **{"network": NETWORK} | sections), root=root)
    published.publish("prepare-items", lambda folder: write_items(folder, items))
    published.publish("extract-clicks", lambda folder: write_clicks(folder, events, interleaved))
    published.publish("generate-queries", lambda folder: write_queries(folder, items))
    published.publish("measure-drift", _write_drift)
    published.publish("assign-segments", lambda folder: write_segments(folder, events[DAYS[-1]][0], items))
    training = {day: events[day] for day in DAYS[:-1]}
    published.publish("label-fashion", lambda folder: write_labels(folder, training, items))
    checks = [
        {"table": "clicks", "check": "rows", "severity": "critical", "passed": True, "observed": 9, "detail": None},
        {
            "table": "catalogue",
            "check": "brand <b>",
            "severity": "warning",
            "passed": False,
            "observed": None,
            "detail": "x",
        },
        {"table": "measure-drift/query_drift", "check": "AUC at most 0.98", "severity": "warning", "passed": True}
        | {"observed": "0.9", "detail": ""},
    ]
    published.publish("check-data", lambda folder: _write_text(folder / "checks.json", json.dumps(checks)))
    run_stage(STAGES["train-tokenizer"], published.run)
    published.publish("adapt-vision", lambda folder: _write_text(folder / "history.json", json.dumps(HISTORY)))
    published.publish("encode-pictures", lambda folder: None)
    published.publish("pretrain", lambda folder: _write_text(folder / "history.json", "[]"))
    published.publish_model("finetune", variant=variant)
    return published


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_items(folder: Path, items: list[dict[str, Any]], *, masked: str | None = None) -> None:
    """Every fifth item has no usable picture; two items share one. `masked`: an attribute that sellers do not tell."""
    catalogue = [
        item
        | {"department": item["category"].split(" > ")[0], "brand": item["brand"] or ""}
        | {"images": [] if n % 5 == 0 else item["images"][:1], "attributes": list(item["attributes"].items())}
        for n, item in enumerate(items)
    ]
    pictures = []
    for item in catalogue:
        item["informative_pictures"] = len(item["images"])
        if item["images"]:
            data = draw_picture(dict(item["attributes"])["colour"], size=(48, 64))
            buffer = io.BytesIO()
            Image.open(io.BytesIO(data)).save(buffer, "JPEG", quality=92)
            row = {"item_id": item["item_id"], "frame": 0, "thumbnail": buffer.getvalue()}
            pictures.append({**row, "picture_digest": digest_bytes(buffer.getvalue())})
        item["attributes"] = [(name, value) for name, value in item["attributes"] if name != masked]
        item["text_digest"] = digest_json([item[name] for name in ("title", "category", "brand", "attributes")])
        shown = [row["picture_digest"] for row in pictures if row["item_id"] == item["item_id"]]
        item["content_digest"] = digest_json([item["text_digest"], shown])
    write_rows(folder / "catalogue" / "part-0.parquet", "catalogue", catalogue)
    write_rows(folder / "pictures" / "part-0.parquet", "pictures", pictures)


def write_clicks(
    folder: Path, events: dict[Any, tuple[list[dict], list[dict]]], interleaved: Sequence[dict[str, Any]] = ()
) -> None:
    counts: dict[tuple, dict[str, int]] = {}
    for day, (rows, _) in events.items():
        for row in rows:
            key = (day, normalise_query(row["query"]), row["item_id"])
            counts.setdefault(key, {"impression": 0, "click": 0, "cart": 0, "order": 0})[row["event"]] += 1
    table = [
        {"day": day, "query": query, "item_id": item, **{f"{event}s": n for event, n in count.items()}}
        | {"weight": float(count["click"])}
        for (day, query, item), count in counts.items()
    ]
    write_rows(folder / "clicks" / "part-0.parquet", "clicks", table)
    last = max(events)
    _write_lists(folder, last, events[last][0], interleaved)


def _write_lists(folder: Path, day: Any, events: list[dict], interleaved: Sequence[dict[str, Any]]) -> None:
    """What the last day's requests were shown, each place looked at half as often as the one before."""
    lists: dict[str, list[dict]] = {}
    for row in events:
        lists.setdefault(row["request_id"], []).append(row)
    rows = []
    for request, of_request in lists.items():
        places = {row["position"]: row["item_id"] for row in of_request if row["event"] == "impression"}
        done = Counter((row["event"], row["position"]) for row in of_request)
        rows.append(
            {"day": day, "request_id": request, "query": normalise_query(of_request[0]["query"])}
            | {"items": list(places.values()), "positions": list(places)}
            | {f"{event}s": [done[event, place] for place in places] for event in ("click", "order")}
            | {"versions": [""] * len(places), "teams": [""] * len(places)}
        )
    write_rows(folder / "shown_lists" / "part-0.parquet", "shown_lists", [*rows, *interleaved])
    places = [
        {"position": n + 1, "propensity": 0.5**n, "standard_error": 0.0, "impressions": 9, "clicks": 9}
        for n in range(5)
    ]
    write_rows(folder / "propensities" / "part-0.parquet", "propensities", places)


def write_queries(folder: Path, items: list[dict[str, Any]]) -> None:
    rows = [
        {"query": " ".join(words[n:]), "item_id": item["item_id"], "method": "substring"}
        for item in items
        for words in [normalise_query(item["title"]).split()]
        for n in range(3)
    ]
    write_rows(folder / "synthetic_queries" / "part-0.parquet", "synthetic_queries", rows)


def write_labels(folder: Path, events: dict[Any, tuple[list[dict], list[dict]]], items: list[dict[str, Any]]) -> None:
    department = {item["item_id"]: item["category"].split(" > ")[0] for item in items}
    visual = {
        normalise_query(row["query"]): department[row["item_id"]] == "Clothing"
        for rows, _ in events.values()
        for row in rows
        if row["event"] == "click"
    }
    rows = [{"query": q, "is_visual": v, "clicks": 1, "visual_share": float(v)} for q, v in visual.items()]
    write_rows(folder / "fashion_labels" / "part-0.parquet", "fashion_labels", rows)


def write_segments(folder: Path, events: list[dict], items: list[dict[str, Any]]) -> None:
    """Clothing has rich titles, all else sparse ones; every query is in the tier `head`."""
    department = {item["item_id"]: item["category"].split(" > ")[0] for item in items}
    clicks = Counter((normalise_query(e["query"]), e["item_id"]) for e in events if e["event"] == "click")
    facts = {"query_tier": "head", "query_seen": True, "item_seen": True, "day": DAYS[-1], "picture_informative": True}
    rows = [
        {"query": query, "item_id": item, "clicks": count, "department": department[item], **facts}
        | {"is_visual": department[item] == "Clothing", "also_synthetic": False}
        | {"title_kind": "rich" if department[item] == "Clothing" else "sparse"}
        for (query, item), count in sorted(clicks.items())
    ]
    write_rows(folder / "segments" / "part-0.parquet", "segments", rows)


def _write_drift(folder: Path) -> None:
    counts = {"true_queries": 60, "synthetic_queries": 60, "true_vocabulary": 20, "synthetic_vocabulary": 30}
    lengths = {f"{side}_{unit}": 3.0 for side in ("true", "synthetic") for unit in ("words", "characters")}
    shares = {"unknown_true": 0.1, "unknown_synthetic": 0.2, "word_divergence": 0.3, "chance_divergence": 0.1}
    rows = [
        {"scope": scope, "segment": segment, "auc": auc, **counts, **lengths, **shares}
        for scope, segment, auc in (("all", "all", 0.9), ("department", "Books", None), ("method", "substring", 0.8))
    ]
    write_rows(folder / "query_drift" / "part-0.parquet", "query_drift", rows)


def with_champion(run: Run, model_folder: Path) -> Run:
    champion = a_release(
        version="3",
        cutoff="2026-11-01T00:00:00+00:00",
        model_digest=model_digest(model_folder),
        model_folder=str(model_folder),
    )
    return replace(run, champion=champion)
