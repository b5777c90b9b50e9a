"""The images of docker/Dockerfile, and small ones in the place of other people's, built of what Debian and Python's registry have."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from smar_model.settings import REPOSITORY
from tests.containers.podman import Podman
from tests.docker.docker_files import DOCKER, compose

STAND_INS = Path(__file__).parent / "stand_ins"
DEBIAN = "bookworm"
DEBIAN_PACKAGES = "ca-certificates,netbase,tzdata,python3.11,python3.11-venv,python3,python3-pip"
"""What the official Python image has beside Debian's smallest system."""
BASE = "localhost/python:base"
REPLACED = {
    "postgres": "postgres",
    "redis": "redis",
    "object-store": "seaweedfs",
    "prometheus": "prometheus",
    "statsd-exporter": "statsd_exporter",
    "jaeger": "jaeger",
}
"""Service of the compose file → folder of its stand-in."""
TORCH = "TORCH=cuda"
"""The lock's build: the one without CUDA comes from another index."""
DEBIAN_SOURCES = ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list")
"""Where Debian keeps the addresses of its packages, the newer place first."""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(slots=True)
class BuiltImages:
    """All images that the services need, in a store; `seconds` says how long each was built."""

    podman: Podman
    folder: Path
    """Where logs of the builds lie."""
    seconds: dict[str, float] = field(default_factory=dict)

    def build_base(self, dockerfiles_base: str) -> None:
        """Debian with Python 3.11 under the name that docker/Dockerfile asks for; one that is in the store already is taken."""
        if self.podman.run("image", "exists", BASE, check=False).returncode == 0:
            return
        archive = self.folder / "debian.tar"
        sources = [path for path in map(Path, DEBIAN_SOURCES) if path.is_file()][:1]
        checks = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=True).stdout
        # How this machine's apt sees its registry, such as whether it minds the age of its lists.
        options = [f"--aptopt={line}" for line in checks.splitlines() if "Acquire::Check-" in line]
        done = subprocess.run(
            [
                *("mmdebstrap", "--variant=minbase", "--mode=root", f"--include={DEBIAN_PACKAGES}", *options),
                *("--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*"),
                *(DEBIAN, str(archive), *map(str, sources)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3_000:]
        self.podman.run("import", str(archive), f"localhost/debian:{DEBIAN}")
        archive.unlink()
        self.build(STAND_INS / "python", BASE)
        self.podman.run("tag", BASE, f"docker.io/library/{dockerfiles_base}")

    def build(
        self, context: Path, name: str, *, file: Path | None = None, target: str | None = None, torch: str | None = None
    ) -> None:
        began = monotonic()
        self.podman.build(
            context,
            name,
            file=file or context / "Dockerfile",
            log=self.folder / f"build-{name.replace('/', '-')}.log",
            target=target,
            arguments=[torch] if torch else [],
            mounts=self.mounts(),
        )
        self.seconds[name] = monotonic() - began

    def mounts(self) -> list[str]:
        """What lets a build use this machine's registries: its certificates, and how pip and uv find them."""
        uv = self.folder / "uv.toml"
        uv.write_text("system-certs = true\n", encoding="utf-8")
        files = {
            CERTIFICATES: CERTIFICATES,
            Path("/etc/pip.conf"): Path("/etc/pip.conf"),
            uv: Path("/etc/uv/uv.toml"),
            REPOSITORY / "requirements.lock": Path("/run/requirements.lock"),
        }
        return [f"{source}:{target}:ro" for source, target in files.items() if source.is_file()]

    def build_targets(self, targets: dict[str, str]) -> None:
        """Stage of docker/Dockerfile → name of its image."""
        for target, name in targets.items():
            self.build(REPOSITORY, name, file=DOCKER / "Dockerfile", target=target, torch=TORCH)

    def build_stand_ins(self) -> None:
        for service, folder in REPLACED.items():
            image = compose()["services"][service]["image"]
            library = image if "/" in image else f"library/{image}"
            self.build(STAND_INS / folder, f"docker.io/{library}")


def base_of_the_dockerfile() -> str:
    """Image that docker/Dockerfile builds on, unless it is told another."""
    found = re.search(r"(?m)^ARG PYTHON_IMAGE=(\S+)$", (DOCKER / "Dockerfile").read_text(encoding="utf-8"))
    assert found
    return found[1]
