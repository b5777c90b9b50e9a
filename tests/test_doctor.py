"""`smar doctor` on machines that lack something."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from smar_model import doctor
from smar_model.doctor import Finding, examine, report
from smar_model.settings import REPOSITORY
from tests.patience import PATIENCE_SECONDS


def finding(subject: str, containing: str = "") -> Finding:
    return next(f for f in examine() if f.subject == subject and containing in f.found)


def write_java(folder: Path, version: str) -> Path:
    (folder / "bin").mkdir(parents=True)
    java = folder / "bin" / "java"
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n", encoding="utf-8")
    java.chmod(0o755)
    return folder


def test_this_machine_has_what_the_tests_need(capsys: pytest.CaptureFixture[str]) -> None:
    findings = examine()
    assert {f.subject: f.state for f in findings if f.subject in {"Python", "Packages", "Java"}} == {
        "Python": "fine",
        "Packages": "fine",
        "Java": "fine",
    }
    assert report([f for f in findings if f.state != "missing"]) == 0
    assert capsys.readouterr().out.endswith("Nothing is missing.\n")


def test_a_machine_without_java_is_told_how_to_get_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "smar_model.cli", "doctor"],
        env={name: value for name, value in os.environ.items() if name != "JAVA_HOME"} | {"PATH": str(tmp_path)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 1, done.stderr
    assert "missing Java      java: not found on PATH" in done.stdout
    assert "apt-get install openjdk-17-jre-headless" in done.stdout
    assert "Missing: Java" in done.stdout


def test_java_home_counts_and_must_be_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(write_java(tmp_path / "old", "11.0.2")))
    java = finding("Java")
    assert java.state == "missing" and "not Java 17" in java.found and "11.0.2" in java.found
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    assert f"under JAVA_HOME={tmp_path / 'nowhere'}" in finding("Java").found
    monkeypatch.setenv("JAVA_HOME", str(write_java(tmp_path / "new", "21.0.1")))
    assert finding("Java").state == "fine"


def test_a_full_disk_and_a_taken_port_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "not" / "yet" / "made"
    monkeypatch.setenv("SMAR_HOME", str(home))
    monkeypatch.setattr(doctor, "DISK", 1.0)
    assert finding("Disk").state == "fine" and not home.exists()
    monkeypatch.setattr(doctor, "DISK", float(shutil.disk_usage(tmp_path).total))
    disk = finding("Disk")
    assert disk.state == "missing" and str(tmp_path) in disk.found and "SMAR_HOME" in disk.advice
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(doctor, "PORTS", {"Airflow": port})
        found = finding("Port", str(port))
    assert found.state == "note" and "takes another port" in found.advice


def test_packages_are_compared_with_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "requirements.lock").write_text(
        "no-such-package==1.0\npydantic==0.1\ntyper==0.1 \\\n", encoding="utf-8"
    )
    monkeypatch.setattr(doctor, "REPOSITORY", tmp_path)
    packages = finding("Packages")
    assert packages.state == "missing"
    assert packages.found == "1 of 3 are not installed, 2 in another version"
    assert "no-such-package" in packages.advice and "instead of 0.1" in packages.advice


def test_ports_are_those_that_make_ui_asks_for() -> None:
    from laptop.ui import AIRFLOW_PORT, MLFLOW_PORT

    assert doctor.PORTS == {"Airflow": AIRFLOW_PORT, "MLflow": MLFLOW_PORT}


def test_few_cores_are_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    cores = finding("Cores")
    assert (cores.state, cores.found) == ("note", "1") and "local[1]" in cores.advice
