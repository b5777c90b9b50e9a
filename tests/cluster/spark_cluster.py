"""Spark's standalone cluster on 127.0.0.1: a master and workers of one core each, as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pyspark

from laptop.ui import free_port
from smar_model.lake.process_identity import end_with_parent
from tests.patience import PATIENCE_SECONDS
from tests.services.stack import end

SPARK_CLASS = Path(pyspark.__file__).parent / "bin" / "spark-class"


@dataclass(slots=True, kw_only=True)
class SparkCluster:
    address: str
    page: str
    """Address of the master's page."""
    folder: Path
    master: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    started: int = 0
    """Workers so far."""
    variables: dict[str, str] = field(default_factory=dict)
    """Of the environment of its workers and their executors, such as the keys of an object store."""

    @property
    def settings(self) -> dict[str, Any]:
        """Section `spark` of settings whose jobs run here, on both workers."""
        options = {"spark.executor.memory": "1g", "spark.executor.cores": "1", "spark.cores.max": "2"}
        return {"master": self.address, "options": options}

    def state(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.page}/json/", timeout=10) as answer:
            return json.loads(answer.read())

    def start_worker(self) -> None:
        number, self.started = self.started, self.started + 1
        options = ["--cores", "1", "--memory", "1200m", "--work-dir", str(self.folder / f"work-{number}")]
        place = ["--host", "127.0.0.1", "--webui-port", str(free_port(0))]
        arguments = [*place, *options, self.address]
        self.workers.append(
            _start(f"worker-{number}", self.folder, "worker.Worker", *arguments, variables=self.variables)
        )

    def kill_worker(self) -> None:
        """Kill the oldest worker with its executors, at once."""
        worker = self.workers.pop(0)
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()

    def wait_for_workers(self, number: int) -> None:
        _wait(lambda: sum(worker["state"] == "ALIVE" for worker in self.state()["workers"]) >= number)

    def wait_for_executors(self) -> None:
        """Until an application has all its cores."""
        _wait(lambda: any(app["cores"] >= 2 for app in self.state()["activeapps"]))


@contextmanager
def running_spark(folder: Path, *, workers: int = 2, variables: dict[str, str] | None = None) -> Iterator[SparkCluster]:
    folder.mkdir(parents=True)
    port, page_port = free_port(0), free_port(0)
    place = ["--host", "127.0.0.1", "--port", str(port), "--webui-port", str(page_port)]
    cluster = SparkCluster(
        address=f"spark://127.0.0.1:{port}",
        page=f"http://127.0.0.1:{page_port}",
        folder=folder,
        master=_start("master", folder, "master.Master", *place, variables={}),
        variables=variables or {},
    )
    try:
        for _ in range(workers):
            cluster.start_worker()
        cluster.wait_for_workers(workers)
        yield cluster
    finally:
        end(*cluster.workers, cluster.master)


def _start(name: str, folder: Path, kind: str, *options: str, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [SPARK_CLASS, f"org.apache.spark.deploy.{kind}", *options],
            env=os.environ | {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m"} | variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,  # a worker's executors are in it, too
            preexec_fn=end_with_parent,
        )


def _wait(until: Any) -> None:
    deadline = monotonic() + PATIENCE_SECONDS
    while True:
        try:
            if until():
                return
        except OSError:  # the master's page is not up yet
            pass
        assert monotonic() < deadline, "Spark's cluster did not get so far"
        sleep(0.1)
