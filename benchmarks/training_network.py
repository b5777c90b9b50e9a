"""Training speed on two machines, by the bandwidth between them and by how gradients are sent.

    SMAR_HOME=HOME python -m benchmarks.training_network --run RUN --folder FOLDER        # as root

The machines are two network namespaces of this one, joined by a link that `tc`'s token bucket slows in both directions; they meet by
torchrun's rendezvous and talk over gloo. Settings, steps and turns are those of training.py; what a link really carries is measured
before, and the bytes of a step are those that its interface counts. Figures go to FOLDER, as Markdown to the screen.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from benchmarks.training import THREE_LOSSES, WARM_UP, Task, base_task, work
from smar_model.settings import REPOSITORY
from smar_model.yaml_files import merged

GBITS = (10, 1, 0.1)
DEVICE = "wire"
WIDE = {
    "network": {"variant": "text_only", "text": {"tower": "transformer", "width": 384, "heads": 12}},
    "training": {"pretrain": {"batch": 64}},
}
"""Two text towers of 4 layers and 1, as wide as MiniLM; a batch that two slow cores get through."""
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
class Case:
    """A task of both machines, at this rate of the link."""

    gbits: float
    gradients: str
    task: Task

    @property
    def name(self) -> str:
        return f"{self.gbits:g} | {self.gradients}"


def bucket(gbits: float) -> list[str]:
    """The command that slows what a machine sends. The bucket holds 10 ms of the rate, its queue 50 ms."""
    a_second = gbits * 1e9 / 8
    sizes = ["burst", f"{a_second / 100:.0f}", "limit", f"{a_second / 20:.0f}"]
    return ["tc", "qdisc", "replace", "dev", DEVICE, "root", "tbf", "rate", f"{gbits * 1000:.0f}mbit", *sizes]


def sent_bytes() -> int:
    """By this machine, ever."""
    return int(Path(f"/sys/class/net/{DEVICE}/statistics/tx_bytes").read_text(encoding="ascii"))


def work_together(cases: list[Case]) -> None:
    """What torchrun starts on each machine: every case in turn; the first process prints its figures."""
    dist.init_process_group("gloo")
    for case in cases:
        _run(*bucket(case.gbits))
        dist.barrier()
        before = sent_bytes()
        figures = work(case.task)
        figures["megabytes_a_step"] = (sent_bytes() - before) / case.task.steps / 1e6
        if dist.get_rank() == 0:
            print(json.dumps({"case": case.name, **figures}), flush=True)
        dist.barrier()
    dist.destroy_process_group()


@contextmanager
def joined_machines() -> Iterator[dict[str, str]]:
    """Two namespaces by their names, and the address of each."""
    machines = {f"smar-{os.getpid()}-{number}": f"10.79.0.{number}" for number in (1, 2)}
    first, second = machines
    try:
        for name in machines:
            _run("ip", "netns", "add", name)
        _run("ip", "-n", first, "link", "add", DEVICE, "type", "veth", "peer", "name", DEVICE, "netns", second)
        for name, address in machines.items():
            _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", DEVICE)
            for device in ("lo", DEVICE):
                _run("ip", "-n", name, "link", "set", device, "up")
        yield machines
    finally:
        for name in machines:
            subprocess.run(["ip", "netns", "delete", name], check=False)


def measured_rate(machines: dict[str, str], gbits: float) -> float:
    """Gbit/s of one connection that sends for three seconds or so."""
    first, second = machines
    megabytes = max(1, round(3 * gbits * 1e9 / 8 / 2**20))
    for machine in machines:
        _run(*_on(machine, *bucket(gbits)))
    receiver = subprocess.Popen(_on(second, sys.executable, "-c", RECEIVE), stdout=subprocess.PIPE, text=True)
    _run(*_on(first, sys.executable, "-c", SEND, machines[second], str(megabytes)))
    return float(receiver.communicate()[0])


def measure(machines: dict[str, str], cases: list[Case]) -> list[dict[str, Any]]:
    """Figures of each case, on both machines together.

    Raises:
        RuntimeError: it failed on one of them.
    """
    first = next(iter(machines.values()))
    meeting = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={first}:29500"]
    environment = {"OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(REPOSITORY), "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"GLOO_SOCKET_IFNAME": DEVICE, "OMP_NUM_THREADS": "1"}
    script = ["-m", "--", "benchmarks.training_network", "--cases", json.dumps([asdict(case) for case in cases])]
    nodes = []
    for machine, address in machines.items():
        # Torchrun looks for the meeting place's address under this machine's name, which has none in a namespace.
        own = [f"--local-addr={address}", f"--rdzv-conf=is_host={str(address == first).lower()}"]
        command = [sys.executable, "-m", "torch.distributed.run", *meeting, *own, *script]
        nodes.append(
            subprocess.Popen(
                _on(machine, *command),
                env=os.environ | environment,
                cwd=REPOSITORY,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    said = [node.communicate() for node in nodes]
    if any(node.returncode for node in nodes):
        raise RuntimeError("\n".join(errors[-2000:] for _, errors in said))
    return [json.loads(line) for out, _ in said for line in out.splitlines() if line.startswith("{")]


def cases_of(settings: dict[str, Any], base: Task, repetitions: int) -> list[Case]:
    """All rates and both ways to send, so often, every other time from the last to the first."""
    once = []
    for gbits in GBITS:
        for gradients in ("fp32", "bf16"):
            changed = merged(settings, {"training": {"threads": 1, "step_threads": 1, "gradients": gradients}})
            once.append(Case(gbits, gradients, replace(base, settings=changed, processes=2, watch="losses")))
    return [case for number in range(repetitions) for case in (once if number % 2 == 0 else reversed(once))]


def table(name: str, figures: list[dict[str, Any]]) -> list[str]:
    """A network's rows: medians, and of ratios the least and the most as well."""
    by_case: dict[str, list[dict[str, Any]]] = {}
    for found in figures:
        by_case.setdefault(found["case"], []).append(found)
    best = by_case[f"{GBITS[0]} | fp32"]
    lines = []
    for gbits in GBITS:
        for gradients in ("fp32", "bf16"):
            case = f"{gbits:g} | {gradients}"
            mine = by_case[case]
            size, speed = (statistics.median(f[key] for f in mine) for key in ("megabytes_a_step", "pairs_per_second"))
            ratios = [f["pairs_per_second"] / b["pairs_per_second"] for f, b in zip(mine, best, strict=True)]
            apart = np.abs(np.subtract(mine[0]["losses"], best[0]["losses"])).max()
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            wire = 8 * size / gbits
            lines.append(f"| {name} | {case} | {size:.1f} | {wire:,.0f} | {speed:,.0f} | {spread} | {apart:.1e} |")
    return lines


