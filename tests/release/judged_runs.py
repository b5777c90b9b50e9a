"""Runs of the tiny shop that are fit to be released, with untrained models, and what a release is refreshed with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from smar_model.lake.artifacts import Artifact
from smar_model.lake.digests import digest_json
from smar_model.lake.publishing import Attempt
from smar_model.lake.runs import Run, load_run
from smar_model.lake.stage import run_stage
from smar_model.release.start import start_run
from smar_model.stages import REFRESH_STAGES, STAGES
from smar_model.training.model_files import new_model, save_model
from tests.evaluation.published_run import NETWORK, publish_run, write_items
from tests.tiny_shop import ANY_MODEL, LAST_DAY, tiny_items, tiny_settings

EASY = ANY_MODEL | {"over_popularity": 0.0, "over_bm25": 0.0, "champion_margin": 1.0, "minimum_queries": 1}


def write_settings(home: Path, **sections: Any) -> Path:
    content = tiny_settings(home / "shop", **{"network": NETWORK} | sections).model_dump(mode="json")
    path = home / f"settings-{len(list(home.glob('settings-*')))}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def judged_run(
    home: Path,
    name: str,
    *,
    seed: int,
    network: dict[str, Any] | None = None,
    release: dict[str, Any] | None = None,
    index: dict[str, Any] | None = None,
    drawn: bool = True,
    **gate: Any,
) -> Run:
    """A run with an untrained model of this seed, really embedded, indexed, evaluated, reported and judged.

    Args:
        drawn: whether the report is; else it is an empty page, in half of the time.
    """
    sections = {
        "network": NETWORK if network is None else network,
        "gate": EASY | gate,
        "evaluation": {"bootstrap_samples": 50, "shown_queries": 2},
        "release": release or {},
        "index": index or {},
    }
    path = write_settings(home, **sections)
    start_run(settings_path=path, name=name, day=LAST_DAY, window_days=None, promotion="automatic", steps=())
    published = publish_run(home / "shop", with_truth=False, name=name, **sections)
    _publish_model(published.run, seed)
    published.publish_model("train-text-only", variant="text_only", seed=seed)
    for stage in ("embed", "index", "evaluate", "gate", *(["report"] if drawn else [])):
        run_stage(STAGES[stage], published.run)
    if not drawn:
        published.publish("report", _write_page)
    published.publish("mine-negatives", lambda folder: None)
    return load_run(name)


def _write_page(folder: Path) -> None:
    (folder / "report.html").write_text("<!DOCTYPE html>", encoding="utf-8")


def _publish_model(run: Run, seed: int) -> None:
    import torch

    torch.manual_seed(seed)
    tokenizer = run.output("train-tokenizer")
    settings = run.settings
    model = new_model(
        settings.network,
        vocabulary=tokenizer.metrics["vocabulary"],
        query_length=settings.tokenizer.query_length,
        item_length=settings.tokenizer.item_length,
        pictures=settings.pictures,
    )
    attempt = Attempt("finetune", f"{run.name}-{seed}")
    save_model(model, attempt.folder / "model", tokenizer.file("tokenizer.json"))
    history = [{"step": step, "loss": 1 / step, "text": 2.0, "watched/gate_share": 0.5} for step in range(1, 1_501)]
    (attempt.folder / "history.json").write_text(json.dumps(history), encoding="utf-8")
    live = [json.dumps(point | {"pairs_per_second": 10.0 * point["step"]}) for point in history]
    (run.folder / "finetune.history.jsonl").write_text("\n".join(live), encoding="utf-8")
    artifact = attempt.publish(metrics={"loss": 0.5}, inputs={"pretrain": "abc"}, settings={"training": {"seed": seed}})
    state = {"reused": False, "seconds": 1.5, "metrics": artifact.metrics, "folder": str(artifact.folder)}
    run.write_state("finetune", "finished", key=artifact.key, **state)


def refresh_run(home: Path, name: str, *, release: str, release_settings: dict[str, Any] | None = None) -> Run:
    """A run that has refreshed the index of a release, with the tiny shop's catalogue but for its last item.

    Args:
        release: as `smar start --release` takes it.
    """
    settings = write_settings(home, release=release_settings or {})
    run = start_run(settings_path=settings, name=name, day=LAST_DAY, promotion="automatic", steps=(), release=release)
    attempt = Attempt("prepare-items", digest_json([name, "another catalogue"]))
    write_items(attempt.folder, tiny_items()[:-1])
    run.take(attempt.publish(metrics={}, inputs={}, settings={}), stage="prepare-items")
    for stage in REFRESH_STAGES.values():
        run_stage(stage, run)
    return run


def refreshed_index(home: Path, run: Run, name: str, *, items: list[dict[str, Any]] | None = None) -> Artifact:
    """An index of the run's own model over another catalogue, made by the stages themselves.

    Args:
        items: rows of the catalogue; by default that of the tiny shop without its last item.
    """
    refreshed = publish_run(home / "shop", with_truth=False, name=name).run
    refreshed.take(run.output("finetune"), stage="finetune")
    attempt = Attempt("prepare-items", digest_json([name, "another catalogue"]))
    write_items(attempt.folder, tiny_items()[:-1] if items is None else items)
    another = attempt.publish(metrics={}, inputs={}, settings={})
    refreshed.write_state("prepare-items", "finished", key=another.key)
    for stage in ("embed", "index"):
        run_stage(STAGES[stage], refreshed)
    return refreshed.output("index")
