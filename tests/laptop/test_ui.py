"""`make ui` started for real: healthy, on this machine's own address alone, and gone afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil

from laptop.airflow_environment import password
from smar_model.settings import REPOSITORY
from tests.patience import PATIENCE_SECONDS, wait_until
from tests.started_processes import started_for


def test_it_serves_both_pages_and_leaves_nothing_behind(airflow_ready: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "laptop.ui"], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    printed = ""
    try:
        for line in process.stdout:
            printed += line
            if "Ctrl-C" in line or "error" in line:
                break
        airflow, mlflow = re.findall(r"http://127\.0\.0\.1:\d+", printed)
        login = json.dumps({"username": "admin", "password": password()}).encode()
        request = urllib.request.Request(f"{airflow}/auth/token", login, {"Content-Type": "application/json"})
        token = json.loads(urllib.request.urlopen(request, timeout=PATIENCE_SECONDS).read())["access_token"]
        request = urllib.request.Request(
            f"{airflow}/api/v2/dags/smar_retrain", headers={"Authorization": f"Bearer {token}"}
        )
        dag = json.loads(urllib.request.urlopen(request, timeout=PATIENCE_SECONDS).read())
        assert dag["is_paused"] is False
        assert dag["next_dagrun_run_after"][11:16] == "04:00"
        assert b"MLflow" in urllib.request.urlopen(mlflow, timeout=PATIENCE_SECONDS).read()
        started = started_for(airflow_ready)
        assert len(started) >= 5
        listening = {c.laddr.ip for p in started for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}
        second = subprocess.run([sys.executable, "-m", "laptop.ui"], cwd=REPOSITORY, capture_output=True, text=True)
        assert second.returncode == 2
        assert "runs already" in second.stderr
    finally:
        process.send_signal(signal.SIGTERM)
        printed += process.communicate(timeout=PATIENCE_SECONDS)[0]
    assert process.returncode == 0, printed
    assert started_for(airflow_ready) == []


def test_the_components_end_when_it_is_killed(tmp_path: Path) -> None:
    """SIGKILL leaves it no time for anything: the kernel tells its children."""
    script = (
        "import sys, subprocess, time\n"
        "from smar_model.lake.process_identity import end_with_parent\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3_600)'], preexec_fn=end_with_parent)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(3_600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    wait_until(
        lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE,
        says=lambda: "the child outlived its parent",
    )
