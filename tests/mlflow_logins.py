"""MLflow's server with logins, started as a team's is: by docker/mlflow/start_server.py, on other places than the compose file's."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from smar_model.settings import REPOSITORY
from tests.docker.docker_files import DOCKER, compose


def make_logins(folder: Path) -> dict[str, str]:
    """Make the secrets of the server, and return the environment of a client that writes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in compose()["services"]["mlflow"]["secrets"]:
        (folder / name).write_text(secrets.token_hex(16), encoding="utf-8")
    return login(folder, "worker")


def login(folder: Path, user: str) -> dict[str, str]:
    """Environment of a client: admin, worker or reader."""
    password = (folder / f"mlflow_{user}_password").read_text(encoding="utf-8")
    return {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}


def mlflow_server(port: int, database: str, artifacts: str, folder: Path) -> dict[str, str]:
    """Environment of the server's module `start_server`.

    Args:
        database, artifacts: where it keeps its tables and files: URIs.
        folder: its secrets.
    """
    return {
        "SECRETS": str(folder),
        "PYTHONPATH": os.pathsep.join([str(DOCKER / "mlflow"), str(REPOSITORY)]),
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_ARTIFACTS_DESTINATION": artifacts,
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_PORT": str(port),
        "MLFLOW_WORKERS": "1",
    }
