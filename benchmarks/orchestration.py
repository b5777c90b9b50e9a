"""What orchestration costs: time to parse each DAG, and a whole daily run whose stages do nothing. Figures of orchestration.md.

    python -m benchmarks.orchestration --folder FOLDER [--airflow-python PYTHON] [--runs 3]

Parsing is measured under `--airflow-python`, an interpreter with Airflow and its providers alone (default: this one), each file in a
process of its own: the imports that come with it, and the file again once they are there, which is what a DAG processor does every
time. The run goes through the real scheduler (LocalExecutor on SQLite, as `make ui` starts it) with a shell script in the place of
the stages' interpreter, so that all of its time is Airflow's. Makes FOLDER its SMAR_HOME; prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

from laptop.airflow_environment import LOGIN, environment, one_at_a_time, password, prepare
from laptop.processes import adopt_orphans, end_all
from laptop.ui import COMPONENTS, airflow_is_healthy, free_port, start
from smar_model.settings import REPOSITORY

DAG = "smar_retrain"
PARSE = """
import json, sys, time
from pathlib import Path
begun = time.perf_counter()
from airflow.dag_processing.dagbag import BundleDagBag
imported = time.perf_counter() - begun
file = Path(sys.argv[1])
def parse():
    # As for a file that the processor has not seen: modules of the DAG folder are read again.
    for name in [n for n, m in sys.modules.items() if str(getattr(m, "__file__", "") or "").startswith(str(file.parent))]:
        del sys.modules[name]
    begun = time.perf_counter()
    bag = BundleDagBag(dag_folder=str(file), bundle_path=file.parent, bundle_name="dags-folder")
    assert bag.dags and not bag.import_errors, bag.import_errors
    return time.perf_counter() - begun
print(json.dumps({"airflow": imported, "first": parse(), "again": min(parse() for _ in range(3))}))
"""
STAND_IN = '#!/bin/sh\necho "[x] $3: promoted: done"\n'


def measure_parsing(python: str, folder: Path, runs: int) -> dict[str, dict[str, float]]:
    """DAG file → medians in seconds: `airflow` (importing it), `first` (the file with what it imports), `again`."""
    variables = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"}
    variables |= {"AIRFLOW_HOME": str(folder / "parsing"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(runs):
        for file in sorted((REPOSITORY / "dags").glob("smar_*.py")):
            done = subprocess.run(
                [python, "-c", PARSE, str(file)], env=variables, cwd=folder, capture_output=True, text=True, check=True
            )
            found.setdefault(file.stem, []).append(json.loads(done.stdout.splitlines()[-1]))
    return {
        name: {what: statistics.median(run[what] for run in each) for what in each[0]} for name, each in found.items()
    }


def measure_runs(folder: Path, runs: int) -> list[dict[str, Any]]:
    """Daily runs that do nothing: `seconds` from queued to ended, `stages`, `tasks`, `levels`, `waiting` between tasks."""
    stand_in = folder / "stand-in"
    stand_in.write_text(STAND_IN, encoding="utf-8")
    stand_in.chmod(0o755)
    port = free_port(8080)
    with one_at_a_time():
        prepare()
        variables = environment(port=port) | {"SMAR_PYTHON": str(stand_in)}
        adopt_orphans()
        try:
            for name, command in COMPONENTS.items():
                start(name, ["airflow", *command], variables)
            _until(lambda: airflow_is_healthy(port), 180)
            api = Api(port)
            _until(lambda: api.known(DAG), 180)
            return [_one_run(api) for _ in range(runs)]
        finally:
            end_all()


class Api:
    """Airflow's public REST API."""

    def __init__(self, port: int) -> None:
        self.root, self.token = f"http://127.0.0.1:{port}", ""
        self.token = self.ask("/auth/token", {"username": LOGIN, "password": password()})["access_token"]

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.root + path, content, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def known(self, dag: str) -> bool:
        return any(found["dag_id"] == dag for found in self.ask("/api/v2/dags?limit=100")["dags"])


def _one_run(api: Api) -> dict[str, Any]:
    run = api.ask(f"/api/v2/dags/{DAG}/dagRuns", {"logical_date": None})["dag_run_id"]
    path = f"/api/v2/dags/{DAG}/dagRuns/{run}"
    _until(lambda: api.ask(path)["state"] in {"success", "failed"}, 600)
    ended, tasks = api.ask(path), api.ask(f"{path}/taskInstances?limit=200")["task_instances"]
    assert ended["state"] == "success", ended
    ran = [task for task in tasks if task["state"] == "success"]
    in_tasks = [_moment(task["end_date"]) - _moment(task["start_date"]) for task in ran]
    return {
        "seconds": _moment(ended["end_date"]) - _moment(ended["queued_at"]),
        "stages": sum(task["operator"] in {"SmarOperator", "TrackOperator", "TextOperator"} for task in ran),
        "tasks": len(ran),
        "task": statistics.median(in_tasks),
    }


def _moment(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()


def _until(true: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so after {seconds:g} s")
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--airflow-python", default=sys.executable)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    os.environ["SMAR_HOME"] = str(arguments.folder.resolve())
    print("| DAG | with its imports, s | again, s | importing Airflow, s |\n| --- | --- | --- | --- |")
    for name, of in measure_parsing(arguments.airflow_python, arguments.folder.resolve(), arguments.runs).items():
        print(f"| `{name}` | {of['first']:.2f} | {of['again']:.2f} | {of['airflow']:.2f} |", flush=True)
    print(
        "\n| run | stages | tasks | seconds | a stage | median inside a task |\n| --- | --- | --- | --- | --- | --- |"
    )
    for number, run in enumerate(measure_runs(arguments.folder.resolve(), arguments.runs), start=1):
        each = run["seconds"] / run["stages"]
        print(
            f"| {number} | {run['stages']} | {run['tasks']} | {run['seconds']:.1f} | {each:.2f} | {run['task']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
