"""MLflow's own server over a released version: the pair that is promoted also answers where a team runs nothing of ours."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from smar_model.retrieval.search import Searcher
from smar_model.settings import REPOSITORY
from tests.patience import PATIENCE_SECONDS, wait_until
from tests.serving.serving_shop import ServingShop, serving_shop
from tests.tiny_shop import ITEMS


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingShop]:
    with serving_shop(tmp_path_factory, versions=1) as shop:
        yield shop


def test_mlflow_models_serve_answers_with_items_and_pictures(shop: ServingShop, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        "models:/smar@champion",
        "--env-manager",
        "local",
    ]
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": shop.settings.tracking_uri,
        "PYTHONPATH": str(REPOSITORY),
        # It starts `uvicorn` by that name, as in an activated environment.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    log = tmp_path / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", address.rsplit(":", 1)[1]],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(
            lambda: answers(f"{address}/ping"),
            still_possible=lambda: process.poll() is None,
            says=lambda: log.read_text(encoding="utf-8"),
        )
        asked = {"dataframe_split": {"columns": ["query"], "data": [["red shirt"], ["novel"]]}, "params": {"k": ITEMS}}
        request = urllib.request.Request(
            f"{address}/invocations", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            rows = json.loads(answer.read())["predictions"]
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=PATIENCE_SECONDS)
    run = shop.runs["1"]
    searcher = Searcher.load(run.output("finetune").folder / "model", run.output("index").folder)
    for row, hits in zip(rows, searcher.search(["red shirt", "novel"], k=ITEMS)[0], strict=True):
        assert row["item_id"] == [hit.item_id for hit in hits]
        assert row["title"] == [hit.title for hit in hits]
        assert row["score"] == pytest.approx([hit.score for hit in hits])
        assert [len(uris) for uris in row["pictures"]] == [len(hit.images) for hit in hits]
        assert all(Path(unquote(urlparse(uri).path)).is_file() for uris in row["pictures"] for uri in uris)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
