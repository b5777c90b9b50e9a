"""One store of images for all tests of containers, and the services of the compose file on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from tests.containers.compose_file import read_compose_file
from tests.containers.images import BuiltImages, base_of_the_dockerfile
from tests.containers.podman import Podman
from tests.docker.docker_files import DOCKER

PROGRAMS = ("podman", "runc", "mmdebstrap")
TARGETS_WITHOUT_A_SERVICE = {"training": "smar-training:0.1.0"}


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    """With an empty store, gone afterwards; with the one in SMAR_CONTAINER_STORE, which stays, where that is set."""
    if missing := [program for program in PROGRAMS if not shutil.which(program)]:
        pytest.exit(f"error: not installed: {', '.join(missing)}; `make test-containers` installs them on Debian", 2)
    kept = os.environ.get("SMAR_CONTAINER_STORE")
    made = Podman.in_folder(Path(kept or tempfile.mkdtemp(prefix="containers-", dir="/var/tmp")))
    made.remove_containers()
    yield made
    if kept:
        made.remove_containers()
    else:
        made.remove_all()


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docker") / "secrets"
    subprocess.run([str(DOCKER / "make_secrets.sh"), str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def targets(secrets: Path) -> dict[str, str]:
    """Stage of docker/Dockerfile → name of its image, as the compose file has it."""
    services = read_compose_file({}, secrets=secrets, profiles=frozenset({"search"}))
    named = {service.target: service.image for service in services.values() if service.target}
    return TARGETS_WITHOUT_A_SERVICE | named


@pytest.fixture(scope="session")
def built(podman: Podman, targets: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> BuiltImages:
    images = BuiltImages(podman, tmp_path_factory.mktemp("builds"))
    began = monotonic()
    images.build_base(base_of_the_dockerfile())
    images.build_stand_ins()
    images.build_targets(targets)
    images.seconds["all"] = monotonic() - began
    return images


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For what containers print: SMAR_CONTAINER_LOGS, or a folder of this run."""
    return Path(os.environ.get("SMAR_CONTAINER_LOGS") or tmp_path_factory.mktemp("logs"))
