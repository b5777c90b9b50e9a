"""`smar track`: a run and its stages in MLflow, one parent run and a child for each stage, made from the run's record.

    parent   settings, headline figures, decision, note, code and library versions, digest of the lock; report, decision and checks
    child    the settings it read, inputs with their digests as data sets, metrics, curves by step, what it took of the machine

The record on disk is the truth; tracking may be repeated at any time and only adds what is new. So a tracker that is away loses
nothing: what has finished stays, and the next `smar track` logs it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

from smar_model.lake.artifacts import Artifact
from smar_model.lake.checkout import commit
from smar_model.lake.digests import digest_file
from smar_model.lake.records import read_lines
from smar_model.lake.runs import Run, StageState
from smar_model.lake.shared_files import fetched
from smar_model.lake.stage import resources_file
from smar_model.release.registry import Registry
from smar_model.release.steps import recorded_step, report_outcome
from smar_model.settings import REPOSITORY
from smar_model.stages import REFRESH_STAGES, STAGES
from smar_model.url_secrets import mask_secrets

LAST = ("promote", "publish-index", "rollback")
"""A run is over when one of these has finished."""
STEPS = ("start", *STAGES, *REFRESH_STAGES, "register", *LAST)
"""What runs of any kind do, in order."""
AIRFLOW_URL = "SMAR_AIRFLOW_URL"
"""Variable of the environment in which a DAG's task names the page of its run."""
LIBRARIES = ("torch", "transformers", "timm", "faiss-cpu", "pyspark", "pyarrow", "numpy", "mlflow")
BATCH = 1_000
"""Metrics in one request (MLflow's limit); parameters and tags: 100."""
DOCUMENTS = {
    "measure-drift": ("drift.html",),
    "check-data": ("checks.json", "checks.html"),
    "evaluate": ("evaluation.json",),
    "gate": ("decision.json",),
    "report": ("report.html",),
}


def track_run(run: Run) -> str:
    """Bring the run in MLflow up to date; returns its id. Failed runs are tracked too."""
    with recorded_step(run, "track"):
        registry = Registry(run.settings)
        states = {step: state for step in STEPS if (state := run.state(step))}
        parent = parent_run(registry, run)
        known = {
            r.data.tags["smar.stage"]: r
            for r in registry.client.search_runs(
                [registry.experiment_id()], f"tags.`mlflow.parentRunId` = '{parent}'", max_results=1_000
            )
        }
        for step, state in states.items():
            old = known.get(step)
            if old is None or old.data.tags.get("smar.recorded_at") != state["at"]:
                _track_step(registry, run, parent, step, state, old.info.run_id if old else None)
        _track_parent(registry, run, parent, states)
    address = mask_secrets(page_address(run, registry.experiment_id(), parent))
    print(f"[{run.name}] track: {len(states)} steps in experiment {run.settings.release.experiment!r}: {address}")
    report_outcome(report=address)
    return parent


def served_by_make_ui(run: Run) -> bool:
    """Whether that page is on this machine's own server, which need not run."""
    return not run.settings.tracking_uri.startswith("http") and not os.environ.get("SMAR_MLFLOW_URL")


def page_address(run: Run, experiment: str, parent: str) -> str:
    """Where a browser finds the run in MLflow, at its report if it has one.

    The server is that of `release.tracking_uri`; for the store on disk that of SMAR_MLFLOW_URL, by default the one that `make ui`
    starts.
    """
    tracking = run.settings.tracking_uri
    server = tracking if tracking.startswith("http") else os.environ.get("SMAR_MLFLOW_URL", "http://127.0.0.1:5000")
    page = "/artifacts/report.html" if run.find_output("report") else ""
    return f"{server.rstrip('/')}/#/experiments/{experiment}/runs/{parent}{page}"


def parent_run(registry: Registry, run: Run) -> str:
    """Id of the run's parent in MLflow, made where it is missing."""
    experiment = registry.experiment_id()
    found = registry.client.search_runs([experiment], f"tags.`smar.run` = '{run.name}' and tags.`smar.kind` = 'run'")
    if found:
        return found[0].info.run_id
    tags = {"smar.run": run.name, "smar.kind": "run", "smar.date": str(run.date), "smar.cutoff": run.cutoff.isoformat()}
    tags |= {"smar.champion_before": run.champion.version if run.champion else "none"}
    # The day first: sorted by name, runs are in the order of what they learned from.
    return registry.client.create_run(experiment, run_name=f"{run.date} {run.name}", tags=tags).info.run_id


