"""`smar serve --part` and `--front` as processes: three parts and one in front of them, beside one server with the whole index."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event

import numpy as np
import pytest

from tests.services.results import record
from tests.services.served import get, running_server
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
