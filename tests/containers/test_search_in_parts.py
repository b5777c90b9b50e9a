"""An index in four parts, each in two containers, and a front before them: as `docker compose --profile search-parts` starts them.

Equal to one index; a part whose servers are all away is named; while one server of each part is killed no request fails.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.containers.cluster_shop import SETTINGS, fill_home
from tests.containers.compose_file import read_compose_file
from tests.containers.images import BuiltImages
from tests.containers.running_services import ADDRESS, NOT_HERE, RunningServices, airflow_of, running_services
from tests.patience import wait_until
from tests.services.results import record
from tests.tiny_shop import LAST_DAY

PARTS = 4
CLIENTS = 4
ITEMS = 10 * PARTS
"""A part begins at a multiple of eight."""
FRONT, WHOLE = f"http://{ADDRESS}:8001", f"http://{ADDRESS}:8000"
QUERIES = [f"{colour} {kind}" for colour in ("red", "blue", "black") for kind in ("shirt", "dress", "novel")]
VARIABLES = {"BIND_ADDRESS": ADDRESS, "MLFLOW_HOSTS": f",{ADDRESS}:*", "SMAR_SETTINGS": str(SETTINGS)}


def container(part: int, copy: str) -> str:
    return f"smar-search-part-{part}{copy}-1"


def ask(address: str, path: str, **more: Any) -> tuple[int, Any]:
    """Status and what is answered."""
    query = f"?{urllib.parse.urlencode(more)}" if more else ""
    try:
        with urllib.request.urlopen(f"{address}/{path}{query}", timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def hits(address: str, query: str) -> list[tuple[str, float]]:
    status, answer = ask(address, "search", q=query, k=20)
    assert status == 200, answer
    return [(hit["item_id"], round(hit["score"], 5)) for hit in answer["hits"]]


@pytest.fixture(scope="module")
def services(
    built: BuiltImages, targets: dict[str, str], secrets: Path, tmp_path_factory: pytest.TempPathFactory, logs: Path
) -> Iterator[RunningServices]:
    """All of them, once a run has released an index in four parts."""
    delivered = tmp_path_factory.mktemp("delivered")
    fill_home(built.podman, targets["search"], delivered, items=ITEMS, index={"parts": PARTS})
    described = read_compose_file(VARIABLES, secrets=secrets, profiles=frozenset({"search", "search-parts"}))
    wanted = {name: service for name, service in described.items() if name not in NOT_HERE}
    with running_services(built.podman, wanted, logs / "search_in_parts") as running:
        airflow = airflow_of(secrets)
        airflow.turn_on("smar_retrain")
        run = airflow.trigger("smar_retrain", date=str(LAST_DAY))
        assert airflow.wait("smar_retrain", run) == "success", airflow.states("smar_retrain", run)
        wait_for(running, FRONT, 200)
        wait_for(running, WHOLE, 200)
        yield running


def wait_for(services: RunningServices, address: str, status: int) -> None:
    def is_there() -> bool:
        try:
            return ask(address, "readyz")[0] == status
        except OSError:
            return False

    wait_until(is_there, says=lambda: services.logs("smar-search-front-1"))


def test_four_parts_and_a_front_answer_as_one_index(services: RunningServices) -> None:
    for query in QUERIES:
        assert hits(FRONT, query) == hits(WHOLE, query)


def test_no_request_fails_while_one_server_of_each_part_is_killed(services: RunningServices) -> None:
    wanted, done = {query: hits(WHOLE, query) for query in QUERIES}, Event()

    def keep_asking() -> int:
        asked = 0
        while not done.is_set():
            query = QUERIES[asked % len(QUERIES)]
            assert hits(FRONT, query) == wanted[query]
            asked += 1
        return asked

    with ThreadPoolExecutor(CLIENTS) as clients:
        asking = [clients.submit(keep_asking) for _ in range(CLIENTS)]
        try:
            for part in range(PARTS):
                services.podman.run("kill", "--signal=KILL", container(part, "a"))
            wait_for(services, FRONT, 200)
            for part in range(PARTS):
                services.podman.run("start", container(part, "a"), check=False)
        finally:
            done.set()
        asked = sum(client.result() for client in asking)
    assert asked > PARTS
    record(
        "Search in four parts",
        [
            f"{2 * PARTS} containers with a part each, two of each part, and a front; the tiny shop. While one server of each part was killed "
            f"{CLIENTS} clients asked {asked} times: no request failed, and each answer was that of one server with the whole index."
        ],
        page="containers",
    )


def test_a_part_that_is_lost_is_named_and_comes_back(services: RunningServices) -> None:
    before = {query: hits(FRONT, query) for query in QUERIES}
    for copy in "ab":
        services.podman.run("stop", container(2, copy))
    status, answer = ask(FRONT, "search", q=QUERIES[0])
    assert status == 503 and "search-part-2" in answer["detail"], answer
    for copy in "ab":
        services.podman.run("start", container(2, copy))
    wait_for(services, FRONT, 200)
    assert {query: hits(FRONT, query) for query in QUERIES} == before
