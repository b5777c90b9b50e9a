"""The daily run on the parts of a cluster, all on this machine: Airflow's four components on PostgreSQL, Spark's standalone cluster,
MLflow's server on PostgreSQL, its artifacts and the lake in S3, against the same run on a laptop's defaults.

3,000 real products where SMAR_REAL_DATA is set, else the sample shop. The scheduler is killed while the model is trained.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import yaml

from smar_model.lake.runs import load_run
from smar_model.lake.shared_files import fetch_folder
from smar_model.release.registry import CHAMPION, Registry
from smar_model.settings import REPOSITORY, load_settings
from smar_model.stages import STAGES
from tests.cluster.redis_server import running_redis
from tests.cluster.spark_cluster import SparkCluster, running_spark
from tests.s3_server import BUCKET, running_s3, s3_client
from tests.services.airflow_api import AirflowApi
from tests.services.operated_shop import operated_settings, write_operated_shop
from tests.services.results import record
from tests.services.run_times import describe_times
from tests.services.stack import CELERY_WORKERS, Stack, running_stack
from tests.tiny_shop import LAST_DAY

DATE = "2026-11-19"
TOLERANCE = 1e-4
"""Of the laptop's figures, shares of 1."""
JOBS = [name for name, stage in STAGES.items() if stage.work.startswith("jobs.")]
VARIABLES = {
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
    # How often a scheduler looks for tasks of one that was killed, to try them again; by default every five minutes.
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The store, and the key of the team whose machines share it."""
    key = tmp_path_factory.mktemp("keys") / "signing_key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key)], check=True)
    key.chmod(0o600)
    with running_s3() as variables:
        yield variables | {"SMAR_SIGNING_KEY": str(key)}


@pytest.fixture(scope="module")
def spark(s3: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkCluster]:
    with running_spark(tmp_path_factory.mktemp("spark") / "cluster", variables=s3) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def stack(s3: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("cluster") / "var"
    shops = {"SMAR_SETTINGS": str(home.parent / "shop.yaml")}
    shared = s3 | {"SMAR_STORE": f"s3://{BUCKET}/smar"}
    with running_stack(home, VARIABLES | shared | shops, artifacts=f"s3://{BUCKET}/mlflow") as stack:
        yield stack


@pytest.fixture(scope="module")
def airflow(stack: Stack) -> AirflowApi:
    return AirflowApi(address=stack.airflow, user=stack.user, password=stack.password)


def shop_settings(**changes: Any) -> dict[str, Any]:
    """A shop's settings, with sections that differ."""
    name = "real_products" if "SMAR_REAL_DATA" in os.environ else "sample_shop"
    content = yaml.safe_load((REPOSITORY / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))
    if name == "real_products":
        content["shop"]["simulation"] |= {"items": 3_000, "requests_per_day": 3_000}
    content["training"]["pretrain"]["steps"] = content["training"]["finetune"]["steps"] = 800
    return content | changes


def outcome(home: Path, run: str, variables: dict[str, str] | None = None) -> dict[str, Any]:
    """Digests of the tables that Spark made, and what the evaluation measured."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ({"SMAR_HOME": str(home)} | (variables or {})).items():
            patch.setenv(name, value)
        record = load_run(run)
        evaluation = record.output("evaluate").metrics
        return {
            "tables": {job: record.output(job).manifest["content"] for job in JOBS},
            "metrics": {name: value for name, value in evaluation.items() if isinstance(value, float)},
        }


def made_on(machine: Path) -> set[str]:
    """Stages whose outputs a machine, by its home folder, has made and not fetched."""
    return {owner.parents[2].name for owner in machine.glob("lake/*/attempts/*/.owner.json")}


def fetched_record(home: Path, variables: dict[str, str]) -> Path:
    """Folder of the first run, as a machine sees it that has nothing of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ({"SMAR_HOME": str(home)} | variables).items():
            patch.setenv(name, value)
        fetch_folder(home / "runs")
    return min((home / "runs").glob("manual*/finetune.json")).parent


def test_a_run_whose_scheduler_is_killed_equals_the_laptops(
    stack: Stack, airflow: AirflowApi, spark: SparkCluster, s3: dict[str, str], tmp_path: Path
) -> None:
    settings = Path(stack.variables["SMAR_SETTINGS"])
    release = {"tracking_uri": stack.mlflow, "model": "cluster", "experiment": "cluster"}
    content = shop_settings(spark={"shuffle_partitions": 4} | spark.settings, release=release)
    settings.write_text(yaml.safe_dump(content), encoding="utf-8")
    for dag in ("smar_retrain", "smar_refresh_index"):
        airflow.turn_on(dag)
    run = airflow.trigger("smar_retrain", date=DATE)
    airflow.wait_for_task("smar_retrain", run, "pretrain", ["running"])
    sleep(5)
    stack.kill("scheduler")
    stack.start("scheduler")
    assert airflow.wait("smar_retrain", run) == "success", airflow.states("smar_retrain", run)
    attempts = {task["task_id"]: task["try_number"] for task in airflow.tasks("smar_retrain", run)}
    assert attempts["pretrain"] > 1, attempts

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(stack.home))
        registry = Registry(load_settings(settings))
        champion = registry.aliased(CHAMPION)
    assert champion == "1"
    stored = {
        prefix: sum(page["KeyCount"] for page in pages.paginate(Bucket=BUCKET, Prefix=f"{prefix}/"))
        for pages in [s3_client(s3).get_paginator("list_objects_v2")]
        for prefix in ("mlflow", "smar/lake", "smar/runs")
    }
    assert all(stored.values()), stored

    refresh = airflow.trigger("smar_refresh_index")
    assert airflow.wait("smar_refresh_index", refresh) == "success", airflow.states("smar_refresh_index", refresh)

    laptop = tmp_path / "laptop"
    laptop.mkdir()
    plain = laptop / "shop.yaml"
    plain.write_text(yaml.safe_dump(shop_settings(spark={"shuffle_partitions": 4})), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "laptop.retrain", "--settings", str(plain), "--date", DATE],
        env=os.environ | {"SMAR_HOME": str(laptop / "var"), "OMP_WAIT_POLICY": "passive"},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3_000:]
    (laptop_run,) = [
        folder.name for folder in (laptop / "var" / "runs").iterdir() if (folder / "evaluate.json").is_file()
    ]
    (cluster_run,) = [folder.name for folder in (stack.home / "runs").iterdir() if (folder / "evaluate.json").is_file()]
    shared = s3 | {"SMAR_STORE": stack.variables["SMAR_STORE"]}
    # Read by a machine that has nothing of its own.
    here, there = outcome(laptop / "var", laptop_run), outcome(tmp_path / "empty", cluster_run, shared)
    assert there["tables"] == here["tables"]
    differences = {name: abs(there["metrics"][name] - value) for name, value in here["metrics"].items()}
    quality = {name: d for name, d in differences.items() if "seconds" not in name and "_ms" not in name}
    assert quality and max(quality.values()) <= TOLERANCE, quality
    shop = "3,000 real products" if content["shop"]["kind"] == "real_products" else "The sample shop"
    record(
        "The daily run on a cluster's parts",
        [
            f"{shop}; Spark's standalone master with two workers, Airflow with LocalExecutor on PostgreSQL, MLflow on PostgreSQL; "
            f"in S3 MLflow's artifacts ({stored['mlflow']} objects), the lake ({stored['smar/lake']}) and the records of runs ({stored['smar/runs']}). The "
            f"scheduler was killed during pretraining, which was tried {attempts['pretrain']} times; the refresh after it was green.",
            "",
            f"Tables of the {len(JOBS)} Spark jobs: equal to the laptop's by digest. Largest difference of {len(quality)} figures of the evaluation: "
            f"{max(quality.values()):.1g} (allowed: {TOLERANCE:g}).",
            "",
            *describe_times(airflow, "smar_retrain", {"the run": (run, stack.home / "runs" / cluster_run)}),
        ],
        page="cluster",
    )


