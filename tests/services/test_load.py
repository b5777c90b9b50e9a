"""`smar serve` under load, while two promotions, a refresh and a rollback happen: no failed request, no mixed answer.

SMAR_TEST_MINUTES says how long (10). The figures go to `benchmarks/services.md`.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from smar_model.lake.artifacts import Artifact
from smar_model.retrieval.search import Searcher
from tests.patience import PATIENCE_SECONDS
from tests.services.load_clients import Pair, run_clients
from tests.services.results import record
from tests.services.served import get, running_server
from tests.serving.serving_shop import ServingShop, serving_shop
from tests.tiny_shop import tiny_items

CLIENTS = 16
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
    with (
        running_server(shop.settings_file, log, poll_seconds=POLL_SECONDS) as address,
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as elsewhere,
    ):
        began, busy = time.time(), busy_seconds()
        asked = elsewhere.submit(run_clients, address, dict(states), clients=CLIENTS, until=began + seconds)
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
        seen = asked.result(timeout=seconds + PATIENCE_SECONDS)
        problems = get(address, "readyz")["problems"]
        busy = [after - before for after, before in zip(busy_seconds(), busy, strict=True)]
    assert seen.failures == []
    assert problems == []
    assert "ERROR" not in log.read_text(encoding="utf-8")
    assert set(seen.answers_of) == {before, released, refreshed, second}
    milliseconds = 1_000 * np.array(seen.seconds)
    p50, p99, p999 = np.percentile(milliseconds, [50, 99, 99.9])
    lines = [
        f"`make test-services` with SMAR_TEST_MINUTES={MINUTES:g}. {CLIENTS} clients on the same machine, each asking its next query as soon as",
        f"it has an answer; the network that ships (untrained), {len(tiny_items()) * COPIES:,} items of which 10 are asked for.",
        "",
        f"Of the machine's time {busy[1] / busy[0]:.0%} went to server and clients, {max(0, 1 - (busy[1] + busy[2]) / busy[0]):.0%} to what else ran on it.",
        "",
        "| requests | failed | mixed | requests/s | p50 ms | p99 ms | p99.9 ms | longest ms |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        f"| {len(milliseconds):,} | 0 | 0 | {len(milliseconds) / seconds:,.0f} | {p50:.1f} | {p99:.1f} | {p999:.1f} "
        f"| {milliseconds.max():.0f} |",
        "",
        f"Meanwhile, from the change in the registry to the first answer (a look every {POLL_SECONDS:g} s): {'; '.join(followed)}.",
    ]
    print("\n" + "\n".join(lines))
    record("`smar serve`, followed releases", lines)


def pair_that_answers(address: str) -> Pair:
    answer = get(address, "search?q=red&k=1")
    return answer["version"], answer["model_digest"], answer["index_digest"]


def busy_seconds() -> list[float]:
    """So far, over all cores: time that went by, what this process and those it began have computed, what was idle."""
    now, own = psutil.cpu_times(), psutil.Process()
    mine = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return [sum(now), sum(times.user + times.system for times in mine), now.idle + now.iowait]
