"""A standalone cluster on this machine gives what `local[2]` gives: the same content digests.

Here one worker does one job; `tests/cluster/test_standalone.py` (`make test-cluster`) has two workers do all, compiled as a shop's are.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyspark
import pytest

from smar_model.settings import REPOSITORY
from tests.patience import PATIENCE_SECONDS, wait_until
from tests.tiny_shop import QUICK_JVM, QUICK_SPARK, run_stages, tiny_run, write_tiny_shop

ON_A_CLUSTER = f"""
import json, sys
from pathlib import Path
from jobs.spark_session import start_session
from tests.tiny_shop import run_stages, tiny_run
master, scratch, shop, workers, stages, more = sys.argv[1:]
options = json.loads(more) | {{
    "spark.executor.memory": "640m", "spark.executor.extraJavaOptions": "{QUICK_JVM}",
    "spark.driver.extraJavaOptions": "{QUICK_JVM}", "spark.scheduler.minRegisteredResourcesRatio": "1.0",
}}
spark = {{"master": master, "driver_memory": "1g", "shuffle_partitions": 2, "options": options}}
run = tiny_run(shop, spark=spark)
session = start_session(run.settings.spark, name="cluster", scratch=Path(scratch))
where = session.sparkContext.parallelize(range(int(workers)), int(workers)).map(
    lambda _: (__import__("os").environ["SPARK_EXECUTOR_DIRS"], __import__("jobs.prepare_items").__file__)
).collect()
contents = {{name: artifact.manifest["content"] for name, artifact in run_stages(run, *stages.split()).items()}}
session.stop()
print("RESULT " + json.dumps({{"where": where, "contents": contents}}))
"""


@contextmanager
def cluster(folder: Path, *, workers: int) -> Iterator[str]:
    """URL of a master with workers of one core each, from the package alone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = Path(pyspark.__file__).parent
    environment = os.environ | {
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_DAEMON_MEMORY": "256m",
        "SPARK_DAEMON_JAVA_OPTS": QUICK_JVM,
        "SPARK_WORKER_DIR": str(folder / "work"),
        "SPARK_LOCAL_DIRS": str(folder / "local"),
    }
    with ExitStack() as stack:

        def start(daemon: str, *arguments: str) -> subprocess.Popen[bytes]:
            log = stack.enter_context((folder / f"{daemon.lower()}.log").open("ab"))
            command = [str(home / "bin" / "spark-class"), f"org.apache.spark.deploy.{daemon.lower()}.{daemon}"]
            process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--webui-port", "0", *arguments],
                env=environment,
                stdout=log,
                stderr=log,
            )
            stack.callback(process.wait, PATIENCE_SECONDS)
            stack.callback(process.terminate)
            return process

        master = start("Master", "--port", str(port))

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_until(
            listens,
            still_possible=lambda: master.poll() is None,
            says=lambda: (folder / "master.log").read_text()[-2000:],
        )
        url = f"spark://127.0.0.1:{port}"
        for _ in range(workers):
            start("Worker", "--cores", "1", "--memory", "1g", url)
        yield url


def assert_same_content(
    folder: Path,
    patch: pytest.MonkeyPatch,
    *stages: str,
    workers: int,
    options: dict[str, str],
    store: str | None = None,
    upload: Callable[[Path], str] = str,
) -> None:
    """Run stages on a cluster with these options of Spark, then here, in the folder, and compare what they wrote.

    Args:
        store: URL of the lake that the cluster works in; then workers do not see the driver's home folder. None: it lies there.
        upload: brings the shop to where the cluster reads it; returns the place.
    """
    patch.setenv("SMAR_USER_SALT", "the same on both")
    shop = write_tiny_shop(folder / "shop")
    (folder / "cluster").mkdir()
    alone: list[str] = []
    if store:
        # The home folder is a file system that this process and its children alone see, and no worker.
        mounted = 'mount -t tmpfs tmpfs "$SMAR_HOME" && exec "$@"'
        alone = ["unshare", "--mount", "sh", "-c", mounted, "sh"]
    with cluster(folder, workers=workers) as master:
        environment = os.environ | {"SMAR_HOME": str(folder / "cluster"), "PYTHONPATH": str(REPOSITORY)}
        environment["SPARK_LOCAL_HOSTNAME"] = (
            "127.0.0.2"  # the driver, as executors find it: on another machine than they are
        )
        environment |= {"SMAR_STORE": store} if store else {}
        asked = [master, str(folder), upload(shop), str(workers), " ".join(stages), json.dumps(options)]
        done = subprocess.run(
            [*alone, sys.executable, "-c", ON_A_CLUSTER, *asked],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.split("RESULT ")[1])
    executors = {folders for folders, _ in result["where"]}
    assert len(executors) == workers, "all workers took part"
    assert all("smar_code.zip" in file for _, file in result["where"]), "workers run the code that was shipped to them"

    patch.setenv("SMAR_HOME", str(folder / "local"))
    local = run_stages(tiny_run(shop), *stages)
    assert {name: artifact.manifest["content"] for name, artifact in local.items()} == result["contents"]


def test_a_cluster_gives_the_same_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_content(tmp_path, monkeypatch, "prepare-items", workers=1, options=QUICK_SPARK)
