"""Airflow for one machine: everything it writes under <SMAR_HOME>/airflow, everything it opens on 127.0.0.1.

`environment` is what each of its processes runs with; `prepare` makes what must exist before the first of them.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from smar_model.errors import InputError
from smar_model.lake.digests import digest_file
from smar_model.lake.durable_files import create_plain_file, replace_plain_file
from smar_model.settings import REPOSITORY, home

LOGIN = "admin"
POOLS = REPOSITORY / "dags" / "pools.json"


def airflow_home() -> Path:
    return home() / "airflow"


def environment(*, port: int = 8080, database: str | None = None) -> dict[str, str]:
    """This process's environment with Airflow's settings for this machine added.

    Args:
        port: of the API server, which also serves the user interface.
        database: address of Airflow's database; None: SQLite in its home.
    """
    folder = airflow_home()
    address = f"http://127.0.0.1:{port}"
    variables = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW__")}
    # Stages are processes: without cached bytecode each would compile its imports anew.
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    return variables | {
        "SMAR_HOME": str(home()),
        "SMAR_PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
        # Threads that wait must sleep: two cores are shared.
        "OMP_WAIT_POLICY": "passive",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "SCARF_ANALYTICS": "false",
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # Its timetable does not start a run at once when it is unpaused; it waits for the next 04:00.
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{LOGIN}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords.json"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database or f"sqlite:///{folder / 'airflow.db'}",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "logs"),
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": _secret(folder / "api-secret"),
        "AIRFLOW__API_AUTH__JWT_SECRET": _secret(folder / "jwt-secret"),
    }


def password() -> str:
    """Password of `LOGIN`, made on first use and readable by this user alone."""
    path = airflow_home() / "passwords.json"
    _create_private(path, json.dumps({LOGIN: secrets.token_urlsafe(12)}))
    try:
        return str(json.loads(path.read_bytes())[LOGIN])
    except (ValueError, TypeError, LookupError):
        print(f"{path}: damaged; made anew, with another password", file=sys.stderr)
        path.unlink()
        return password()


def prepare() -> None:
    """Migrate Airflow's database and make the pools, once for each version of Airflow and of the pools; settle runs that were stopped.

    Raises:
        InputError: Airflow could not; names its log.
    """
    password()
    mark = airflow_home() / f"prepared-{version('apache-airflow')}-{digest_file(POOLS)[:8]}"
    if mark.is_file():
        _fail_interrupted_runs()
        return
    migrate(environment())
    replace_plain_file(mark, "")


def migrate(variables: dict[str, str]) -> None:
    """Make or migrate the database that an environment names, and the pool in it.

    Raises:
        InputError: Airflow could not; names its log.
    """
    log = airflow_home() / "prepare.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        for command in (
            ["db", "migrate"],
            ["pools", "import", str(POOLS)],
        ):
            done = subprocess.run(
                [sys.executable, "-m", "airflow", *command], env=variables, stdout=output, stderr=subprocess.STDOUT
            )
            if done.returncode != 0:
                raise InputError(
                    f"airflow {' '.join(command)} failed (see {log}); free disk space or delete {airflow_home()}"
                )


def _fail_interrupted_runs() -> None:
    """Mark runs of a `make retrain` that was stopped: a scheduler would take them for its own and go on with them.

    To be called while nothing else of Airflow runs here (`one_at_a_time`).
    """
    with closing(sqlite3.connect(airflow_home() / "airflow.db", timeout=30)) as database, database:
        database.execute(
            "UPDATE task_instance SET state = 'failed' WHERE state IN ('running', 'queued', 'scheduled') AND EXISTS "
            "(SELECT 1 FROM dag_run WHERE dag_run.dag_id = task_instance.dag_id AND dag_run.run_id = "
            "task_instance.run_id AND dag_run.state = 'running' AND LOWER(dag_run.triggered_by) = 'test')"
        )
        database.execute("UPDATE dag_run SET state = 'failed' WHERE state = 'running' AND LOWER(triggered_by) = 'test'")


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold `airflow.lock`: two schedulers on one SQLite database, or one beside `dag.test()`, would run tasks twice.

    Raises:
        InputError: `make ui` or `make retrain` runs already on the same home folder.
    """
    path = home() / "airflow.lock"
    lock = FileLock(path, fallback_to_soft=False)  # the kernel frees it with this process
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(
            f"{path}: `make ui` or `make retrain` runs already for this folder; trigger `smar_retrain` on the page "
            "that `make ui` printed, or end that command first"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _secret(path: Path) -> str:
    _create_private(path, secrets.token_hex(32))
    kept = path.read_bytes()
    if re.fullmatch(rb"[0-9a-f]{64}", kept):
        return kept.decode("ascii")
    print(f"{path}: damaged; made anew, so pages that are open must log in again", file=sys.stderr)
    path.unlink()
    return _secret(path)


def _create_private(path: Path, text: str) -> None:
    """A file that this user alone may read, where there is none; the first of several processes wins."""
    if not path.is_file():
        create_plain_file(path, text, mode=0o600)
