"""The DAG folder as Airflow's DAG processor reads it, in a process where nothing but Airflow can be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smar_model.settings import REPOSITORY
from tests.patience import PATIENCE_SECONDS

DESCRIBE = """
import importlib.abc, json, os, sys
from pathlib import Path

REFUSED = {"smar_model", "jobs", "laptop", "torch", "pyspark", "pandas", "numpy", "pyarrow", "mlflow", "sklearn", "great_expectations"}

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"an environment with Airflow alone has no {name}", name=name)

sys.meta_path.insert(0, Refuse())
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.serialization.serialized_objects import DagSerialization

folder = Path(sys.argv[1])
bag = BundleDagBag(dag_folder=str(folder), bundle_path=folder, bundle_name="dags-folder")

def describe(dag):
    DagSerialization.serialize_dag(dag)
    timetable = getattr(dag.timetable, "timetable", dag.timetable)
    return {
        "doc": dag.doc_md,
        "schedule": getattr(timetable, "expression", None),
        "follows": [asset.name for asset in getattr(getattr(dag.timetable, "asset_condition", None), "objects", ())],
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "paused": dag.is_paused_upon_creation,
        "groups": sorted(dag.task_group.children),
        "params": {name: param.schema | {"default": None if param.value.__class__.__name__ == "ArgNotSet" else param.value,
                   "required": param.value.__class__.__name__ == "ArgNotSet", "description": param.description}
                   for name, param in ((n, dag.params.get_param(n)) for n in dag.params)},
        "notices": dag.on_failure_callback is not None,
        "deadline": [d.interval.total_seconds() for d in dag.deadline or ()],
        "tasks": {t.task_id: {
            "upstream": sorted(t.upstream_task_ids), "all_upstream": sorted(t.get_flat_relative_ids(upstream=True)),
            "downstream": sorted(t.downstream_task_ids), "rule": str(t.trigger_rule.value), "pool": t.pool, "mapped": t.is_mapped,
            "retries": t.retries, "timeout": t.execution_timeout and t.execution_timeout.total_seconds(),
            "arguments": (t.partial_kwargs if t.is_mapped else vars(t)).get("arguments"),
            "required": getattr(t, "required", None), "outlets": [asset.name for asset in t.outlets],
            "links": [link.name for link in t.operator_extra_links],
            "answer_seconds": getattr(t, "response_timeout", None) and t.response_timeout.total_seconds(),
            "defaults": getattr(t, "defaults", None),
        } for t in dag.tasks},
    }

print("JSON:" + json.dumps({"errors": bag.import_errors, "dags": {name: describe(dag) for name, dag in bag.dags.items()}}))
"""


@pytest.fixture(scope="session")
def parse(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    def parse(**variables: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("airflow")
        environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH" and not n.startswith("SMAR_")}
        environment |= {"AIRFLOW_HOME": str(folder), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"} | variables
        done = subprocess.run(
            [sys.executable, "-c", DESCRIBE, str(REPOSITORY / "dags")],
            env=environment,
            cwd=folder,  # nothing of ours is importable by accident
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert "JSON:" in done.stdout, done.stderr
        return json.loads(done.stdout.split("JSON:")[1])

    return parse


@pytest.fixture(scope="session")
def parsed(parse: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return parse()


@pytest.fixture(scope="session")
def dags(parsed: dict[str, Any]) -> dict[str, Any]:
    assert parsed["errors"] == {}
    return parsed["dags"]


def pools() -> set[str]:
    return set(json.loads(Path(REPOSITORY / "dags" / "pools.json").read_text(encoding="utf-8")))
