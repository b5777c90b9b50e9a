"""Each environment of docker/Dockerfile made for real, by the script that the Dockerfile runs, and used as its image uses it.

`make test-images`: minutes, and gigabytes where uv has not got the packages yet. PyTorch is the lock's build (`--torch cuda`): the one
without CUDA comes from another index.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

from smar_model.settings import REPOSITORY
from smar_model.stages import REFRESH_STAGES, STAGES
from tests.docker.docker_files import DOCKER, compose, images
from tests.docker.test_images import environments
from tests.docker.test_monitoring import SPARK_MASTER
from tests.patience import PATIENCE_SECONDS
from tests.serving.serving_shop import make_serving_shop

ALL_STAGES = STAGES | REFRESH_STAGES
SPARK_WORK = sorted({s.work.split(":")[0] for s in ALL_STAGES.values() if s.work.startswith("jobs.")})
OTHER_WORK = sorted({s.work.split(":")[0] for s in ALL_STAGES.values() if not s.work.startswith("jobs.")})
PROMETHEUS = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8"))
LOCK = set((REPOSITORY / "requirements.lock").read_text(encoding="utf-8").splitlines())


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Environment by the name of its stage, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("environments")

    def make(stage: str) -> Path:
        environment = folder / stage
        if not environment.exists():
            done = subprocess.run(
                [str(DOCKER / "install.sh"), str(environment), *environments()[stage]],
                env=clean() | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        return environment

    return make


def clean() -> dict[str, str]:
    """This process's environment without what would let one environment see another."""
    dropped = {"PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME", "SPARK_HOME"}
    return {name: value for name, value in os.environ.items() if name not in dropped and "AIRFLOW" not in name}


