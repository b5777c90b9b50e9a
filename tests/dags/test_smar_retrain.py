"""The DAG as Airflow reads it: wiring, parameters, pools; and that reading it needs nothing but Airflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smar_model.settings import REPOSITORY
from smar_model.stages import STAGES

DESCRIBE = """
import json, sys
from pathlib import Path
from airflow.dag_processing.dagbag import BundleDagBag
folder = Path(sys.argv[1])
bag = BundleDagBag(dag_folder=str(folder), bundle_path=folder, bundle_name="dags-folder")
heavy = {"torch", "pyspark", "pandas", "smar_model", "mlflow", "jobs"} & {name.split(".")[0] for name in sys.modules}
from airflow.serialization.serialized_objects import DagSerialization
def describe(dag):
    DagSerialization.serialize_dag(dag)
    return {
        "doc": dag.doc_md,
        "schedule": dag.timetable.expression,
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "groups": sorted(g for g in dag.task_group.children),
        "params": {name: param.schema | {"default": param.value, "description": param.description} for name, param in
                   ((n, dag.params.get_param(n)) for n in dag.params)},
        "tasks": {
            t.task_id: {
                "upstream": sorted(t.upstream_task_ids), "all_upstream": sorted(t.get_flat_relative_ids(upstream=True)),
                "downstream": sorted(t.downstream_task_ids), "rule": str(t.trigger_rule.value), "pool": t.pool,
                "retries": t.retries, "timeout": t.execution_timeout is not None,
                "arguments": getattr(t, "arguments", None), "links": [link.name for link in t.operator_extra_links],
            }
            for t in dag.tasks
        },
        "paused": dag.is_paused_upon_creation,
    }