def _track_step(registry: Registry, run: Run, parent: str, step: str, state: StageState, known: str | None) -> None:
    ended, seconds = _milliseconds(state["at"]), state.get("seconds", 0.0)
    started = ended - int(1_000 * seconds)
    tags = {"mlflow.parentRunId": parent, "smar.run": run.name, "smar.kind": "stage", "smar.stage": step}
    run_id = known or (
        registry.client.create_run(registry.experiment_id(), run_name=step, tags=tags, start_time=started).info.run_id
    )
    values = {"seconds": seconds, **state.get("metrics", {})}
    curves: list[Metric] = []
    tags = {name: str(value) for name, value in values.items() if not _is_number(value)}
    tags |= {"smar.state": state["state"], "smar.recorded_at": state["at"], "smar.host": state["host"]}
    if "message" in state:
        tags["smar.message"] = state["message"][:5_000]
    params: dict[str, str] = {}
    artifact = run.find_output(step) if step in STAGES or step in REFRESH_STAGES else None
    if artifact:
        is_reused = state.get("reused", False)
        tags |= {"smar.reused": str(is_reused), "smar.key": artifact.key, "smar.digest": artifact.digest}
        tags |= {f"input.{name}": digest for name, digest in artifact.manifest["inputs"].items()}
        params = _flat(artifact.manifest["settings"])
        curves = _history(artifact, ended) + _speed(run, step, ended)
        curves += [] if is_reused else _resources(run, step, started)
    drawn = {metric.key for metric in curves}
    metrics = _metrics({name: value for name, value in values.items() if name not in drawn}, ended)
    _log(registry, run_id, metrics + curves, params, tags)
    if artifact and not known:
        registry.client.log_inputs(run_id, _data_sets(run, artifact))
    registry.client.set_terminated(run_id, "FINISHED" if state["state"] == "finished" else "FAILED", end_time=ended)


def _metrics(values: Mapping[str, Any], at: int, *, step: int = 0) -> list[Metric]:
    """Of those that are numbers."""
    return [Metric(name, value, at, step) for name, value in values.items() if _is_number(value)]


def _track_parent(registry: Registry, run: Run, parent: str, states: dict[str, StageState]) -> None:
    finished = {step: state for step, state in states.items() if state["state"] == "finished"}
    failed = [step for step, state in states.items() if state["state"] in {"failed", "killed"}]
    judged = finished.get("evaluate")
    metrics = _metrics(judged.get("metrics", {}), _milliseconds(judged["at"])) if judged else []
    tags = {"smar.failed": ", ".join(failed), "smar.settings": run.settings_source} | code_versions()
    tags["mlflow.note.content"] = _description(run, states)
    if orchestrator := os.environ.get(AIRFLOW_URL):
        tags["smar.airflow"] = orchestrator
    for step in ("gate", "promote", "register"):
        told = finished[step].get("metrics", {}) if step in finished else {}
        tags |= {f"smar.{name}": str(value) for name, value in told.items() if name in _DECISION_TAGS}
    _log(registry, parent, metrics, _flat(run.settings.model_dump(mode="json")), tags)
    for file in (file for stage, names in DOCUMENTS.items() for file in _documents(run, stage, names)):
        registry.client.log_artifact(parent, str(file))
    if failed or finished.keys() & set(LAST):
        registry.client.set_terminated(parent, "FAILED" if failed else "FINISHED")


def code_versions() -> dict[str, str]:
    """Tags: commit, digest of the lock, and versions of the libraries that figures depend on most."""
    tags = {"smar.commit": commit(), "smar.lock": digest_file(REPOSITORY / "requirements.lock")}
    for name in LIBRARIES:
        try:
            tags[f"smar.version.{name}"] = version(name)
        except PackageNotFoundError:  # belongs to stages that run in another environment
            continue
    return tags


