"""Processes that were started for a home folder, whoever their parent is now."""

from __future__ import annotations

from pathlib import Path

import psutil


def started_for(home: Path) -> list[psutil.Process]:
    """Living processes with this home's Airflow folder in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if environment.get("AIRFLOW_HOME") == str(home / "airflow"):
            found.append(process)
    return found