def test_celery_sends_tasks_to_their_queues(s3: dict[str, str], tmp_path: Path) -> None:
    home = tmp_path / "var"
    variables = VARIABLES | s3 | operated_settings(home) | {"SMAR_STORE": f"s3://{BUCKET}/celery-smar"}
    with (
        running_redis(tmp_path / "redis") as redis,
        running_stack(home, variables, artifacts=f"s3://{BUCKET}/celery", redis=redis) as stack,
    ):
        write_operated_shop(home, tracking_uri=stack.mlflow)
        airflow = AirflowApi(address=stack.airflow, user=stack.user, password=stack.password)
        airflow.turn_on("smar_retrain")
        run = airflow.trigger("smar_retrain", date=str(LAST_DAY))
        assert airflow.wait("smar_retrain", run) == "success", airflow.states("smar_retrain", run)
        tasks = {task["task_id"]: task for task in airflow.tasks("smar_retrain", run)}
        queues = {name: tasks[name]["queue"] for name in ("start", "check-data", "finetune", "gate")}
        assert queues == {"start": "default", "check-data": "spark", "finetune": "gpu", "gate": "default"}
        made = {name: made_on(home / "machines" / name) for name in CELERY_WORKERS}
        assert (
            made["worker-heavy"] >= {"extract-clicks", "finetune"}
            and "report" in made["worker-quick"]
            and not made["worker-quick"] & made["worker-heavy"]
        )
        # The quick worker meets the release when the next run starts; the heavy one, which judges, has to bring its model.
        second = airflow.trigger("smar_retrain", date=str(LAST_DAY), seed=1, promotion="never")
        assert airflow.wait("smar_retrain", second) == "success", airflow.states("smar_retrain", second)
        assert list((home / "machines" / "worker-heavy" / "registry-cache").glob("tiny-1"))
        records = fetched_record(tmp_path / "empty", s3 | {"SMAR_STORE": variables["SMAR_STORE"]})
        times = describe_times(airflow, "smar_retrain", {"the run": (run, records)})
    record(
        "The daily run with Celery",
        [
            "The tiny shop of the tests; Redis, one worker for the queues `spark` and `gpu`, one for `default`, each with a home folder of its own: what "
            "one makes the other has from the lake in S3, models of releases from MLflow.",
            "",
            *times,
        ],
        page="cluster",
    )