dags = {name: describe(dag) for name, dag in bag.dags.items()}
print("JSON:" + json.dumps({"errors": bag.import_errors, "dags": dags, "heavy": sorted(heavy)}))
"""


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Parsed in a process of its own, from another folder, so that nothing of ours is importable by accident."""
    folder = tmp_path_factory.mktemp("airflow")
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "SMAR_SETTINGS"}}
    environment |= {"AIRFLOW_HOME": str(folder), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    done = subprocess.run(
        [sys.executable, "-c", DESCRIBE, str(REPOSITORY / "dags")],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "JSON:" in done.stdout, done.stderr
    return json.loads(done.stdout.split("JSON:")[1])


@pytest.fixture(scope="module")
def dag(parsed: dict[str, Any]) -> dict[str, Any]:
    assert parsed["errors"] == {}
    return parsed["dags"]["smar_retrain"]


def test_the_folder_holds_two_dags_and_needs_airflow_alone(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    assert set(parsed["dags"]) == {"smar_retrain", "smar_oracle"}
    assert parsed["heavy"] == []


def test_the_oracle_is_trained_on_checked_tables_and_only_where_asked_for(parsed: dict[str, Any]) -> None:
    oracle = parsed["dags"]["smar_oracle"]
    assert oracle["paused"] is True, "most shops have no truth"
    assert oracle["schedule"] == "0 12 * * 0"
    assert oracle["max_active_runs"] == 1
    tasks = oracle["tasks"]
    assert [name for name, task in tasks.items() if not task["downstream"]] == ["train-oracle"]
    assert set(tasks) - {"shop-open", "start", "train-oracle"} < set(STAGES)
    for stage in set(tasks) & set(STAGES):
        assert {*STAGES[stage].inputs, "start"} <= set(tasks[stage]["all_upstream"])
    needed = {*STAGES["train-tokenizer"].inputs, "start"}
    assert needed <= set(tasks["train-oracle"]["all_upstream"])
    assert tasks["train-oracle"]["pool"] == "training"
    assert all(task["timeout"] and task["arguments"][0] in {name, "shop"} for name, task in tasks.items())
    assert tasks["start"]["arguments"][-2:] == ["--promotion", "never"]


def test_the_report_is_a_click_away_from_the_run(dag: dict[str, Any]) -> None:
    assert {name: task["links"] for name, task in dag["tasks"].items() if task["links"]} == {"track": ["Report"]}
    assert {"gate", "evaluate"} <= set(dag["tasks"]["report"]["all_upstream"]), "it tells the decision"
    assert "report" in dag["tasks"]["register"]["all_upstream"], "the model version holds it"


def test_every_stage_is_a_task_and_its_inputs_are_upstream(dag: dict[str, Any]) -> None:
    others = {"shop-open", "start", "register", "promote", "track", "text_only_settled", "watcher"}
    assert set(dag["tasks"]) == set(STAGES) | others
    for stage in STAGES.values():
        task = dag["tasks"][stage.name]
        missing = {*stage.inputs, *stage.optional_inputs, "start"} - set(task["all_upstream"])
        assert not missing, f"{stage.name} would run before {missing}"
        assert task["arguments"] == [stage.name, "--run", "{{ run_name(run_id) }}"]


def test_a_failed_baseline_does_not_block_the_release_but_any_failure_turns_the_run_red(dag: dict[str, Any]) -> None:
    tasks = dag["tasks"]
    assert (
        tasks["text_only_settled"] | {"rule": "all_done", "upstream": ["train-text-only"]} == tasks["text_only_settled"]
    )
    assert "train-text-only" not in {up for t in ("evaluate", "report", "promote") for up in tasks[t]["upstream"]}
    assert tasks["track"]["rule"] == "all_done"
    leaves = [name for name, task in tasks.items() if not task["downstream"]]
    assert leaves == ["watcher"]
    assert tasks["watcher"]["rule"] == "one_failed"
    # one_failed looks at direct upstreams: whatever fails has to reach one of these as failed or upstream_failed.
    normal = {name for name, task in tasks.items() if task["rule"] == "all_success"}
    for name in normal - {"text_only_settled"}:
        path, seen = [name], set()
        while path and "watcher" not in tasks[path[-1]]["downstream"]:
            seen.add(path[-1])
            onward = [d for d in tasks[path[-1]]["downstream"] if d in normal and d not in seen]
            assert onward, f"a failure of {name} would not reach the watcher"
            path.append(onward[0])


def test_training_takes_turns_and_everything_is_bounded(dag: dict[str, Any]) -> None:
    tasks = dag["tasks"]
    torch = {"adapt-vision", "encode-pictures", "pretrain", "finetune", "train-text-only", "embed", "index", "evaluate"}
    torch |= {"mine-negatives"}
    assert {name for name, task in tasks.items() if task["pool"] == "training"} == torch
    commands = [task for task in tasks.values() if task["arguments"]]
    assert all(task["timeout"] and task["retries"] == 2 for task in commands)
    assert tasks["watcher"]["retries"] == 0
    assert dag["max_active_runs"] == 1
    assert dag["catchup"] is False
    assert dag["schedule"] == "0 4 * * *"
    assert {"data", "training", "judging", "release"} <= set(dag["groups"])


def test_the_form_states_types_and_bounds(dag: dict[str, Any]) -> None:
    params = dag["params"]
    assert params["date"]["type"] == ["null", "string"]
    assert params["date"]["format"] == "date"
    assert params["window_days"]["minimum"] == 2
    assert params["settings"]["default"] == "configs/sample_shop.yaml"
    assert (REPOSITORY / params["settings"]["default"]).is_file()
    assert params["promotion"]["default"] == "automatic"
    assert all(param["description"] for param in params.values())
    assert dag["doc"].lstrip().startswith("# smar_retrain")


def test_dates_work_on_manual_runs_without_a_logical_date(dag: dict[str, Any]) -> None:
    given = dag["tasks"]["start"]["arguments"]
    date = given[given.index("--date") + 1]
    assert "{{ ds }}" not in date
    assert "dag_run.run_after" in date


def test_no_file_of_the_dag_folder_names_this_machine() -> None:
    for file in Path(REPOSITORY / "dags").glob("*.py"):
        assert str(REPOSITORY) not in file.read_text(encoding="utf-8")
