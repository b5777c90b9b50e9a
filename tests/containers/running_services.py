"""Services of the compose file as containers: started in the order of their dependencies, each once those are healthy."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from tests.containers.compose_file import Service
from tests.containers.podman import Podman
from tests.patience import PATIENCE_SECONDS
from tests.services.airflow_api import AirflowApi

PROJECT = "smar"
NETWORK = f"{PROJECT}_default"
ADDRESS = "127.0.8.1"
"""Where the pages are published: of this machine's own, so that whatever listens on 127.0.0.1 is in nobody's way."""
NOT_HERE = {"grafana"}
"""Services whose images no package brings."""


@dataclass(slots=True, kw_only=True)
class RunningServices:
    podman: Podman
    services: Mapping[str, Service]
    seconds: dict[str, float] = field(default_factory=dict)
    """Container → from its start to its first good health check."""
    checks: dict[str, float] = field(default_factory=dict)
    """Container → seconds of its last health check."""
    _started: dict[str, float] = field(default_factory=dict)
    _next_check: dict[str, float] = field(default_factory=dict)

    def containers(self, service: str) -> list[str]:
        """Names of its containers, as Compose gives them."""
        return [f"{PROJECT}-{service}-{number}" for number in range(1, self.services[service].replicas + 1)]

    def all_containers(self) -> list[str]:
        return [name for service in self.services for name in self.containers(service)]

    def up(self) -> None:
        """Start all, and wait until every one is healthy.

        Raises:
            AssertionError: one has ended or never became healthy; its log is in the message.
        """
        self.podman.run("network", "create", NETWORK)
        deadline = monotonic() + PATIENCE_SECONDS
        while len(self.seconds) < len(self.all_containers()):
            for service in self.services:
                ready = all(self.is_healthy(needed) for needed in self.services[service].depends_on)
                if ready and not self._started.keys() & set(self.containers(service)):
                    self.start(service)
            for name in [name for name in self._started if name not in self.seconds]:
                self._check(name)
            waiting = set(self.all_containers()) - set(self.seconds)
            assert monotonic() < deadline, f"not healthy: {sorted(waiting)}\n{self.logs(min(waiting))}"
            sleep(0.2)

    def is_healthy(self, service: str) -> bool:
        return all(name in self.seconds for name in self.containers(service))

    def start(self, service: str) -> None:
        wanted = self.services[service]
        for name in self.containers(service):
            options = ["--name", name, "--network", NETWORK, "--network-alias", service, "--network-alias", name]
            self.podman.run("create", "--pull=never", *options, *wanted.options, wanted.image, *wanted.command)
            self.podman.run("start", name)
            self._started[name] = monotonic()
            self._next_check[name] = monotonic() + 1

    def check_health(self, name: str) -> bool:
        """Run its health check once, and note how long it took."""
        began = monotonic()
        done = self.podman.run("healthcheck", "run", name, check=False)
        self.checks[name] = monotonic() - began
        return done.returncode == 0

    def _check(self, name: str) -> None:
        if monotonic() < self._next_check[name]:
            return
        state = self.podman.inspect("container", name)
        running = state["State"]["Status"] == "running" and not state["RestartCount"]
        assert running, f"{name}: {state['State']}\n{self.logs(name)}"
        if self.check_health(name):
            self.seconds[name] = monotonic() - self._started[name]
        service = next(service for service in self.services if name in self.containers(service))
        self._next_check[name] = monotonic() + min(15.0, self.services[service].health.interval)

    def logs(self, name: str, *, lines: int = 60) -> str:
        done = self.podman.run("logs", "--tail", str(lines), name, check=False)
        return done.stdout + done.stderr

    def keep_logs(self, folder: Path) -> None:
        """Write what every container printed, for whoever looks for why a test failed."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in self._started:
            (folder / f"{name}.log").write_text(self.logs(name, lines=100_000), encoding="utf-8")

    def address(self, name: str) -> str:
        """Of a container in the services' network, which this machine reaches."""
        return self.podman.inspect("container", name)["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]

    def memory(self) -> dict[str, int]:
        """Container → bytes in use now."""
        stats: list[dict[str, Any]] = json.loads(self.podman.output("stats", "--no-stream", "--format", "json"))
        return {entry["name"]: _in_use(entry["mem_usage"]) for entry in stats}


@contextmanager
def running_services(podman: Podman, services: Mapping[str, Service], logs: Path) -> Iterator[RunningServices]:
    """All of them, healthy; gone afterwards with their volumes, but for what they have printed, in the folder `logs`."""
    running = RunningServices(podman=podman, services=services)
    try:
        running.up()
        yield running
    finally:
        running.keep_logs(logs)
        print(f"what the containers printed: {logs}")
        podman.remove_containers()


def airflow_of(secrets: Path) -> AirflowApi:
    """The API, as the user that `start_api_server.sh` has made."""
    password = (secrets / "airflow_admin_password").read_text(encoding="utf-8")
    return AirflowApi(address=f"http://{ADDRESS}:8080", user="admin", password=password)


def get(address: str) -> Any:
    """What an address answers, read from JSON."""
    with urllib.request.urlopen(address, timeout=60) as answer:
        return json.loads(answer.read())


def _in_use(text: str) -> int:
    """Of `1.5GB / 4.2GB`, the first, in bytes."""
    number = text.split("/")[0].strip()
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3), ("B", 1)):
        if number.endswith(unit):
            return int(float(number.removesuffix(unit)) * size)
    raise ValueError(text)
