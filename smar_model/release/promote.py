"""`smar promote`: move the alias `champion` to the run's version, if the gate said so; and the history of releases."""

from __future__ import annotations

import json
import math
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from smar_model.errors import InputError
from smar_model.lake.runs import Run
from smar_model.release.lease import registry_lease
from smar_model.release.register import registration
from smar_model.release.registry import CHAMPION, Registry
from smar_model.release.steps import recorded_step
from smar_model.settings import home


def promote_run(run: Run) -> str:
    """Promote the run's version where the gate and the run allow it.

    Returns:
        The outcome: `promoted`, `unchanged` (it is the champion already) or `kept` (the champion stays: a normal end).

    Raises:
        InputError: the run is not registered or has no decision, or the version does not load and answer a query.
    """
    with recorded_step(run, "promote") as details:
        outcome, text = _promote(run)
        details["metrics"] = {"outcome": outcome, "text": text}
    print(f"[{run.name}] promote: {text}")
    return outcome


def _promote(run: Run) -> tuple[str, str]:
    decision = json.loads(run.output("gate").file("decision.json").read_text(encoding="utf-8"))
    version = registration(run)["version"]
    if not decision["promote"]:
        return "kept", f"version {version} is not promoted; {decision['verdict']}"
    if run.promotion == "never":
        return "kept", f"version {version} passed the gate, but this run was started with --promotion never"
    registry = Registry(run.settings)
    with registry_lease(purpose=f"promote {run.name}") as lease:
        before = registry.aliased(CHAMPION)
        entry: dict[str, Any] = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "action": "promote",
            "model": registry.name,
            "from": before,
            "to": version,
            "run": run.name,
            "date": str(run.date),
            "evidence": {"reasons": decision["reasons"]},
        }
        if before == version:
            if version not in [line["to"] for line in read_history() if line["model"] == registry.name]:
                # The process that moved the alias died before it could write this down.
                append_history(entry | {"from": None, "action": "found as champion"})
            return "unchanged", f"version {version} is the champion already"
        met = run.champion["version"] if run.champion else None
        if before != met:
            return "kept", (
                f"version {version} is not promoted: the champion became version {before} while this run, which was "
                f"compared with {f'version {met}' if met else 'none'}, was under way; start a new run"
            )
        entry["evidence"]["answered"] = check_answers(registry, version)
        lease.verify()
        registry.client.set_registered_model_alias(registry.name, CHAMPION, version)
        registry.client.set_model_version_tag(registry.name, version, "smar.promoted_at", entry["at"])
        registry.client.set_model_version_tag(registry.name, version, "smar.promoted_from", before or "none")
        append_history(entry)
    return "promoted", f"version {version} is the champion" + (f", in place of version {before}" if before else "")


def check_answers(registry: Registry, version: str) -> dict[str, Any]:
    """Open the version as readers do and as MLflow serves it, and ask it for one of its own items by title.

    Returns:
        The query, how many items it found, and P(q).

    Raises:
        InputError: it does not load, its index was built by another model, or it does not answer.
    """
    import mlflow
    import pandas as pd

    from smar_model.retrieval.search import Searcher

    release = registry.release(version)
    searcher = Searcher.load(Path(release["model_folder"]), Path(release["index_folder"]))
    query = searcher.items["title"][0]
    found, p = searcher.search([query], k=10)
    served = mlflow.pyfunc.load_model(release["folder"]).predict(pd.DataFrame({"query": [query]}), params={"k": 10})
    scores = [hit.score for hit in found[0]] + list(served["score"][0])
    if not found[0] or not len(served["score"][0]) or not all(map(math.isfinite, [*scores, float(p[0])])):
        raise InputError(f"version {version}: no usable answer to {query!r}, scores {scores}; it is not released")
    return {"query": query, "found": len(found[0]), "p": float(p[0])}


def history_file() -> Path:
    return home() / "releases.jsonl"


def append_history(entry: dict[str, Any]) -> None:
    """Add a line to the history, which is never rewritten."""
    with history_file().open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_history() -> list[dict[str, Any]]:
    """Every release, oldest first; empty before the first."""
    if not history_file().is_file():
        return []
    return [json.loads(line) for line in history_file().read_text(encoding="utf-8").splitlines()]
