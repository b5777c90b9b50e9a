"""Training speed on two machines, by the bandwidth between them and by how gradients are sent.

    SMAR_HOME=HOME python -m benchmarks.training_network --run RUN --folder FOLDER        # as root

The machines are two network namespaces of this one, joined by a link that `tc`'s token bucket slows in both directions; they meet by
torchrun's rendezvous and talk over gloo. Settings, steps and turns are those of training.py; what a link really carries is measured
before, and the bytes of a step are those that its interface counts. Results go to FOLDER/results.json and, as Markdown, to the screen.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.training import THREE_LOSSES, WARM_UP, Results, Task
from smar_model.settings import REPOSITORY, home
from smar_model.yaml_files import merged

GBITS = (10, 1, 0.1)
WIDE = {"network": {"variant": "text_only", "text": {"tower": "transformer", "width": 384, "heads": 12}}}
"""Two text towers of 4 layers and 1, as wide as MiniLM."""
NETWORKS = {"the run's, three losses": (THREE_LOSSES, 4), "text alone, transformers as wide as MiniLM": (WIDE, 1)}
"""Name → settings, and so many times the steps."""
RECEIVE = """
import socket, time
with socket.create_server(("0.0.0.0", 5001)) as server:
    connection = server.accept()[0]
    size, began = 0, time.perf_counter()
    while got := connection.recv(1 << 20):
        size += len(got)
    print(8 * size / (time.perf_counter() - began) / 1e9)
"""
SEND = """
import socket, sys, time
for _ in range(200):
    try:
        connection = socket.create_connection((sys.argv[1], 5001))
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
for _ in range(int(sys.argv[2])):
    connection.sendall(bytes(1 << 20))
"""


@dataclass(frozen=True, slots=True)
class Link:
    """Two namespaces, by their names, and the address of each."""

    machines: dict[str, str]

    def command(self, machine: str, *words: str) -> list[str]:
        return ["ip", "netns", "exec", machine, *words]

    def set_rate(self, gbits: float) -> None:
        """The bucket holds 10 ms of the rate, its queue 50 ms."""
        a_second = gbits * 1e9 / 8
        burst, limit = int(a_second / 100), int(a_second / 20)
        for machine in self.machines:
            bucket = ["tbf", "rate", f"{gbits * 1000:.0f}mbit", "burst", str(burst), "limit", str(limit)]
            _run(*self.command(machine, "tc", "qdisc", "replace", "dev", "link", "root", *bucket))

    def measured_rate(self, gbits: float) -> float:
        """Gbit/s of one connection that sends for three seconds or so."""
        first, second = self.machines
        python = [sys.executable, "-c"]
        receiver = subprocess.Popen(self.command(second, *python, RECEIVE), stdout=subprocess.PIPE, text=True)
        megabytes = max(1, round(3 * gbits * 1e9 / 8 / 2**20))
        _run(*self.command(first, *python, SEND, self.machines[second], str(megabytes)))
        return float(receiver.communicate()[0])

    def sent_bytes(self) -> int:
        """By the first machine, ever."""
        machine = next(iter(self.machines))
        return int(_run(*self.command(machine, "cat", "/sys/class/net/link/statistics/tx_bytes")))


@contextmanager
def joined_machines() -> Iterator[Link]:
    names = [f"smar-{os.getpid()}-{number}" for number in (1, 2)]
    link = Link({name: f"10.79.0.{number}" for number, name in enumerate(names, start=1)})
    try:
        for name in names:
            _run("ip", "netns", "add", name)
        _run("ip", "link", "add", "link", "netns", names[0], "type", "veth", "peer", "name", "link", "netns", names[1])
        for name, address in link.machines.items():
            _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "link")
            for device in ("lo", "link"):
                _run("ip", "-n", name, "link", "set", device, "up")
        yield link
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False)


def measure(link: Link, gbits: float, task: Task) -> dict[str, Any]:
    """A task's figures on both machines together, and the megabytes that one sends in a step.

    Raises:
        RuntimeError: it failed on one of them.
    """
    link.set_rate(gbits)
    before = link.sent_bytes()
    first = next(iter(link.machines.values()))
    meeting = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={first}:29500"]
    meeting.append(f"--rdzv-id={uuid.uuid4().hex}")
    environment = {"OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(REPOSITORY), "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"GLOO_SOCKET_IFNAME": "link", "OMP_NUM_THREADS": "1"}
    script = [str(Path(__file__).with_name("training.py")), "--task", json.dumps(asdict(task))]
    nodes = []
    for machine, address in link.machines.items():
        torchrun = [sys.executable, "-m", "torch.distributed.run", *meeting, f"--local-addr={address}", *script]
        command, pipe = link.command(machine, *torchrun), subprocess.PIPE
        node = subprocess.Popen(
            command, env=os.environ | environment, cwd=REPOSITORY, stdout=pipe, stderr=pipe, text=True
        )
        nodes.append(node)
    said = [node.communicate() for node in nodes]
    if any(node.returncode for node in nodes):
        raise RuntimeError("\n".join(errors[-2000:] for _, errors in said))
    (figures,) = [json.loads(out.strip().splitlines()[-1]) for out, _ in said if out.strip()]
    return figures | {"megabytes_a_step": (link.sent_bytes() - before) / task.steps / 1e6}


def measure_network(name: str, link: Link, base: Task, results: Results, repetitions: int) -> list[str]:
    settings, times = NETWORKS[name]
    tasks = {}
    for gbits in GBITS:
        for gradients in ("fp32", "bf16"):
            content = merged(settings, {"training": {"threads": 1, "step_threads": 1, "gradients": gradients}})
            task = replace(base, steps=times * base.steps, settings=content, processes=2, watch="losses")
            tasks[f"{gbits} | {gradients}"] = partial(measure, link, gbits, task)
    results.repeat(name, tasks, repetitions)
    found = results.parts[name]
    best = found[f"{GBITS[0]} | fp32"]
    lines = []
    for kind, figures in found.items():
        speed, size = (statistics.median(f[key] for f in figures) for key in ("pairs_per_second", "megabytes_a_step"))
        ratios = [f["pairs_per_second"] / b["pairs_per_second"] for f, b in zip(figures, best, strict=True)]
        apart = np.abs(np.subtract(figures[0]["losses"], best[0]["losses"]))
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(f"| {name} | {kind} | {size:.1f} | {speed:,.0f} | {spread} | {apart.max():.1e} |")
    return lines


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a run in SMAR_HOME that has finished encode-pictures")
    parser.add_argument("--folder", type=Path, required=True, help="for results and scratch")
    parser.add_argument("--repetitions", type=int, default=3, help="those in FOLDER's results included")
    parser.add_argument("--steps", type=int, default=20, help=f"of a measurement, {WARM_UP} of them before the clock")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    base = Task(source=str(home()), run=options.run, folder=str(folder), steps=options.steps)
    results = Results(folder / "results.json")
    with joined_machines() as link:
        for gbits in GBITS:
            link.set_rate(gbits)
            print(f"{gbits} Gbit/s: one connection carries {link.measured_rate(gbits):.2f}", flush=True)
        print(
            "\n| towers | Gbit/s | gradients | MB sent a step | pairs/s | ÷ 10 Gbit/s, fp32 | loss differs by at most |"
        )
        print("| --- | ---: | --- | ---: | ---: | --- | ---: |")
        for name in NETWORKS:
            print("\n".join(measure_network(name, link, base, results, options.repetitions)), flush=True)


if __name__ == "__main__":
    main()
