"""`smar serve --processes`: several processes behind one port answer as one does, and are ended and replaced."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from smar_model.settings import REPOSITORY
from tests.patience import PATIENCE_SECONDS, wait_until
from tests.serving.serving_shop import ServingShop, serving_shop
from tests.serving.test_live import served

PROCESSES = 2
ASKED = 40


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingShop]:
    with serving_shop(tmp_path_factory, versions=2) as shop:
        yield shop


def samples(client: httpx.Client, name: str) -> dict[str, float]:
    """Process → value, summed over other labels."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name and sample.labels.get("path", "/search") == "/search":
                found[sample.labels["process"]] += sample.value
    return dict(found)


def answering(server: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(server.pid).children()


def both_serve(client: httpx.Client) -> bool:
    return samples(client, "smar_serving") == {"0": 1.0, "1": 1.0}


def test_all_processes_answer_and_any_of_them_tells_what_all_have_counted(shop: ServingShop) -> None:
    with served(shop, "--processes", str(PROCESSES)) as (server, client):
        assert len(answering(server)) == PROCESSES
        wait_until(lambda: both_serve(client))
        answers = []
        for _ in range(ASKED):  # each over a connection of its own, which either may take
            with httpx.Client(base_url=str(client.base_url), timeout=PATIENCE_SECONDS) as one:
                answers.append(one.get("/search", params={"q": "red shirt", "k": 3}).json()["hits"])
        assert all(answer == answers[0] for answer in answers)
        assert sum(samples(client, "smar_requests_total").values()) == ASKED
        shop.promote("2")
        try:
            # Both follow, each by itself.
            wait_until(
                lambda: client.get("/search", params={"q": "red"}).json()["version"] == "2" and both_serve(client)
            )
        finally:
            shop.promote("1")
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE_SECONDS) == 0


def test_a_process_that_dies_is_replaced_and_the_others_go_on(shop: ServingShop) -> None:
    with served(shop, "--processes", str(PROCESSES)) as (server, client):
        wait_until(lambda: both_serve(client))
        killed, kept = answering(server)
        killed.kill()

        def replaced() -> bool:
            with httpx.Client(base_url=str(client.base_url), timeout=PATIENCE_SECONDS) as other:
                assert other.get("/search", params={"q": "red"}).status_code in {
                    200,
                    503,
                }  # 503: the new one has no champion yet
                return both_serve(other)

        wait_until(replaced)
        now = answering(server)
        assert len(now) == PROCESSES
        assert kept in now
        assert killed not in now


def test_no_process_outlives_the_first_one(shop: ServingShop) -> None:
    with served(shop, "--processes", str(PROCESSES)) as (server, _):
        left = answering(server)
        server.kill()
        server.wait()
        wait_until(lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in left))


def test_ctrl_c_at_a_terminal_ends_all_of_them_once(shop: ServingShop) -> None:
    with served(shop, "--processes", str(PROCESSES)) as (server, client):
        wait_until(lambda: both_serve(client))
        # What a terminal does: to every process of the foreground group.
        for each in [psutil.Process(server.pid), *answering(server)]:
            if os.getpgid(each.pid) == os.getpgid(server.pid):
                each.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE_SECONDS) == 0


def test_what_is_wrong_with_all_of_them_is_said_once(shop: ServingShop, tmp_path: Path) -> None:
    place = tmp_path / "a file"
    place.touch()
    command = [sys.executable, "-m", "smar_model.cli", "serve", "--settings", str(shop.settings_file), "--port", "0"]
    done = subprocess.run(
        [*command, "--processes", "3", "--log", str(place)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 2
    assert re.findall(r"^error: .+$", done.stderr, re.M) == [done.stderr.strip()]
    assert "a file" in done.stderr