def _description(run: Run, states: dict[str, StageState]) -> str:
    """What MLflow shows above the run, in Markdown."""
    lines = [run.note] if run.note else []
    for step in ("gate", "promote"):
        if (state := states.get(step)) and state["state"] == "finished":
            lines.append(f"**{step}**: {state['metrics'].get('verdict') or state['metrics'].get('text')}")
    lines += [
        f"**{step}** {s['state']}: {s.get('message', '')}" for step, s in states.items() if s["state"] != "finished"
    ]
    if orchestrator := os.environ.get(AIRFLOW_URL):
        lines.append(f"[The run in Airflow]({orchestrator})")
    return "\n\n".join(lines)


def _data_sets(run: Run, artifact: Artifact) -> list[DatasetInput]:
    """What the stage read, by content: outputs of earlier stages."""
    found = []
    for name, digest in artifact.manifest["inputs"].items():
        output = run.find_output(name)
        data = Dataset(
            name=name,
            digest=digest[:36],  # MLflow takes no more
            source_type="smar output",
            source=json.dumps({"stage": name, "digest": digest, "folder": str(output.place) if output else None}),
            profile=json.dumps({n: v for n, v in output.metrics.items() if _is_number(v)}) if output else None,
        )
        found.append(DatasetInput(dataset=data, tags=[InputTag("mlflow.data.context", artifact.stage)]))
    return found


_DECISION_TAGS = {"decision", "verdict", "better", "outcome", "version"}


def _documents(run: Run, stage: str, names: tuple[str, ...]) -> list[Path]:
    """A stage's pages; of failed checks the page that was left in the run's folder."""
    artifact = run.find_output(stage)
    if artifact:
        return [artifact.file(name) for name in names if name in artifact.manifest["files"]]
    return [file for name in names if (file := fetched(run.folder / name)).is_file()]


def _history(artifact: Artifact, at: int) -> list[Metric]:
    """Curves of a training stage: `history.json`, a list of {step, loss, …}."""
    if "history.json" not in artifact.manifest["files"]:
        return []
    points = json.loads(artifact.file("history.json").read_text(encoding="utf-8"))
    return [
        metric for point in points for metric in _metrics(point, at, step=int(point["step"])) if metric.key != "step"
    ]


def _speed(run: Run, stage: str, at: int) -> list[Metric]:
    """Pairs a second by step, which the run's folder has of what it trained itself."""
    lines = _lines(run.folder / f"{stage}.history.jsonl", needs={"step", "pairs_per_second"})
    points = {line["step"]: line["pairs_per_second"] for line in lines}
    return [Metric("pairs_per_second", value, at, step) for step, value in points.items()]


def _resources(run: Run, stage: str, began: int) -> list[Metric]:
    """What the stage took of the machine, for MLflow's page of system metrics, which knows them by their prefix."""
    return [
        Metric(f"system/{name}", value, began + int(1_000 * sample["seconds"]), number)
        for number, sample in enumerate(_lines(resources_file(run, stage), needs={"seconds"}))
        for name, value in sample.items()
        if name != "seconds"
    ]


def _lines(file: Path, *, needs: set[str]) -> Iterable[Mapping[str, Any]]:
    """Of a file in the run's folder, where it is there."""
    return read_lines(file, needs=needs) if fetched(file).is_file() else ()


def _log(registry: Registry, run_id: str, metrics: list[Metric], params: dict[str, str], tags: dict[str, str]) -> None:
    old = registry.client.get_run(run_id).data.params  # a parameter cannot be written twice with another value
    # Runs that an older version began may hold passwords in their settings.
    new = [Param(name, mask_secrets(value)) for name, value in params.items() if name not in old]
    changed = [RunTag(name, mask_secrets(value)) for name, value in tags.items()]
    for start in range(0, max(len(metrics), 1), BATCH - 200):
        registry.client.log_batch(
            run_id,
            metrics=metrics[start : start + BATCH - 200],
            params=new[:100] if start == 0 else [],
            tags=changed[:100] if start == 0 else [],
        )
    for start in range(100, len(new), 100):
        registry.client.log_batch(run_id, params=new[start : start + 100])


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in settings.items():
        is_section = isinstance(value, dict) and value
        flat |= _flat(value, f"{prefix}{name}.") if is_section else {f"{prefix}{name}": str(value)[:6_000]}
    return flat


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _milliseconds(iso: str) -> int:
    return int(datetime.fromisoformat(iso).timestamp() * 1_000)
