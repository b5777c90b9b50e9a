"""Releases on MLflow's own server, which is killed at a step of each command: what serves stays whole, and the record is repaired."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from smar_model.errors import InputError
from smar_model.lake.release_copies import cache_folder
from smar_model.lake.runs import Run
from smar_model.release.changes import HISTORY_TAG
from smar_model.release.history import read_history, read_pending
from smar_model.release.promote import promote_run
from smar_model.release.prune import prune
from smar_model.release.publish_index import publish_index
from smar_model.release.reconcile import reconcile
from smar_model.release.register import register_run
from smar_model.release.registry import CHAMPION, Registry
from smar_model.release.rollback import roll_back
from smar_model.release.sign import sign_version
from smar_model.release.tracking import track_run
from smar_model.release.verify import verify_release
from smar_model.retrieval.search import Searcher
from tests.patience import wait_until
from tests.release.interrupted import Steps
from tests.release.judged_runs import judged_run, refresh_run
from tests.tiny_shop import ITEMS, write_tiny_shop


class Server:
    """`mlflow server` over SQLite, with artifacts through it; killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += [
            "--workers",
            "1",
            "--serve-artifacts",
            "--artifacts-destination",
            (self.folder / "artifacts").as_uri(),
        ]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                command,
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self.is_healthy, says=(self.folder / "server.log").read_text)

    def is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder))
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        patch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
        write_tiny_shop(folder / "shop")
        yield folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def first(home: Path, server: Server) -> Run:
    run = judged_run(home, "first", seed=1, release={"tracking_uri": server.address})
    register_run(run)
    assert promote_run(run) == "promoted"
    return run


@pytest.fixture(scope="module")
def second(home: Path, server: Server, first: Run) -> Run:
    """A run that met the first release, not registered yet."""
    return judged_run(home, "second", seed=2, release={"tracking_uri": server.address})


def pointer(run: Run) -> tuple[str, str]:
    registry = Registry(run.settings)
    version = registry.aliased(CHAMPION)
    assert version
    return version, registry.version(version).tags["index"]


def killed_at(server: Server, call: str, command: Callable[[], Any]) -> None:
    """Kill the server right before a command's first call of this method of MLflow's client, and start it again afterwards."""

    def kill(count: int) -> None:
        if steps.names[-1] == call:
            server.kill()

    steps = Steps(kill)
    with pytest.MonkeyPatch.context() as patch:
        steps.watch_registry(patch, count_reads=True)
        with pytest.raises(Exception, match=r"Max retries exceeded|Connection refused|Connection aborted"):
            command()
    assert server.process is None, f"it calls none of {call}: {steps.names}"
    server.start()


def assert_whole(run: Run) -> None:
    """What the server names loads from it anew and answers, and the record says the same."""
    shutil.rmtree(cache_folder(), ignore_errors=True)
    registry = Registry(run.settings)
    verify_release(registry.release(pointer(run)[0]))
    reconcile(run.settings)
    assert read_pending("smar") is None
    registered = registry.registered()
    assert registered.last_good == pointer(run)
    moves = [e for e in read_history("smar") if e["action"] in {"promote", "rollback"}]
    assert moves[-1]["to"] == pointer(run)[0]
    assert len([name for name in registered.tags if name.startswith(HISTORY_TAG)]) == len(moves)


def test_a_server_killed_during_a_release_leaves_one_whole(server: Server, first: Run, second: Run) -> None:
    assert_whole(first)
    for call in ("search_model_versions", "create_model_version", "set_registered_model_alias"):
        killed_at(server, call, lambda: register_run(second))
        assert pointer(first)[0] == "1"
        assert_whole(first)
    assert register_run(second) == "2"
    for call, serves in (
        ("get_registered_model", "1"),
        ("set_registered_model_alias", "1"),
        ("set_model_version_tag", "2"),
    ):
        killed_at(server, call, lambda: promote_run(second))
        assert pointer(first)[0] == serves
        assert_whole(first)
    assert promote_run(second) == "unchanged"
    assert [e["to"] for e in read_history("smar")] == ["1", "2"]
    assert read_history("smar")[-1]["evidence"]["reasons"]