def run(environment: Path, *command: str, cwd: Path, **variables: str) -> str:
    done = subprocess.run(
        [str(environment / "bin" / command[0]), *command[1:]],
        env=clean() | {"PATH": f"{environment / 'bin'}:/usr/bin:/bin"} | variables,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def importable(environment: Path, *modules: str, cwd: Path) -> dict[str, bool]:
    code = "import importlib.util, json, sys; print(json.dumps({n: importlib.util.find_spec(n) is not None for n in sys.argv[1:]}))"
    return json.loads(run(environment, "python", "-c", code, *modules, cwd=cwd))


def import_all(environment: Path, modules: list[str], cwd: Path) -> None:
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    run(environment, "python", "-c", code, *modules, cwd=cwd, PYTHONPATH=str(REPOSITORY))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("stage", sorted(environments()))
def test_it_holds_what_the_lock_says_and_nothing_else(made: Callable[[str], Path], stage: str) -> None:
    uv = [str(Path(sys.executable).parent / "uv"), "pip", "freeze", "--python", str(made(stage) / "bin" / "python")]
    frozen = subprocess.run(uv, check=True, capture_output=True, text=True, cwd="/").stdout.split("\n")
    held = {line for line in frozen if line}
    assert len(held) > 40 and held <= LOCK


def test_airflow_reads_the_dags_and_sends_each_task_to_its_queue(made: Callable[[str], Path], tmp_path: Path) -> None:
    airflow = made("airflow-environment")
    assert importable(
        airflow, "torch", "pyspark", "mlflow", "smar_model", "psycopg2", "asyncpg", "statsd", "redis", cwd=tmp_path
    ) == {
        **dict.fromkeys(("torch", "pyspark", "mlflow", "smar_model"), False),
        **dict.fromkeys(("psycopg2", "asyncpg", "statsd", "redis"), True),
    }
    describe = """
import json, sys
from pathlib import Path
from airflow.dag_processing.dagbag import BundleDagBag
folder = Path(sys.argv[1])
bag = BundleDagBag(dag_folder=str(folder), bundle_path=folder, bundle_name="dags-folder")
dag = bag.dags["smar_retrain"]
told = {"errors": bag.import_errors, "queues": {t.task_id: t.queue for t in dag.tasks},
        "pods": {t.task_id: t.executor_config for t in dag.tasks}}
print("JSON:" + json.dumps(told))
"""
    variables = {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": str(DOCKER / "airflow"),
        "SMAR_POD_TEMPLATES": str(DOCKER / "kubernetes" / "pods"),
    }
    told = json.loads(
        run(airflow, "python", "-c", describe, str(REPOSITORY / "dags"), cwd=tmp_path, **variables).split("JSON:")[1]
    )
    assert told["errors"] == {}
    spark = {name for name, stage in STAGES.items() if stage.work.startswith("jobs.")}
    assert {name for name, queue in told["queues"].items() if queue == "spark"} == spark
    assert {"pretrain", "finetune"} <= {name for name, queue in told["queues"].items() if queue == "gpu"}
    assert told["queues"]["start"] == "default"
    assert told["pods"]["check-data"]["pod_template_file"].endswith("pods/spark.yaml") and not told["pods"]["start"]


def test_airflow_makes_its_database_and_the_first_user(made: Callable[[str], Path], tmp_path: Path) -> None:
    """As docker/airflow/start_api_server.sh does, up to the server itself, on SQLite."""
    airflow = made("airflow-environment")
    script = (DOCKER / "airflow" / "start_api_server.sh").read_text(encoding="utf-8")
    (tmp_path / "airflow_admin_password").write_text(secrets.token_hex(16), encoding="utf-8")
    script = script.replace("/run/secrets", str(tmp_path)).replace("/opt/smar", str(REPOSITORY))
    script = script.replace(
        "exec airflow api-server", "airflow users list --output plain; airflow pools list --output plain"
    )
    auth = re.search(r"AUTH_MANAGER: (\S+)", (DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    assert auth
    variables = {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__AUTH_MANAGER": auth.group(1),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__FERNET_KEY_CMD": "echo 81HqDtbqAywKSOumSha3BhWNOdQ26slT6K0YaZeZyPs=",
        "PATH": f"{airflow / 'bin'}:/usr/bin:/bin",
    }
    for attempt in ("first", "second"):
        done = subprocess.run(
            ["bash", "-c", script], env=clean() | variables, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{attempt}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
        assert len(re.findall(r"\badmin@example\.com\b", done.stdout)) == 1, done.stdout[-2000:]
        assert re.search(r"(?m)^training\s+1\b", done.stdout), done.stdout[-2000:]


def test_airflow_and_celery_find_their_addresses_in_the_secrets(made: Callable[[str], Path], tmp_path: Path) -> None:
    """Under the compose file's environment, with another folder in the place of /run/secrets."""
    for name in compose()["secrets"]:
        (tmp_path / name).write_text(f"word-of-{name}", encoding="utf-8")
    environment = {
        name: value.replace("$$", "$").replace("/run/secrets", str(tmp_path))
        for name, value in compose()["services"]["airflow-worker"]["environment"].items()
        if name.startswith("AIRFLOW__") and "${" not in value
    }
    code = """
from airflow.configuration import conf
from airflow.providers.celery.executors.celery_executor import app
from airflow.settings import SQL_ALCHEMY_CONN_ASYNC
print("TOLD", app.conf.broker_url, app.conf.result_backend, SQL_ALCHEMY_CONN_ASYNC, conf.get("api_auth", "jwt_secret"))
"""
    said = run(
        made("airflow-environment"), "python", "-c", code, cwd=tmp_path, AIRFLOW_HOME=str(tmp_path), **environment
    )
    database = "airflow:word-of-airflow_database_password@postgres/airflow"
    assert said.split("TOLD")[1].split() == [
        "redis://:word-of-redis_password@redis:6379/0",
        f"db+postgresql+psycopg2://{database}",
        f"postgresql+asyncpg://{database}",
        "word-of-airflow_jwt_secret",
    ]


@pytest.mark.parametrize(
    "command",
    [
        ("airflow", "celery", "worker", "--help"),
        ("airflow", "jobs", "check", "--help"),
        ("airflow", "dag-processor", "--help"),
        ("celery", "--app", "airflow.providers.celery.executors.celery_executor.app", "inspect", "ping", "--help"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_commands_of_airflows_services_exist(
    made: Callable[[str], Path], tmp_path: Path, command: tuple[str, ...]
) -> None:
    run(made("airflow-environment"), *command, cwd=tmp_path, AIRFLOW_HOME=str(tmp_path))


def test_every_spark_stage_can_be_imported_where_it_runs(made: Callable[[str], Path], tmp_path: Path) -> None:
    spark = made("spark-environment")
    assert not any(importable(spark, "torch", "airflow", "mlflow", cwd=tmp_path).values())
    import_all(spark, ["smar_model.cli", *SPARK_WORK], tmp_path)
    stage = next(
        rest for word, rest in images(DOCKER / "Dockerfile")["spark"] if word == "ENV" and "SPARK_HOME" in rest
    )
    home = re.search(r"SPARK_HOME=/opt/environments/stages/(\S+)", stage)
    assert home and (spark / home.group(1) / "bin" / "spark-class").is_file()


def spark_variables(environment: Path) -> dict[str, str]:
    return {
        "SPARK_HOME": str(environment / "lib/python3.11/site-packages/pyspark"),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_DAEMON_MEMORY": "256m",
        "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
    }


def test_a_spark_master_answers_prometheus(made: Callable[[str], Path], tmp_path: Path) -> None:
    port = str(free_port())
    variables = spark_variables(made("spark-environment")) | {
        "SPARK_MASTER_HOST": "127.0.0.1",
        "SPARK_MASTER_PORT": str(free_port()),
        "SPARK_MASTER_WEBUI_PORT": port,
    }
    job = next(j for j in PROMETHEUS["scrape_configs"] if j["job_name"] == "spark-master")
    address = f"http://127.0.0.1:{port}"
    command = [str(DOCKER / "spark" / "entrypoint.sh"), "master"]
    with server(tmp_path / "master.log", command, address, **variables):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            with urllib.request.urlopen(address + job["metrics_path"], timeout=10) as answer:
                names = set(re.findall(r"(?m)^(\w+)", answer.read().decode()))
            if names >= SPARK_MASTER:
                break
            assert time.monotonic() < deadline, names
            time.sleep(1)
    assert "REST server" not in (tmp_path / "master.log").read_text(encoding="utf-8")


def test_an_executor_on_kubernetes_looks_for_its_driver(made: Callable[[str], Path], tmp_path: Path) -> None:
    """By the variables that Spark's scheduler on Kubernetes gives its container; here nobody listens where the driver should."""
    variables = spark_variables(made("spark-environment")) | {
        "SPARK_JAVA_OPT_0": "-Dsmar.words=two words",
        "SPARK_JAVA_OPT_1": "-XX:TieredStopAtLevel=1",
        "SPARK_EXECUTOR_MEMORY": "200m",
        "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@127.0.0.1:9",
        "SPARK_EXECUTOR_ID": "1",
        "SPARK_EXECUTOR_CORES": "1",
        "SPARK_APPLICATION_ID": "spark-application-1",
        "SPARK_EXECUTOR_POD_IP": "127.0.0.1",
        "SPARK_RESOURCE_PROFILE_ID": "0",
        "SPARK_EXECUTOR_POD_NAME": "smar-exec-1",
    }
    done = subprocess.run(
        [str(DOCKER / "spark" / "entrypoint.sh"), "executor"],
        env=clean() | variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode != 0 and "Failed to connect to /127.0.0.1:9" in done.stdout + done.stderr


def test_every_other_stage_and_the_server_can_be_imported_where_they_run(
    made: Callable[[str], Path], tmp_path: Path
) -> None:
    training = made("training-environment")
    assert not any(importable(training, "airflow", "pyspark", "celery", cwd=tmp_path).values())
    release = sorted(f"smar_model.release.{path.stem}" for path in (REPOSITORY / "smar_model" / "release").glob("*.py"))
    release = [name for name in release if not name.endswith("__init__")]
    import_all(
        training,
        ["smar_model.cli", "smar_model.serving.app", "smar_model.shop.shoppers", *OTHER_WORK, *release],
        tmp_path,
    )


def test_the_search_image_searches_and_serves_without_pytorch(
    made: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release that was made here, with an embedded registry, asked by the environment of the image `search`."""
    environment = made("search-environment")
    heavy = ("torch", "torchvision", "timm", "transformers", "onnxscript", "airflow", "pyspark", "sklearn")
    assert not any(importable(environment, *heavy, cwd=tmp_path).values())
    size = sum(file.lstat().st_size for file in environment.rglob("*") if file.is_file() and not file.is_symlink())
    assert size < 900e6, f"{size / 1e6:.0f} MB"
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("SMAR_HOME", str(home))
    shop = make_serving_shop(home, versions=1)
    variables = {"SMAR_HOME": str(home), "PYTHONPATH": str(REPOSITORY), "SMAR_SETTINGS": str(shop.settings_file)}
    smar = ("python", "-m", "smar_model.cli")
    alone = json.loads(run(environment, *smar, "search", "red shirt", "-k", "3", "--json", cwd=tmp_path, **variables))
    assert alone["version"] == "1" and len(alone["hits"]) == 3 and alone["server"] is None
    port = free_port()
    command = [str(environment / "bin" / "python"), *smar[1:], "serve", "--port", str(port), "--drain-seconds", "0"]
    address = f"http://127.0.0.1:{port}"
    with server(tmp_path / "serve.log", command, f"{address}/readyz", **variables):
        asked = json.loads(
            run(environment, *smar, "search", "red shirt", "-k", "3", "--json", cwd=tmp_path, **variables)
        )
        with urllib.request.urlopen(f"{address}/search?q=red+shirt&version=text-only", timeout=30) as answer:
            assert json.loads(answer.read())["version"] == "text-only"
    assert asked == alone | {"server": address}


@contextmanager
def server(log: Path, command: list[str], address: str, **variables: str) -> Iterator[None]:
    """A process that answers at an address, ended afterwards."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=clean() | variables, stdout=output, stderr=output, cwd=log.parent)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait(30)


def test_mlflow_keeps_files_in_an_object_store(made: Callable[[str], Path], tmp_path: Path) -> None:
    """docker/mlflow/start_server.py on SQLite and an S3 server: a client without the store's credentials logs a file, and it is in the bucket."""
    mlflow = made("mlflow-environment")
    assert not any(importable(mlflow, "torch", "airflow", "pyspark", cwd=tmp_path).values())
    store, port = f"http://127.0.0.1:{free_port()}", free_port()
    for name in compose()["services"]["mlflow"]["secrets"]:
        (tmp_path / name).write_text(secrets.token_hex(16), encoding="utf-8")
    moto = [str(Path(sys.executable).parent / "moto_server"), "--port", store.rsplit(":", 1)[1]]
    tracking = f"http://127.0.0.1:{port}"
    variables = {
        "SECRETS": str(tmp_path),
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "MLFLOW_S3_ENDPOINT_URL": store,
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_PORT": str(port),
        "MLFLOW_WORKERS": "1",
        "MLFLOW_SERVER_ALLOWED_HOSTS": "mlflow:5000,127.0.0.1:*",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    log_a_file = """
import mlflow, sys
mlflow.set_tracking_uri(sys.argv[1])
with mlflow.start_run() as run:
    mlflow.log_text("kept", "note.txt")
    print(run.info.artifact_uri)
"""
    with ExitStack() as stack:
        stack.enter_context(server(tmp_path / "moto.log", moto, f"{store}/moto-api/"))
        command = [str(mlflow / "bin" / "python"), str(DOCKER / "mlflow" / "start_server.py")]
        stack.enter_context(server(tmp_path / "mlflow.log", command, f"{tracking}/health", **variables))
        login = {
            "MLFLOW_TRACKING_USERNAME": "worker",
            "MLFLOW_TRACKING_PASSWORD": (tmp_path / "mlflow_worker_password").read_text(encoding="utf-8"),
        }
        said = run(mlflow, "python", "-c", log_a_file, tracking, cwd=tmp_path, **login)
        assert "mlflow-artifacts:/" in said
        import boto3

        keys = dict.fromkeys(("aws_access_key_id", "aws_secret_access_key"), "any")
        client = boto3.client("s3", endpoint_url=store, region_name="us-east-1", **keys)
        [kept] = [o["Key"] for o in client.list_objects_v2(Bucket="mlflow")["Contents"]]
        assert kept.startswith("artifacts/") and kept.endswith("/artifacts/note.txt")
        assert client.get_object(Bucket="mlflow", Key=kept)["Body"].read() == b"kept"
        request = urllib.request.Request(
            f"{tracking}/api/2.0/mlflow/experiments/search", headers={"Host": "evil.example"}
        )
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request, timeout=10)
