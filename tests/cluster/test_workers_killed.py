"""A worker of Spark's cluster is killed, with its executor, while a job runs: the job ends, and with the same tables."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from smar_model.lake.runs import load_run
from smar_model.settings import REPOSITORY
from smar_model.stages import STAGES
from tests.cluster.spark_cluster import SparkCluster, running_spark
from tests.patience import PATIENCE_SECONDS

JOBS = [name for name, stage in STAGES.items() if stage.work.startswith("jobs.")]
DATE = "2026-11-19"
RUN = "killed"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkCluster]:
    with running_spark(tmp_path_factory.mktemp("spark") / "cluster") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def homes(cluster: SparkCluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same run of the sample shop on this machine alone, whose jobs have all ended, and on the cluster, where none has begun."""
    homes = {}
    for place in ("laptop", "cluster"):
        home = homes[place] = tmp_path_factory.mktemp(place)
        content = yaml.safe_load((REPOSITORY / "configs" / "sample_shop.yaml").read_text(encoding="utf-8"))
        content["spark"] = {"shuffle_partitions": 4} | (cluster.settings if place == "cluster" else {})
        settings = home / "shop.yaml"
        settings.write_text(yaml.safe_dump(content), encoding="utf-8")
        for command in (["shop", "open"], ["start", "--run", RUN, "--promotion", "never"]):
            smar(home, *command, "--settings", str(settings), "--date", DATE).check_returncode()
    for job in JOBS:
        smar(homes["laptop"], job, "--run", RUN).check_returncode()
        if job == "generate-queries":
            smar(homes["laptop"], "measure-drift", "--run", RUN).check_returncode()
    return homes


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"SMAR_HOME": str(home), "OMP_WAIT_POLICY": "passive"}


def smar(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "smar_model.cli", *arguments]
    return subprocess.run(command, env=environment(home), cwd=REPOSITORY, capture_output=True, text=True)


@pytest.mark.parametrize("job", JOBS)
def test_a_job_whose_worker_is_killed_ends_with_the_same_tables(
    job: str, cluster: SparkCluster, homes: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster.wait_for_workers(2)
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "smar_model.cli", job, "--run", RUN],
            env=environment(homes["cluster"]),
            cwd=REPOSITORY,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        cluster.wait_for_executors()
        assert process.poll() is None, log.read_text()
        cluster.kill_worker()
        cluster.start_worker()
        assert process.wait(timeout=PATIENCE_SECONDS) == 0, log.read_text()
    if job == "generate-queries":
        smar(homes["cluster"], "measure-drift", "--run", RUN).check_returncode()
    tables = {}
    for place, home in homes.items():
        monkeypatch.setenv("SMAR_HOME", str(home))
        tables[place] = load_run(RUN).output(job).manifest["content"]
    assert tables["cluster"] == tables["laptop"]
