"""What the log costs those who search: p50 and p99 of a server with --log as a share of one without, 16 clients side by side.

    SMAR_HOME=HOME python benchmarks/live.py [--settings FILE] [--rounds 10] [--requests 4000] [--clients 16]

HOME has a champion. Both servers run all the time; rounds alternate between them, so that what else the machine does meets both alike. Prints
one line a round and the medians of the ratios of rounds.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

QUERIES = [
    "red dress",
    "blue shirt",
    "running shoes",
    "novel",
    "black bag",
    "cereals",
    "watch for women",
    "green kurta",
]


def start(settings: str | None, *options: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "smar_model.cli", "serve", "--port", "0", *options]
    command += ["--settings", settings] if settings else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = re.search(r"http://[0-9.]+:\d+", process.stdout.readline())
    if address is None:
        sys.exit("the server has not begun; see above")
    while httpx.get(f"{address[0]}/readyz", timeout=60).status_code != 200:
        time.sleep(0.2)
    return process, address[0]


def ask(address: str, clients: int, requests: int) -> tuple[float, float]:
    """p50 and p99 in milliseconds of so many requests, by so many clients at once."""
    seconds: list[list[float]] = [[] for _ in range(clients)]

    def run(number: int) -> None:
        with httpx.Client(base_url=address, timeout=60) as client:
            for n in range(requests // clients):
                asked = {"q": QUERIES[(n + number) % len(QUERIES)], "user": f"user {number}", "session": f"{n // 10}"}
                started = time.perf_counter()
                client.get("/search", params=asked).raise_for_status()
                seconds[number].append(time.perf_counter() - started)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cuts = statistics.quantiles((1_000 * each for of_one in seconds for each in of_one), n=100)
    return cuts[49], cuts[98]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--settings")
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--requests", type=int, default=4_000)
    options.add_argument("--clients", type=int, default=16)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plain, without = start(given.settings)
        logging, logged = start(given.settings, "--log", str(Path(folder, "log")))
        try:
            ratios = []
            for number in range(given.rounds + 1):
                order = [without, logged] if number % 2 else [logged, without]
                found = {address: ask(address, given.clients, given.requests) for address in order}
                if not number:  # the first one warms both
                    continue
                ratios.append([b / a for a, b in zip(found[without], found[logged], strict=True)])
                (p50, p99), (p50_log, p99_log) = found[without], found[logged]
                print(f"round {number}: p50 {p50:.2f} → {p50_log:.2f} ms, p99 {p99:.2f} → {p99_log:.2f} ms", flush=True)
            p50, p99 = (statistics.median(each) for each in zip(*ratios, strict=True))
            print(f"with --log / without, median of {given.rounds} rounds: p50 {p50:.3f}, p99 {p99:.3f}")
            text = httpx.get(f"{logged}/metrics", timeout=60).text
            print(*(line for line in text.splitlines() if re.match(r"smar_log_\w+[{ ]", line)), sep="\n")
            print(f"{os.cpu_count()} cores, {given.clients} clients, {given.requests} requests a round and server")
        finally:
            for process in (plain, logging):
                process.send_signal(signal.SIGTERM)
            for process in (plain, logging):
                process.wait()


if __name__ == "__main__":
    main()
