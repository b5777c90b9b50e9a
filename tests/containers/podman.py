"""Podman with a store of its own: its images, containers, networks and volumes are not the machine's."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIGURATION = """\
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "file"
tmp_dir = "{folder}/tmp"
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""
"""Machines without systemd have no other manager of cgroups, and crun fails on those with both versions of them."""
STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{folder}/store"
runroot = "{folder}/run"
"""
REGISTRIES = 'unqualified-search-registries = ["docker.io"]\n'
"""By it a short name is the name that Docker gives it."""
PROCESSES = 20_000
"""Of a user, in all containers together, as there is one for all."""


class PodmanError(AssertionError):
    """A command that failed, with what it printed."""


@dataclass(frozen=True, slots=True)
class Podman:
    folder: Path

    @classmethod
    def in_folder(cls, folder: Path) -> Podman:
        """Write the settings of a store in a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        # More than its own limit nobody may give who has not the capability.
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        content = {
            "containers.conf": CONFIGURATION.format(folder=folder, files=files, processes=PROCESSES),
            "storage.conf": STORAGE.format(folder=folder),
            "registries.conf": REGISTRIES,
        }
        for name, text in content.items():
            (folder / name).write_text(text, encoding="utf-8")
        return cls(folder)

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of Podman's, with what it printed.

        Raises:
            PodmanError: it failed, and `check` is set.
        """
        done = subprocess.run(
            ["podman", *arguments],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise PodmanError(f"podman {' '.join(arguments)}\n{done.stdout[-3_000:]}{done.stderr[-3_000:]}")
        return done

    def _environment(self) -> dict[str, str]:
        places = {
            "CONTAINERS_CONF": self.folder / "containers.conf",
            "CONTAINERS_STORAGE_CONF": self.folder / "storage.conf",
            "CONTAINERS_REGISTRIES_CONF": self.folder / "registries.conf",
        }
        return os.environ | {name: str(path) for name, path in places.items()}

    def output(self, *arguments: str) -> str:
        return self.run(*arguments).stdout.strip()

    def inspect(self, kind: str, name: str) -> dict[str, Any]:
        (found,) = json.loads(self.output("inspect", "--type", kind, name))
        return found

    def execute(self, container: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in a container that runs, as its user."""
        return self.run("exec", container, *command, check=check)

    def build(
        self,
        context: Path,
        name: str,
        *,
        file: Path,
        log: Path,
        target: str | None = None,
        arguments: Sequence[str] = (),
        mounts: Sequence[str] = (),
    ) -> None:
        """Build an image from what is here; the packages come from the machine's own registries.

        Args:
            arguments: `NAME=VALUE`, of the Dockerfile's ARG.
            mounts: `SOURCE:TARGET:ro`, seen by its RUN instructions.
            log: file for what the build prints.
        """
        options = [part for text in arguments for part in ("--build-arg", text)]
        options += [part for mount in mounts for part in ("--volume", mount)]
        options += ["--target", target] if target else []
        # Docker's format has health checks and SHELL, which OCI's has not.
        command = ["podman", "build", "--format", "docker", "--pull=never", "--network=host", "--tag", name]
        with log.open("wb") as printed:
            done = subprocess.run(
                [*command, "--file", str(file), *options, str(context)],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            raise PodmanError(f"{name} was not built\n{log.read_text(encoding='utf-8', errors='replace')[-3_000:]}")

    def size(self, image: str) -> int:
        """Bytes of an image, layers that it shares included."""
        return int(self.inspect("image", image)["Size"])

    def remove_containers(self) -> None:
        self.run("rm", "--force", "--all", "--time", "5", "--volumes")
        self.run("volume", "prune", "--force")
        self.run("network", "prune", "--force")

    def remove_all(self) -> None:
        self.remove_containers()
        self.run("rmi", "--force", "--all")
        for path in ("store/overlay", "store", "run"):
            subprocess.run(["umount", str(self.folder / path)], capture_output=True, check=False)
        shutil.rmtree(self.folder)
