"""What people wait for at a prompt: CPU seconds, wall time and peak memory of each command, started cold, medians of REPETITIONS.

    SMAR_HOME=HOME python benchmarks/commands.py SETTINGS [--python PYTHON]

HOME has a champion; SETTINGS name its registry and model. PYTHON is another environment's interpreter, such as one of the extra `serve` alone
(`docker/install.sh ENVIRONMENT project serve`). Commands run in turn, so that what the machine does meanwhile falls on all alike. Prints Markdown.
Beside the commands: the bare interpreter, MLflow's whole client alone, imported as `smar search` imports MLflow (`small_start.py`), and `smar serve` until
`/readyz` is 200, with what it holds then and the size of the index's files.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
REPETITIONS = 5
CLIENT = """
from smar_model.small_start import start_small
start_small()
import sys
import smar_model.release
from mlflow import MlflowClient
client = MlflowClient(tracking_uri=sys.argv[1], registry_uri=sys.argv[1])
model = client.get_registered_model(sys.argv[2])
client.get_model_version(sys.argv[2], str(model.aliases["champion"]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    cpu: float
    wall: float
    megabytes: float
    """The most it held."""


def started(command: list[str]) -> Cost:
    """One run of a command to its end."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    wall, process.returncode = time.perf_counter() - begun, os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):  # `smar doctor` ends with 1 where something is missing
        sys.exit(f"{' '.join(command)}: {said.decode()[-2000:]}")
    return Cost(cpu=used.ru_utime + used.ru_stime, wall=wall, megabytes=used.ru_maxrss * 1024 / 1e6)


@contextmanager
def served(command: list[str]) -> Iterator[tuple[str, Cost]]:
    """`smar serve`: its address, and what it cost until it was ready."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        found = re.search(r"http://\S+:\d+", process.stdout.readline())
        if not found:
            sys.exit(f"{' '.join(command)}: does not serve")
        while not is_ready(found[0]):
            time.sleep(0.01)
        wall = time.perf_counter() - begun
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1])  # type: ignore[index]
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        cpu = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
        yield found[0], Cost(cpu=cpu, wall=wall, megabytes=peak * 1024 / 1e6)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=10) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", type=Path)
    parser.add_argument("--python", default=sys.executable)
    given = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY))
    from smar_model.settings import load_settings

    settings, asked = load_settings(given.settings), ["--settings", str(given.settings.resolve())]
    smar = [given.python, "-m", "smar_model.cli"]
    search = [*smar, "search", "red shirt", *asked]
    commands = {
        "bare interpreter": [given.python, "-c", "pass"],
        "MLflow's client alone": [given.python, "-c", CLIENT, settings.tracking_uri, settings.release.model],
        "`smar --help`": [*smar, "--help"],
        "`smar history`": [*smar, "history"],
        "`smar doctor`": [*smar, "doctor"],
        "`smar champion`": [*smar, "champion", *asked],
        '`smar search "…"`, no server': [*search, "--no-server"],
    }
    costs: dict[str, list[Cost]] = {
        name: [] for name in [*commands, '`smar search "…"`, a server runs', "`smar serve`, ready"]
    }
    for command in commands.values():
        started(command)  # bytecode and files, once
    for _ in range(REPETITIONS):
        for name, command in commands.items():
            costs[name].append(started(command))
        with served([*smar, "serve", "--port", "0", "--drain-seconds", "0", *asked]) as (_, cost):
            costs["`smar serve`, ready"].append(cost)
            costs['`smar search "…"`, a server runs'].append(started(search))
    print("| | CPU s | wall s | MB |\n| --- | ---: | ---: | ---: |")
    for name, each in costs.items():
        cpu, wall, memory = (statistics.median(getattr(cost, what) for cost in each) for what in Cost.__slots__)
        print(f"| {name} | {cpu:.2f} | {wall:.2f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