def _on(machine: str, *words: str) -> list[str]:
    return ["ip", "netns", "exec", machine, *words]


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="a run in SMAR_HOME that has finished encode-pictures")
    parser.add_argument("--folder", type=Path, help="for results and scratch")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help=f"of a measurement, {WARM_UP} of them before the clock")
    parser.add_argument("--cases", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cases:
        given = json.loads(options.cases)
        work_together([Case(**{**case, "task": Task(**case["task"])}) for case in given])
        return
    base, folder = base_task(parser, options)
    with joined_machines() as machines:
        for gbits in GBITS:
            print(f"{gbits:g} Gbit/s: one connection carries {measured_rate(machines, gbits):.2f}", flush=True)
        print(
            "\n| towers | Gbit/s | gradients | MB sent a step | ms that the rate asks for it | pairs/s | ÷ 10 Gbit/s, fp32 | a step's loss differs by at most |"
        )
        print("| --- | ---: | --- | ---: | ---: | ---: | --- | ---: |")
        for name in options.networks:
            settings, times = NETWORKS[name]
            task = replace(base, steps=times * options.steps)
            figures = measure(machines, cases_of(settings, task, options.repetitions))
            (folder / f"{name.split(',')[0].replace(' ', '_')}.json").write_text(json.dumps(figures), encoding="utf-8")
            print("\n".join(table(name, figures)), flush=True)


if __name__ == "__main__":
    main()
