"""MLflow's server as the compose file starts it: without a login nothing is read or written, a reader moves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from laptop.ui import free_port, mlflow_is_healthy
from smar_model.cli import main
from smar_model.lake.runs import Run
from smar_model.release.promote import promote_run
from smar_model.release.register import register_run
from smar_model.release.registry import CHAMPION, Registry, serving_or_version
from smar_model.release.tracking import track_run
from smar_model.release.verify import verify_release
from tests.mlflow_logins import login, make_logins, mlflow_server
from tests.patience import PATIENCE_SECONDS, wait_until
from tests.release.judged_runs import judged_run, write_settings
from tests.tiny_shop import write_tiny_shop


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder))
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        write_tiny_shop(folder / "shop")
        yield folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """Address of the server; the client's environment is the writing user's."""
    port, log = free_port(0), folder / "server.log"
    variables = make_logins(folder / "secrets")
    database, artifacts = f"sqlite:///{folder / 'server.db'}", (folder / "server-artifacts").as_uri()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "start_server"],
            env=os.environ | mlflow_server(port, database, artifacts, folder / "secrets"),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(
            lambda: mlflow_is_healthy(port),
            still_possible=lambda: process.poll() is None,
            says=lambda: log.read_text(encoding="utf-8"),
        )
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def released(folder: Path, server: str) -> Run:
    run = judged_run(folder, "first", seed=1, release={"tracking_uri": server})
    assert register_run(run) == "1"
    assert promote_run(run) == "promoted"
    track_run(run)
    return run


def become(monkeypatch: pytest.MonkeyPatch, folder: Path, user: str | None) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name)
    for name, value in (login(folder / "secrets", user) if user else {}).items():
        monkeypatch.setenv(name, value)


def test_the_health_check_needs_no_login(server: str) -> None:
    with urllib.request.urlopen(f"{server}/health", timeout=60) as answer:
        assert answer.status == 200
    for path in ("/", "/api/2.0/mlflow/experiments/search?max_results=1", "/version"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{server}{path}", timeout=60)


def writes(registry: Registry, run_id: str) -> dict[str, Callable[[], Any]]:
    client = registry.client
    return {
        "move the alias": lambda: client.set_registered_model_alias("smar", CHAMPION, "1"),
        "remove the alias": lambda: client.delete_registered_model_alias("smar", CHAMPION),
        "move the index": lambda: client.set_model_version_tag("smar", "1", "index", "0" * 64),
        "name a last good one": lambda: client.set_registered_model_tag("smar", "smar.last_good", "1 0"),
        "delete the version": lambda: client.delete_model_version("smar", "1"),
        "delete the model": lambda: client.delete_registered_model("smar"),
        "add a version": lambda: client.create_model_version(
            "smar", source=f"runs:/{run_id}/report.html", run_id=run_id
        ),
        "change a file": lambda: client.log_text(run_id, "another", "report.html"),
        "log a run": lambda: client.create_run(registry.experiment_id()),
    }


@pytest.mark.parametrize("user", [None, "reader"])
def test_only_the_worker_writes(folder: Path, released: Run, user: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(released.settings)
    run_id = registry.version("1").run_id
    before = registry.registered(), dict(registry.version("1").tags)
    become(monkeypatch, folder, user)
    for what, write in writes(registry, run_id).items():
        with pytest.raises(Exception, match=r"40[13]|[Pp]ermission denied|not authenticated"):
            print(user, what, write())
    monkeypatch.undo()
    assert (registry.registered(), dict(registry.version("1").tags)) == before


def test_a_reader_reads_all_that_it_serves(folder: Path, released: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, folder, "reader")
    assert verify_release(serving_or_version(released.settings, None))["found"] > 0


def test_without_a_login_nothing_is_read_and_it_is_said_in_one_line(
    folder: Path, released: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    become(monkeypatch, folder, None)
    with pytest.raises(MlflowException, match="401"):
        Registry(released.settings).registered()
    settings = write_settings(folder, release={"tracking_uri": released.settings.tracking_uri})
    monkeypatch.setattr(sys, "argv", ["smar", "champion", "--settings", str(settings)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "MLFLOW_TRACKING_USERNAME" in said
