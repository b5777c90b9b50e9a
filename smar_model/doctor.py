"""`smar doctor`: what this machine lacks to run SMAR, and how to get it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from jobs.java import MINIMUM_JAVA, require_java
from smar_model.errors import InputError, NoAnswer
from smar_model.lake.encoder_store import list_encoders
from smar_model.lake.shared_files import store
from smar_model.settings import REPOSITORY, home
from smar_model.url_secrets import mask_secrets

DISK, MEMORY, CORES = 10e9, 6e9, 2
"""What the sample shop needs: the environment and a few days' outputs; Spark and the largest training stage."""
PORTS = {"Airflow": 8080, "MLflow": 5000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    subject: str
    state: Literal["fine", "note", "missing"]
    """`note`: SMAR runs, but slower or elsewhere; `missing`: it does not run."""
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Look at everything; nothing stays changed."""
    stores = [_store()] if os.environ.get("SMAR_STORE") else []
    ports = [_port(name, port) for name, port in PORTS.items()]
    return [_python(), _packages(), _java(), _disk(), *stores, _memory(), _cores(), _gpu(), _encoders(), *ports]


def report(findings: Iterable[Finding]) -> int:
    """Print the findings; returns the exit code: 1 where something is missing."""
    findings = list(findings)
    for finding in findings:
        print(f"{finding.state:8}{finding.subject:10}{finding.found}")
        if finding.advice:
            print(f"{'':18}→ {finding.advice}")
    missing = [finding.subject for finding in findings if finding.state == "missing"]
    print(f"Missing: {', '.join(missing)}." if missing else "Nothing is missing.")
    return 1 if missing else 0


def _python() -> Finding:
    found = f"{sys.version_info.major}.{sys.version_info.minor} ({sys.executable})"
    if sys.version_info[:2] == (3, 11):
        return Finding(subject="Python", state="fine", found=found)
    advice = "install Python 3.11 (Debian: `apt-get install python3.11-venv`), remove .venv, and run `make setup`"
    return Finding(subject="Python", state="missing", found=found, advice=advice)


def _packages() -> Finding:
    """Whether the packages of the lock that this interpreter has are those of the lock, and which it lacks."""
    lacking, others = [], []
    locked = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", (REPOSITORY / "requirements.lock").read_text("utf-8"), re.M)
    for name, wanted in locked:
        try:
            if version(name) != wanted:
                others.append(f"{name} {version(name)} instead of {wanted}")
        except PackageNotFoundError:
            lacking.append(name)
    if not lacking and not others:
        return Finding(subject="Packages", state="fine", found=f"{len(locked)} as in requirements.lock")
    found = f"{len(lacking)} of {len(locked)} are not installed, {len(others)} in another version"
    named = ", ".join([*lacking[:5], *others[:5]])
    advice = f"run `make setup` (such as {named}); an environment for some stages alone may lack the others'"
    return Finding(subject="Packages", state="missing", found=found, advice=advice)


def _java() -> Finding:
    if find_spec("pyspark") is None:
        return Finding(subject="Java", state="missing", found="Spark is not installed", advice="`make setup`")
    try:
        require_java()
    except InputError as error:
        found, _, advice = str(error).partition(". ")
        return Finding(subject="Java", state="missing", found=found, advice=advice)
    return Finding(subject="Java", state="fine", found=f"{MINIMUM_JAVA} or newer")


def _disk() -> Finding:
    folder = next(folder for folder in (home(), *home().parents) if folder.is_dir())
    free = shutil.disk_usage(folder).free
    found = f"{free / 1e9:.0f} GB free under {folder}"
    if not os.access(folder, os.W_OK):
        advice = "set SMAR_HOME to a folder that you may write to"
        return Finding(subject="Disk", state="missing", found=f"{folder} cannot be written to", advice=advice)
    if free < DISK:
        advice = f"free {DISK / 1e9:.0f} GB, or set SMAR_HOME to a folder on a larger disk"
        return Finding(subject="Disk", state="missing", found=found, advice=advice)
    return Finding(subject="Disk", state="fine", found=found)


def _store() -> Finding:
    """Whether the object store that SMAR_STORE names does what the lake needs."""
    try:
        found = store()
        assert found is not None
        found.verify()
    except (InputError, NoAnswer) as error:
        return Finding(subject="Store", state="missing", found=str(error))
    return Finding(subject="Store", state="fine", found=mask_secrets(f"{found.url}: conditional puts hold"))


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")  # a container's own limit
    text = limit.read_text(encoding="utf-8").strip() if limit.is_file() else "max"
    total = min(total, int(text)) if text.isdigit() else total
    found = f"{total / 1e9:.0f} GB"
    if total < MEMORY:
        advice = f"{MEMORY / 1e9:.0f} GB are needed; lower spark.driver_memory and the batch sizes in the settings"
        return Finding(subject="Memory", state="missing", found=found, advice=advice)
    return Finding(subject="Memory", state="fine", found=found)


def _cores() -> Finding:
    count = len(os.sched_getaffinity(0))
    if count < CORES:
        advice = (
            f"the settings are sized for {CORES}: set spark.master to local[{count}] and training.threads to {count}"
        )
        return Finding(subject="Cores", state="note", found=str(count), advice=advice)
    return Finding(subject="Cores", state="fine", found=str(count))


def _gpu() -> Finding:
    command = shutil.which("nvidia-smi")
    answer = ""
    if command:
        query = [command, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    if answer:
        return Finding(subject="GPU", state="fine", found="; ".join(answer.splitlines()))
    advice = "none is needed for the sample shop; real catalogues train faster with an NVIDIA GPU and its driver"
    return Finding(subject="GPU", state="note", found="none", advice=advice)


def _encoders() -> Finding:
    """Which pretrained encoders are at hand: none is needed unless settings name one."""
    try:
        found = list_encoders()
    except (InputError, NoAnswer) as error:
        return Finding(subject="Encoders", state="note", found=str(error))
    if found:
        told = ", ".join(f"{encoder.name} ({' and '.join(encoder.has)})" for encoder in found)
        return Finding(subject="Encoders", state="fine", found=told)
    advice = "settings that name one want it: `smar encoder add minilm`, `smar encoder add lite0` (docs/encoders.md)"
    return Finding(subject="Encoders", state="note", found="none added", advice=advice)


def _port(name: str, port: int) -> Finding:
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError as error:
            advice = f"`make ui` takes another port for {name} and prints it; to have {port}, end what listens there"
            return Finding(subject="Port", state="note", found=f"{port}: {error.strerror}", advice=advice)
    return Finding(subject="Port", state="fine", found=f"{port} is free for {name}")
