"""`smar serve --part` and `--front` as processes: three parts and one in front of them, beside one server with the whole index."""

from __future__ import annotations

import time
import urllib.error
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from tests.services.results import record
from tests.services.served import RunningServer, get, running_server, started
from tests.serving.serving_shop import ServingShop, serving_shop

PARTS = 3
CLIENTS = 4
TIMED = 300
QUERIES = [f"{colour}%20{kind}" for colour in ("red", "blue", "black") for kind in ("shirt", "dress", "novel")]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingShop]:
    with serving_shop(tmp_path_factory, versions=2, network={}, index={"parts": PARTS}) as shop:
        yield shop


@pytest.fixture(scope="module")
def addresses(shop: ServingShop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Of the front, and of the server with the whole index."""
    logs = tmp_path_factory.mktemp("logs")
    with ExitStack() as running:

        def start(name: str, *options: str) -> str:
            server = running_server(shop.settings_file, logs / name, poll_seconds=1.0, options=options)
            return running.enter_context(server)

        parts = [start(f"part-{part}", "--part", str(part)) for part in range(PARTS)]
        front = start("front", *(option for address in parts for option in ("--front", address)))
        yield front, start("whole")


def items(address: str, query: str, **more: object) -> list[str]:
    options = "".join(f"&{name}={value}" for name, value in more.items())
    return [hit["item_id"] for hit in get(address, f"search?q={query}{options}")["hits"]]


def milliseconds(address: str) -> np.ndarray:
    times = []
    for number in range(TIMED):
        began = time.perf_counter()
        get(address, f"search?q={QUERIES[number % len(QUERIES)]}")
        times.append(1_000 * (time.perf_counter() - began))
    return np.array(times)


def test_the_front_answers_as_one_server(addresses: tuple[str, str]) -> None:
    front, whole = addresses
    for query in QUERIES:
        assert items(front, query) == items(whole, query)
        assert items(front, query, k=24, department="Clothing") == items(whole, query, k=24, department="Clothing")
    times = {"one server": milliseconds(whole), f"a front and {PARTS} parts": milliseconds(front)}
    lines = [
        "Processes of one machine, 24 items, the network that ships: what the way through a front costs, one request after another.",
        "",
        "| | p50 ms | p99 ms |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {np.percentile(t, 50):.1f} | {np.percentile(t, 99):.1f} |" for name, t in times.items()),
    ]
    record("A front and parts of an index", lines)


def test_a_promotion_mixes_no_answer_and_fails_no_request(shop: ServingShop, addresses: tuple[str, str]) -> None:
    front, done = addresses[0], Event()
    pairs = {
        (version, run.output("finetune").manifest["content"]["model"], run.output("index").digest)
        for version, run in shop.runs.items()
    }

    def ask() -> list[str]:
        seen = []
        while not done.is_set():
            answer = get(front, f"search?q={QUERIES[len(seen) % len(QUERIES)]}")
            assert (answer["version"], answer["model_digest"], answer["index_digest"]) in pairs
            seen.append(answer["version"])
        return seen

    with ThreadPoolExecutor(CLIENTS) as clients:
        asking = [clients.submit(ask) for _ in range(CLIENTS)]
        try:
            time.sleep(2)
            shop.promote("2")
            time.sleep(8)
        finally:
            done.set()
        for seen in (client.result() for client in asking):
            assert (seen[0], seen[-1]) == ("1", "2") and seen == sorted(seen), "first one version, then the other"
    shop.promote("1")


def test_no_request_fails_while_one_server_of_each_part_is_killed(
    shop: ServingShop, addresses: tuple[str, str], tmp_path: Path
) -> None:
    wanted, done = {query: items(addresses[1], query) for query in QUERIES}, Event()

    def start(name: str, *options: str) -> RunningServer:
        return started(shop.settings_file, tmp_path / name, options)

    with ExitStack() as running:
        replicas = [
            [running.enter_context(start(f"{part}{copy}", "--part", str(part))) for copy in "ab"]
            for part in range(PARTS)
        ]
        options = (o for part in replicas for o in ("--front", ",".join(server.address for server in part)))
        front = running.enter_context(start("front", *options)).address

        def ask() -> int:
            asked = 0
            while not done.is_set():
                query = QUERIES[asked % len(QUERIES)]
                assert items(front, query) == wanted[query]
                asked += 1
            return asked

        with ThreadPoolExecutor(CLIENTS) as clients:
            asking = [clients.submit(ask) for _ in range(CLIENTS)]
            try:
                for first, _ in replicas:
                    first.process.kill()
                    first.process.wait()
                    assert [items(front, query) for query in QUERIES] == list(wanted.values())
            finally:
                done.set()
            assert all(client.result() for client in asking)
        replicas[1][1].process.kill()
        replicas[1][1].process.wait()
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(front, f"search?q={QUERIES[0]}")
        assert refused.value.code == 503
        assert any(server.address in refused.value.read().decode() for server in replicas[1]), "it names the part"
