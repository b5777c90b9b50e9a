"""The services of a deployment on this machine: Airflow's four components on PostgreSQL, MLflow's server on PostgreSQL with
artifacts behind it. All on 127.0.0.1, on free ports, each in its own process group, in folders of their own.

Airflow and MLflow are started as `make ui` starts them (`laptop/`); only the databases and the artifacts lie elsewhere.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from laptop import ui
from laptop.airflow_environment import LOGIN, environment, migrate, password
from smar_model.lake.process_identity import end_with_parent
from smar_model.settings import REPOSITORY
from smar_model.settings import home as home_folder
from tests.mlflow_logins import make_logins, mlflow_server
from tests.started_processes import started_for

PATIENCE_SECONDS = 20.0
START_SECONDS = 1_800.0
"""They are up within half a minute where nothing else runs."""
DATABASE_USER = "smar"
CELERY_WORKERS = {"worker-quick": "default", "worker-heavy": "spark,gpu"}
"""Name → queues."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    home: Path
    """SMAR_HOME of the services and of every command that they run."""
    airflow: str
    """Address of the API server and its pages."""
    mlflow: str
    user: str
    password: str
    variables: dict[str, str]
    """Environment of the services; a command run by hand beside them needs it too."""
    databases: str
    """Address of PostgreSQL, without a database's name."""
    artifacts: str
    """Where MLflow's server keeps artifacts: a URI."""
    running: dict[str, subprocess.Popen[bytes]]
    """MLflow's server as `mlflow`, Airflow's components by their names."""

    def kill(self, component: str) -> None:
        """Kill a component of Airflow and whatever it has started, at once."""
        process = self.running.pop(component)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def start(self, component: str, *command: str, **variables: str) -> None:
        """Start a component of Airflow (`airflow COMMAND`, by default as on a laptop), with further environment."""
        self.running[component] = ui.start(
            component, ["airflow", *(command or ui.COMPONENTS[component])], self.variables | variables
        )

    def stop_mlflow(self) -> None:
        end(self.running.pop("mlflow"))

    def start_mlflow(self) -> None:
        """Start it again at the same address."""
        port = int(self.mlflow.rsplit(":", 1)[1])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SMAR_HOME", str(self.home))
            self.running["mlflow"] = _start_mlflow(port, self.databases, self.artifacts, self.variables)
            ui.wait_until(self.running, lambda: ui.mlflow_is_healthy(port), seconds=START_SECONDS)


@contextmanager
def running_stack(
    home: Path, variables: dict[str, str], *, artifacts: str | None = None, redis: str | None = None
) -> Iterator[Stack]:
    """Everything up and healthy; nothing of it is left afterwards.

    Args:
        home: an empty folder.
        variables: added to the environment of the services.
        artifacts: where MLflow's server keeps artifacts; None: in `home`.
        redis: address of a Redis: tasks go to Celery's workers, one for Spark and training, one for all else, by the cluster's policy, and
            each with a home folder of its own, as on a machine of its own (they share SMAR_STORE); None: LocalExecutor.
    """
    home.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, running_postgres() as databases:
        patch.setenv("SMAR_HOME", str(home))
        port, mlflow_port = ui.free_port(0), ui.free_port(0)
        mlflow = f"http://127.0.0.1:{mlflow_port}"
        needed = environment(port=port, database=f"{databases}/airflow") | {"SMAR_MLFLOW_URL": mlflow} | variables
        if redis:
            needed |= celery_variables(redis, f"{databases}/airflow", needed["PYTHONPATH"])
        stack = Stack(
            home=home,
            airflow=f"http://127.0.0.1:{port}",
            mlflow=mlflow,
            user=LOGIN,
            password=password(),
            variables=needed,
            databases=databases,
            artifacts=artifacts or (home / "mlflow-artifacts").as_uri(),
            running={},
        )
        logins = make_logins(home / "secrets")
        for name, value in logins.items():
            patch.setenv(name, value)
        needed |= logins
        try:
            migrate(needed)
            stack.running["mlflow"] = _start_mlflow(mlflow_port, databases, stack.artifacts, needed)
            for name in ui.COMPONENTS:
                stack.start(name)
            for name, queues in CELERY_WORKERS.items() if redis else ():
                command = [
                    "celery",
                    "worker",
                    "--queues",
                    queues,
                    "-H",
                    name,
                    "--concurrency",
                    "2",
                    "--skip-serve-logs",
                ]
                stack.start(name, *command, SMAR_HOME=str(home / "machines" / name))
            ui.wait_until(
                stack.running,
                lambda: ui.airflow_is_healthy(port) and ui.mlflow_is_healthy(mlflow_port),
                seconds=START_SECONDS,
            )
            yield stack
        finally:
            end(*stack.running.values())
            left = started_for(home)
            for process in left:
                process.kill()
            psutil.wait_procs(left, timeout=PATIENCE_SECONDS)
            assert not (alive := started_for(home)), f"still running: {alive}"


def celery_variables(redis: str, database: str, python_path: str) -> dict[str, str]:
    """Airflow's settings for Celery, and the policy that names queues."""
    return {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CELERY__BROKER_URL": redis,
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{database}",
        "PYTHONPATH": os.pathsep.join([python_path, str(REPOSITORY / "docker" / "airflow")]),
    }


def _start_mlflow(port: int, databases: str, artifacts: str, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    # Clients log in, send files to the server and get them from it, as a team's do.
    server = mlflow_server(port, f"{databases}/mlflow", artifacts, home_folder() / "secrets")
    return ui.start("mlflow", ["start_server"], variables | ui.WITHOUT_JOBS | server)


def end(*processes: subprocess.Popen[bytes]) -> None:
    """End processes and their groups: SIGTERM to all, then SIGKILL to those that are left after a while."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, number)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(0.1)


@contextmanager
def running_postgres() -> Iterator[str]:
    """Address of a PostgreSQL server with the databases `airflow` and `mlflow`; it may lose data when the machine crashes."""
    programs = postgres_programs()
    # It refuses to run as root; Debian's package makes a user for it.
    account = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="smar-postgres-"))
    os.chown(folder, account.pw_uid, account.pw_gid)
    data, port = folder / "data", ui.free_port(0)
    address = f"postgresql+psycopg2://{DATABASE_USER}@127.0.0.1:{port}"
    careless = [f"-c{name}=off" for name in ("fsync", "synchronous_commit", "full_page_writes")]
    environment = os.environ | {
        "LC_ALL": "C.UTF-8",
        "PGHOST": "127.0.0.1",
        "PGPORT": str(port),
        "PGUSER": DATABASE_USER,
    }
    try:
        initialise = [programs / "initdb", "-D", data, "-U", DATABASE_USER, "--auth=trust", "--no-sync", "-E", "UTF8"]
        _call(initialise, cwd=folder, env=environment, **who)
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder, *careless],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
                process_group=0,
                preexec_fn=end_with_parent,
                **who,
            )
        try:
            deadline = time.monotonic() + START_SECONDS
            while subprocess.run([programs / "pg_isready", "-q"], env=environment).returncode != 0:
                assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
            for name in ("airflow", "mlflow"):
                _call([programs / "createdb", name], env=environment)
            yield address
        finally:
            server.send_signal(signal.SIGINT)  # "fast": it ends its clients' connections
            try:
                server.wait(timeout=PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _call(command: list[str | Path], **options: object) -> None:
    done = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr


def postgres_programs() -> Path:
    """Folder of PostgreSQL's programs: on the path, or where Debian puts the newest."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    assert versions, "PostgreSQL is missing: `make test-services` installs it from Debian"
    return versions[-1].parent
