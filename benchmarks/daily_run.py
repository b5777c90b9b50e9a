"""Where the minutes of a run go: `make retrain` on a fresh home, on the next day's log, and on the same day again, of several checkouts in turn.

    python benchmarks/daily_run.py NAME=CHECKOUT [NAME=CHECKOUT …] [--settings FILE] [--repetitions 5] [--date YYYY-MM-DD]

Each checkout is set up before (`make setup`); `cold:CHECKOUT` starts every command cold (SMAR_COLD, docs/architecture.md). Homes are made and removed
under the system's temporary folder. For each task of Airflow: its seconds, and of these what the stage counts as its own work; what is between the
two is the start of the process, imports, Java and the looking for a finished output. Medians; prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

CASES = ("first day", "next day", "same day again")
BAR = 3.0
"""Seconds a letter of a bar."""

Times = dict[str, list[float]]


def seconds_between(first: str, last: str) -> float:
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def retrain(checkout: Path, home: Path, settings: str, day: date, *, cold: bool) -> float:
    """One `make retrain`; returns the seconds that it says."""
    environment = os.environ | {"SMAR_HOME": str(home)} | ({"SMAR_COLD": "1"} if cold else {})
    command = ["make", "retrain", f"SETTINGS={settings}", f"DATE={day}"]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    said = re.search(r"Green after (\d+) s", done.stdout)
    if said is None:
        sys.exit(f"{checkout}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return float(said[1])


def newest_run(home: Path) -> tuple[dict[str, float], dict[str, float], float]:
    """Seconds of each task of the newest run; seconds that a stage says its work took; seconds before and between tasks."""
    with closing(sqlite3.connect(home / "airflow" / "airflow.db")) as database:
        run, begun, ended = database.execute(
            "SELECT run_id, start_date, end_date FROM dag_run ORDER BY start_date DESC LIMIT 1"
        ).fetchone()
        rows = database.execute(
            "SELECT task_id, start_date, end_date FROM task_instance WHERE run_id = ? AND start_date IS NOT NULL",
            (run,),
        ).fetchall()
    tasks = {task: seconds_between(first, last) for task, first, last in rows if last}
    folder = max((home / "runs").iterdir(), key=lambda path: (path / "run.json").stat().st_mtime)
    states = {task: folder / f"{task}.json" for task in tasks}
    work = {task: json.loads(file.read_bytes()).get("seconds", 0.0) for task, file in states.items() if file.is_file()}
    return tasks, work, seconds_between(begun, ended) - sum(tasks.values())


def table(names: list[str], tasks: dict[str, Times], work: dict[str, Times]) -> list[str]:
    """Of the first day: a line a task, in the order of the first checkout's."""
    lines = [f"| task | {' | '.join(f'{name}, s | of it work' for name in names)} | {names[-1]} |"]
    lines.append("| --- |" + " ---: |" * (2 * len(names)) + " --- |")
    for task in tasks[names[0]]:
        cells = []
        for name in names:
            whole = statistics.median(tasks[name].get(task, [0.0]))
            done = statistics.median(work[name].get(task, [0.0]))
            cells += [f"{whole:.1f}", f"{done:.1f}"]
        bar = "█" * round(done / BAR) + "░" * round((whole - done) / BAR)
        if whole >= 0.5:
            lines.append(f"| {task} | {' | '.join(cells)} | {bar} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="+", metavar="NAME=CHECKOUT")
    parser.add_argument("--settings", default="configs/sample_shop.yaml")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--date", type=date.fromisoformat, default=datetime.now(UTC).date() - timedelta(days=1))
    arguments = parser.parse_args()
    checkouts = dict(checkout.split("=", 1) for checkout in arguments.checkouts)
    green: dict[str, Times] = {name: defaultdict(list) for name in checkouts}
    tasks: dict[str, Times] = {name: defaultdict(list) for name in checkouts}
    work: dict[str, Times] = {name: defaultdict(list) for name in checkouts}
    days = (arguments.date - timedelta(days=1), arguments.date, arguments.date)
    for repetition in range(arguments.repetitions):
        for name, place in checkouts.items():
            cold, checkout = place.startswith("cold:"), Path(place.removeprefix("cold:")).resolve()
            home = Path(tempfile.mkdtemp(prefix="smar-daily-run-"))
            for case, day in zip(CASES, days, strict=True):
                seconds = retrain(checkout, home, arguments.settings, day, cold=cold)
                print(f"{repetition + 1}: {name}, {case}: {seconds:.0f} s", file=sys.stderr, flush=True)
                green[name][case].append(seconds)
                if case == CASES[0]:
                    took, worked, between = newest_run(home)
                    for task, of_task in (took | {"before and between tasks": between}).items():
                        tasks[name][task].append(of_task)
                    for task, of_work in worked.items():
                        work[name][task].append(of_work)
            shutil.rmtree(home)
    names = list(checkouts)
    print(f"| | {' | '.join(f'{name}, s' for name in names)} | {names[-1]} / {names[0]} |")
    print("| --- |" + " ---: |" * (len(names) + 1))
    for case in CASES:
        medians = [statistics.median(green[name][case]) for name in names]
        spread = [
            f"{m:.0f} ({min(green[n][case]):.0f}–{max(green[n][case]):.0f})"
            for n, m in zip(names, medians, strict=True)
        ]
        print(f"| {case} | {' | '.join(spread)} | {medians[-1] / medians[0]:.2f} |")
    print(f"\nFirst day, a task a line; █ work, ░ the rest, {BAR:.0f} s a letter:\n")
    print("\n".join(table(names, tasks, work)))


if __name__ == "__main__":
    main()
