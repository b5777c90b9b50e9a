"""docker/compose.yaml as Podman understands it: each key of a service becomes options of `podman create`.

podman-compose 1.0.3, Debian's, passes over what it does not know: conditions of dependencies, limits, replicas. Here a key that is
not known is an error, so that nothing in the file goes untried without being seen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.docker.docker_files import DOCKER

VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?::-([^}]*))?\})")
FILE_KEYS = {"name", "services", "volumes", "secrets"}
SERVICE_KEYS = {
    *(
        "image",
        "build",
        "profiles",
        "command",
        "entrypoint",
        "user",
        "environment",
        "volumes",
        "secrets",
        "ports",
        "tmpfs",
    ),
    *("depends_on", "healthcheck", "deploy", "init", "security_opt", "cap_drop", "restart", "stop_grace_period"),
    *("shm_size", "read_only"),
}
NO_NEW_PRIVILEGES = "no-new-privileges:true"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Of a service's health check: seconds."""

    interval: float
    timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service with all variables filled in, and what its containers are made with."""

    name: str
    image: str
    target: str | None
    """Stage of the Dockerfile that its image is; None for other people's images."""
    options: tuple[str, ...]
    """Of `podman create`, those that every replica has."""
    command: tuple[str, ...]
    depends_on: tuple[str, ...]
    """Services that must be healthy before."""
    health: Health
    replicas: int
    memory: int
    """Limit in bytes."""


def read_compose_file(
    variables: Mapping[str, str], *, secrets: Path, profiles: frozenset[str] = frozenset()
) -> dict[str, Service]:
    """Services of docker/compose.yaml that `docker compose --profile … up` would start.

    Args:
        variables: what stands in docker/.env.
        secrets: folder in the place of docker/secrets.
        profiles: which are on.

    Raises:
        ValueError: the file says something that this reader does not know.
    """
    content = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    content = {key: value for key, value in content.items() if not key.startswith("x-")}
    _refuse_unknown("the compose file", content, FILE_KEYS)
    content = _filled_in(content, variables)
    project, sources = content["name"], content["secrets"]
    volumes = {name: f"{project}_{name}" for name, made in content["volumes"].items() if made is None}
    files = {name: secrets / Path(source["file"]).name for name, source in sources.items()}
    wanted = {
        name: service
        for name, service in content["services"].items()
        if not service.get("profiles") or profiles & set(service["profiles"])
    }
    return {name: _service(name, service, volumes, files) for name, service in wanted.items()}


def _service(name: str, service: dict[str, Any], volumes: Mapping[str, str], secrets: Mapping[str, Path]) -> Service:
    _refuse_unknown(name, service, SERVICE_KEYS)
    options: list[str] = []
    for key, value in service.items():
        if translate := TRANSLATED.get(key):
            options += translate(value)
    for mount in service.get("volumes", []):
        source, _, target = mount.partition(":")
        options += [
            "--volume",
            f"{(DOCKER / source).resolve() if source.startswith('.') else volumes[source]}:{target}",
        ]
    for secret in service.get("secrets", []):
        options += ["--volume", f"{secrets[secret]}:/run/secrets/{secret}:ro"]
    deploy = service["deploy"]
    _refuse_unknown(f"{name}: deploy", deploy, {"replicas", "resources"})
    _refuse_unknown(f"{name}: resources", deploy["resources"], {"limits"})
    limits = deploy["resources"]["limits"]
    _refuse_unknown(f"{name}: limits", limits, {"cpus", "memory"})
    health, health_options = _health(name, service["healthcheck"])
    for needed, how in service.get("depends_on", {}).items():
        if how != {"condition": "service_healthy"}:
            raise ValueError(f"{name} depends on {needed} by {how}")
    return Service(
        name=name,
        image=service["image"],
        target=service.get("build", {}).get("target"),
        options=(*options, "--cpus", limits["cpus"], "--memory", limits["memory"], *health_options),
        command=tuple(service.get("command", ())),
        depends_on=tuple(service.get("depends_on", ())),
        health=health,
        replicas=deploy.get("replicas", 1),
        memory=_bytes(limits["memory"]),
    )


def _security(value: list[str]) -> list[str]:
    if value != [NO_NEW_PRIVILEGES]:
        raise ValueError(f"security_opt: {value}")
    return ["--security-opt", "no-new-privileges"]


def _each(option: str) -> Callable[[list[str]], list[str]]:
    return lambda values: [part for value in values for part in (option, value)]


def _one(option: str) -> Callable[[Any], list[str]]:
    return lambda value: [option, str(value)]


def _switch(option: str) -> Callable[[bool], list[str]]:
    return lambda value: [option] if value else []


TRANSLATED: dict[str, Callable[[Any], list[str]]] = {
    "cap_drop": _each("--cap-drop"),
    "entrypoint": lambda words: ["--entrypoint", json.dumps(words)],
    "environment": lambda pairs: [part for name, value in pairs.items() for part in ("--env", f"{name}={value}")],
    "init": _switch("--init"),
    "ports": _each("--publish"),
    # Podman would give it places to write of its own accord.
    "read_only": lambda value: ["--read-only", "--read-only-tmpfs=false"] if value else [],
    "restart": _one("--restart"),
    "security_opt": _security,
    "shm_size": _one("--shm-size"),
    "stop_grace_period": lambda text: ["--stop-timeout", str(int(_seconds(text)))],
    "tmpfs": _each("--tmpfs"),
    "user": _one("--user"),
}
"""Keys whose options come from their value alone."""


def _health(name: str, check: dict[str, Any]) -> tuple[Health, list[str]]:
    """Podman's timers are systemd's, which a machine may not have: who starts the services runs the checks."""
    _refuse_unknown(f"{name}: healthcheck", check, {"test", "interval", "timeout", "retries", "start_period"})
    words = check["test"]
    # Podman puts CMD before an array itself.
    command = json.dumps(words[1:] if words[0] == "CMD" else words)
    interval, timeout = check.get("interval", "30s"), check.get("timeout", "30s")
    options = [
        *("--health-cmd", command, "--health-interval", "disable", "--health-timeout", timeout),
        *("--health-retries", str(check.get("retries", 3)), "--health-start-period", check.get("start_period", "0s")),
    ]
    return Health(interval=_seconds(interval), timeout=_seconds(timeout)), options


def _filled_in(value: Any, variables: Mapping[str, str]) -> Any:
    """Variables as Compose fills them in: `:-` also where one is empty, `$$` for a dollar."""
    if isinstance(value, dict):
        return {key: _filled_in(part, variables) for key, part in value.items()}
    if isinstance(value, list):
        return [_filled_in(part, variables) for part in value]
    if not isinstance(value, str):
        return value
    return VARIABLE.sub(
        lambda found: "$" if found[0] == "$$" else variables.get(found[1]) or found[2] or "",
        value,
    )


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)s", text)
    if not found:
        raise ValueError(f"{text}: not seconds")
    return float(found[1])


def _bytes(text: str) -> int:
    return int(text[:-1]) * {"M": 2**20, "G": 2**30}[text[-1]]


def _refuse_unknown(where: str, content: Mapping[str, Any], known: set[str]) -> None:
    if unknown := set(content) - known:
        raise ValueError(f"{where}: this reader of the compose file does not know {', '.join(sorted(unknown))}")
