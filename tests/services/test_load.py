"""`smar serve` under load, while two promotions, a refresh and a rollback happen: no failed request, no mixed answer.

First as many requests as it can answer are counted, then they arrive at a share of that for SMAR_TEST_MINUTES (10), then at twice as many, where some are
turned away and the memory stays as it was. The figures go to `benchmarks/services.md`.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import urllib.error
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from smar_model.lake.artifacts import Artifact
from smar_model.retrieval.search import Searcher
from tests.patience import PATIENCE_SECONDS
from tests.services.load_clients import Pair, Seen, run_clients
from tests.services.results import record
from tests.services.served import get, running_server
from tests.serving.serving_shop import ServingShop, serving_shop
from tests.tiny_shop import tiny_items

CLIENTS = 64
LOAD, OVERLOAD = 0.8, 2.0
"""Requests that arrive, by those that the server can answer."""
CAPACITY_SECONDS = 15.0
OVERLOAD_CONNECTIONS = 4 * CLIENTS
"""As many as it takes for requests to go on arriving while others wait."""
OVERLOAD_SHARE = 0.2
"""Of SMAR_TEST_MINUTES."""
FLAT = 1.15
"""Memory at the end of the overload by that before it, at most."""
MINUTES = float(os.environ.get("SMAR_TEST_MINUTES", "10"))
COPIES = 200
"""Of the tiny shop's items in the refreshed indexes, which are 4,800 items large."""
POLL_SECONDS = 1.0
QUERIES = [
    f"{colour} {kind}" for colour in ("red", "blue", "green", "black") for kind in ("shirt", "dress", "novel", "")
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingShop]:
    items = [
        item | {"item_id": f"{item['item_id']}-{n:04}", "title": f"{item['title']} of {n}"}
        for item in tiny_items()
        for n in range(COPIES)
    ]
    # The network that ships, untrained: its answers mean nothing, and take as long.
    with serving_shop(tmp_path_factory, versions=3, network={}, refreshed_items=items) as shop:
        yield shop


def pair_and_scores(shop: ServingShop, version: str, index: Artifact) -> tuple[Pair, dict[str, list[float]]]:
    finetune = shop.runs[version].output("finetune")
    searcher = Searcher.load(finetune.folder / "model", index.folder)
    scores = {query: [hit.score for hit in searcher.search([query], k=10)[0][0]] for query in QUERIES}
    return (version, finetune.manifest["content"]["model"], index.digest), scores