def test_a_server_killed_during_a_refresh_and_a_rollback_leaves_one_whole(
    home: Path, server: Server, first: Run, second: Run
) -> None:
    register_run(second)
    promote_run(second)
    run = refresh_run(home, "refresh", release="1", release_settings={"tracking_uri": server.address})
    before, champion = Registry(first.settings).version("1").tags["index"], pointer(first)
    for call in ("log_artifacts", "set_model_version_tag"):
        killed_at(server, call, lambda: publish_index(run))
        assert Registry(first.settings).version("1").tags["index"] == before
        assert_whole(first)
    assert publish_index(run) == "published"
    assert publish_index(run) == "unchanged"
    killed_at(server, "set_registered_model_alias", lambda: roll_back(run, reason="a fault", by="Ada"))
    assert pointer(first) == champion
    killed_at(server, "set_registered_model_tag", lambda: roll_back(run, reason="a fault", by="Ada"))
    assert pointer(first) == ("1", run.output("refresh-index").digest)
    assert_whole(first)
    assert [(e["action"], e["by"]) for e in read_history("smar")][-1] == ("rollback", "Ada")
    # Whoever reads it gets the index from the server.
    release = Registry(first.settings).release("1")
    assert Path(release.index_folder).parent == cache_folder()
    searcher = Searcher.load(Path(release.model_folder), Path(release.index_folder))
    assert len(searcher.items["item_id"]) == ITEMS - 1


def test_an_index_on_the_server_goes_once_another_has_replaced_it_for_a_day(
    home: Path, server: Server, first: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(first.settings)
    version = registry.version("1")
    assert version.run_id
    kept = {f.path for f in registry.client.list_artifacts(version.run_id)}
    assert any(path.startswith("index-") for path in kept)
    prune(first.settings)
    assert {f.path for f in registry.client.list_artifacts(version.run_id)} == kept
    registry.tag("1", "index", version.tags["smar.index_digest"])
    reconcile(first.settings)
    monkeypatch.setattr("smar_model.release.prune.REFRESH_AGE", timedelta(0))
    prune(first.settings)
    left = {f.path for f in registry.client.list_artifacts(version.run_id)}
    assert left == {path for path in kept if not path.startswith("index-")}
    assert_whole(first)


def test_a_changed_copy_is_brought_again_and_what_was_changed_on_the_server_is_refused(
    home: Path, server: Server, first: Run
) -> None:
    registry = Registry(first.settings)
    release = registry.release("1")
    copied = Path(release.model_folder) / "network.json"
    whole = copied.read_bytes()
    copied.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=r"network\.json: damaged"):
        registry.release("1")  # it has just been brought
    os.utime(release.folder, (time.time() - 3_600,) * 2)
    assert registry.release("1") == release
    assert copied.read_bytes() == whole

    model = str(registry.version("1").source).removeprefix("models:/")
    (on_server,) = (server.folder / "artifacts").rglob(f"{model}/artifacts/pyfunc_model.py")
    code = on_server.read_bytes()
    on_server.write_bytes(code + b"raise SystemExit(77)\n")
    assert registry.release("1") == release, "what was verified is used on"
    shutil.rmtree(cache_folder())
    with pytest.raises(InputError, match=r"pyfunc_model\.py: damaged, or changed"):
        reconcile(first.settings)
    on_server.write_bytes(code)
    # With the key gone nothing serves, until the version is signed by another.
    (home / "keys").rename(home / "lost")
    with pytest.raises(InputError, match="not among the trusted ones"):
        reconcile(first.settings)
    for version in {"1", pointer(first)[0]}:
        sign_version(first.settings, version, by="Ada")
    assert_whole(first)


def test_tracking_what_a_dead_server_missed_is_made_good(home: Path, server: Server, first: Run) -> None:
    killed_at(server, "log_batch", lambda: track_run(first))
    state = first.state("track")
    assert state and state["state"] == "failed"
    assert all(
        run_state["state"] == "finished" for s in ("finetune", "evaluate", "promote") if (run_state := first.state(s))
    )
    parent = track_run(first)
    assert Registry(first.settings).client.get_run(parent).info.status == "FINISHED"
