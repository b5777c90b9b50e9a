"""What abusive clients cost the others of a server, side by side: writes a section of benchmarks/abuse.md.

    PYTHONPATH=. python benchmarks/abuse.py [--title TITLE] [--seconds 5]

A server of the checkout that is the working folder, over 4,800 items (the network that ships, untrained), under one abuse after another, each by a
process of its own. Meanwhile another client asks `/healthz` every 20 ms and an ordinary search every 100 ms. To measure an older checkout, run this
file from its folder. Takes about two minutes on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import datetime as dt
import http.client
import importlib.util
import multiprocessing
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import psutil

PAGE = Path(__file__).with_suffix(".md")
CLIENTS_FILE = Path(__file__).parents[1] / "tests" / "serving" / "abusive_clients.py"
COPIES = 200
"""Of the tiny shop's 24 items."""
CALM_SECONDS = 3.0
"""After each abuse, to see what it leaves behind."""
HEAD = """# Abuse

Written by `benchmarks/abuse.py`, section by section, each when it was last run: what `/healthz` and ordinary searches take while others abuse a server, and its memory.
"""


def clients() -> Any:
    """This checkout's abusive clients, whatever the checkout is that is measured."""
    spec = importlib.util.spec_from_file_location("abusive_clients", CLIENTS_FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


KINDS: dict[str, Callable[[Any, str], list[Any] | None]] = {
    "nothing": lambda by, to: time.sleep(1),
    "32 queries of 10,000 ligatures": lambda by, to: by.ask_at_once(to, by.search_request([by.LIGATURES], 10), 32),
    "32 queries of 10,000 combining marks": lambda by, to: by.ask_at_once(to, by.search_request([by.MARKS], 10), 32),
    "8 × 256 queries, k = 1,000": lambda by, to: by.ask_at_once(to, by.search_request(["red"] * 256, 1_000), 8),
    "8 × 256 queries, k = 50": lambda by, to: by.ask_at_once(to, by.search_request(["red"] * 256, 50), 8),
    "20 × 256 queries, k = 1,000, not read": lambda by, to: by.unread_answers(to, 20, queries=256, k=1_000),
    "60 × 256 queries, k = 50, not read": lambda by, to: by.unread_answers(to, 60, queries=256, k=50),
    "75 heads of 2 MB that do not end": lambda by, to: by.endless_headers(to, 75, 2_000_000),
    "300 requests half sent": lambda by, to: by.half_sent(to, 300),
    "30 bodies of 15 MB": lambda by, to: by.ask_at_once(to, by.search_request(["a" * 15_000_000], 10), 30),
    "30 bodies of 900 kB": lambda by, to: by.ask_at_once(to, by.search_request(["a" * 9_000] * 100, 10), 30),
    "a cut picture of 9,900², 60 times": lambda by, to: by.ask_at_once(to, by.get_request("/picture?name=cut.png"), 60),
    "a cut picture of 5,000², 60 times": lambda by, to: by.ask_at_once(
        to, by.get_request("/picture?name=5000.png"), 60
    ),
    "10,000 requests before the first answer": lambda by, to: [
        by.ask(to, by.get_request("/healthz", close=False) * 10_000)
    ],
    **{
        f"1,000 requests to {path} ahead on 300 connections": partial(
            lambda path, by, to: by.sent_ahead(to, path, 300), path
        )
        for path in ("/metrics", "/openapi.json", "/search?q=red&k=10")
    },
}
"""Abuse → what does it once to the server of an address, by `abusive_clients`; connections that it returns are kept for a while."""


def abuse(name: str, address: str, began: Event) -> None:
    """Abuse a server, again and again, until this process is ended."""
    by, kept = clients(), []
    began.set()
    while True:
        with suppress(OSError):  # what a server does to such clients is not what is measured
            kept.append(KINDS[name](by, address))
        time.sleep(0.5)


class Client:
    """An ordinary client, with one connection that it opens again when the server has closed it."""

    def __init__(self, address: str) -> None:
        self.where = urlparse(address).netloc
        self.connection = http.client.HTTPConnection(self.where, timeout=30)

    def seconds(self, path: str) -> float | None:
        """None: it was not answered with 200."""
        began = time.perf_counter()
        try:
            self.connection.request("GET", path)
            answer = self.connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self.connection.close()
            self.connection = http.client.HTTPConnection(self.where, timeout=30)
            return None
        return time.perf_counter() - began if answer.status == 200 else None


def measure(address: str, process: psutil.Process, name: str, seconds: float) -> str:
    """One row of the table."""
    began = process.memory_info().rss
    started = multiprocessing.get_context("spawn").Event()
    abuser = multiprocessing.get_context("spawn").Process(target=abuse, args=(name, address, started))
    abuser.start()
    started.wait()
    probe, shopper, until = Client(address), Client(address), time.monotonic() + seconds
    healthy: list[float] = []
    searched: list[float | None] = []
    failed, largest, turn = 0, began, 0
    ended = False
    while True:
        now = time.monotonic()
        if now > until + CALM_SECONDS:
            break
        if now > until and not ended:
            abuser.kill()
            ended = True
        each = probe.seconds("/healthz")
        failed += each is None
        healthy += [each] if each is not None else []
        if turn % 5 == 0:
            searched.append(shopper.seconds("/search?q=red+shirt&k=10"))
        largest = max(largest, process.memory_info().rss)
        turn += 1
        time.sleep(0.02)
    abuser.join()
    healthy.sort()
    served = sorted(each for each in searched if each is not None)
    left = process.memory_info().rss - began
    return (
        f"| {name} | {1_000 * healthy[len(healthy) // 2]:.1f} | {1_000 * healthy[-1]:,.0f} | {failed} "
        f"| {1_000 * served[len(served) // 2]:.1f} | {1_000 * served[-1]:,.0f} | {len(searched) - len(served)} of {len(searched)} "
        f"| {(largest - began) / 1e6:,.0f} | {left / 1e6:,.0f} |"
    )


def write(title: str, rows: list[str]) -> None:
    from smar_model.lake.checkout import commit
    from tests.services.results import processor

    lines = [
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC, commit {commit()}, {len(os.sched_getaffinity(0))} cores ({processor()}), "
        f"Python {platform.python_version()}. Load of the machine when it began: {LOAD:.1f} processes that could run.",
        "",
        "| abuse | `/healthz` p50 ms | longest ms | failed | search p50 ms | longest ms | not served | most memory beyond the start, MB | left afterwards, MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *rows,
    ]
    content = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    sections = dict(re.findall(r"^## (.+?)\n\n(.*?)\s*(?=^## |\Z)", content, re.S | re.M)) | {title: "\n".join(lines)}
    PAGE.write_text(HEAD + "".join(f"\n## {name}\n\n{text}\n" for name, text in sections.items()), encoding="utf-8")


LOAD = os.getloadavg()[0]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--title", default="With limits")
    options.add_argument("--seconds", type=float, default=5.0)
    chosen = options.parse_args()
    sys.path.insert(0, os.getcwd())
    import subprocess

    with tempfile.TemporaryDirectory() as folder:
        os.environ["SMAR_HOME"] = folder
        from tests.serving.serving_shop import make_serving_shop
        from tests.tiny_shop import tiny_items

        items = [
            item | {"item_id": f"{item['item_id']}-{n:04}", "title": f"{item['title']} of {n}"}
            for item in tiny_items()
            for n in range(COPIES)
        ]
        shop = make_serving_shop(Path(folder), versions=1, network={}, refreshed_items=items)
        shop.point_to("1", shop.refreshed["1"])
        pictures = Path(folder) / "shop" / "pictures"
        for name, side in (("cut.png", 9_900), ("5000.png", 5_000)):
            (pictures / name).write_bytes(clients().cut_picture(side))
        command = [
            sys.executable,
            "-m",
            "smar_model.cli",
            "serve",
            "--port",
            "0",
            "--settings",
            str(shop.settings_file),
        ]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+:\d+", server.stdout.readline())
            assert found
            probe = Client(found[0])
            while probe.seconds("/readyz") is None:
                time.sleep(0.1)
            probe.seconds("/search?q=red+shirt&k=10")
            row = partial(measure, found[0], psutil.Process(server.pid))
            rows = []
            for name in KINDS:
                rows.append(row(name, chosen.seconds))
                print(rows[-1], flush=True)
        finally:
            server.kill()
            server.wait()
        write(chosen.title, rows)


if __name__ == "__main__":
    main()