def test_releases_under_load_fail_no_request_and_mix_no_answer(shop: ServingShop, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    large = shop.refreshed
    for version in ("1", "3"):
        shop.point_to(version, large[version])
    states = [
        pair_and_scores(shop, "1", large["1"]),
        pair_and_scores(shop, "2", shop.runs["2"].output("index")),
        pair_and_scores(shop, "2", large["2"]),
        pair_and_scores(shop, "3", large["3"]),
    ]
    before, released, refreshed, second = (pair for pair, _ in states)
    changes: list[tuple[str, Callable[[], None], Pair]] = [
        ("promotion of version 2", lambda: shop.promote("2"), released),
        ("refresh of its index", lambda: shop.point_to("2", large["2"]), refreshed),
        ("promotion of version 3", lambda: shop.promote("3"), second),
        ("rollback to version 2", lambda: shop.promote("2"), refreshed),
    ]
    log, seconds = tmp_path / "server.log", 60 * MINUTES
    expected = dict(states)
    with (
        running_server(shop.settings_file, log, poll_seconds=POLL_SECONDS) as address,
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as elsewhere,
    ):
        ask = partial(elsewhere.submit, run_clients, address, expected)
        most = ask(clients=CLIENTS, until=time.time() + CAPACITY_SECONDS).result(CAPACITY_SECONDS + PATIENCE_SECONDS)
        capacity = len(most.seconds) / CAPACITY_SECONDS
        began, busy = time.time(), busy_seconds()
        asked = ask(clients=CLIENTS, until=began + seconds, rate=LOAD * capacity)
        followed = []
        for number, (name, change, wanted) in enumerate(changes, start=1):
            time.sleep(max(0.0, began + number * seconds / (len(changes) + 1) - time.time()))
            change()
            changed = time.monotonic()
            while pair_that_answers(address) != wanted:
                assert time.monotonic() < changed + PATIENCE_SECONDS, (
                    f"{name} was not followed: {get(address, 'readyz')}"
                )
                time.sleep(0.05)
            followed.append(f"{name} {time.monotonic() - changed:.1f} s")
        usual = asked.result(timeout=seconds + PATIENCE_SECONDS)
        busy = [after - before for after, before in zip(busy_seconds(), busy, strict=True)]
        (server,) = (each for each in psutil.Process().children() if "serve" in each.cmdline())
        memory = server.memory_info().rss
        overload = OVERLOAD_SHARE * seconds
        asked = ask(clients=OVERLOAD_CONNECTIONS, until=time.time() + overload, rate=OVERLOAD * capacity)
        above = asked.result(timeout=overload + PATIENCE_SECONDS)
        grown = server.memory_info().rss / memory
        problems = get(address, "readyz")["problems"]
    assert most.failures == usual.failures == above.failures == []
    assert problems == []
    assert "ERROR" not in log.read_text(encoding="utf-8")
    assert set(usual.answers_of) == {before, released, refreshed, second}
    assert above.seconds
    assert grown < FLAT
    lines = [
        f"`make test-services` with SMAR_TEST_MINUTES={MINUTES:g}. {CLIENTS} clients on the same machine; the network that ships (untrained), "
        f"{len(tiny_items()) * COPIES:,} items of which 10 are asked for.",
        f"First each asks its next query as soon as it has an answer; then requests arrive at {LOAD:g} of the rate that was answered, and at {OVERLOAD:g} times it "
        f"over {OVERLOAD_CONNECTIONS} connections. A request's time counts from its arrival.",
        "",
        f"At {LOAD:g} of it {busy[1] / busy[0]:.0%} of the machine's time went to server and clients, {max(0, 1 - (busy[1] + busy[2]) / busy[0]):.0%} to what else ran on it. "
        f"Memory after the overload ÷ before: {grown:.2f}.",
        "",
        "| | answered | turned away | failed | mixed | answered/s | p50 ms | p99 ms | p99.9 ms | longest ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        _row("as fast as they can", most, CAPACITY_SECONDS),
        _row(f"at {LOAD:g} of that", usual, seconds),
        _row(f"at {OVERLOAD:g} times that", above, overload),
        "",
        f"At {LOAD:g} of it, from the change in the registry to the first answer (a look every {POLL_SECONDS:g} s): {'; '.join(followed)}.",
    ]
    print("\n" + "\n".join(lines))
    record("`smar serve`, followed releases", lines)


def _row(name: str, seen: Seen, seconds: float) -> str:
    milliseconds = 1_000 * np.array(seen.seconds)
    p50, p99, p999 = np.percentile(milliseconds, [50, 99, 99.9])
    return (
        f"| {name} | {len(milliseconds):,} | {seen.shed:,} | 0 | 0 | {len(milliseconds) / seconds:,.0f} | {p50:.1f} | {p99:.1f} | {p999:.1f} "
        f"| {milliseconds.max():.0f} |"
    )


def pair_that_answers(address: str) -> Pair | None:
    """None where it turns the question away."""
    try:
        answer = get(address, "search?q=red&k=1")
    except urllib.error.HTTPError as error:
        if error.code != 503:
            raise
        return None
    return answer["version"], answer["model_digest"], answer["index_digest"]


def busy_seconds() -> list[float]:
    """So far, over all cores: time that went by, what this process and those it began have computed, what was idle."""
    now, own = psutil.cpu_times(), psutil.Process()
    mine = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return [sum(now), sum(times.user + times.system for times in mine), now.idle + now.iowait]
