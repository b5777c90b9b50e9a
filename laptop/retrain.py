"""`make retrain`: run the DAG once through Airflow on this machine, show its progress, then what came of it."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from laptop.airflow_environment import environment, one_at_a_time, prepare
from laptop.processes import adopt_orphans, end_all
from laptop.run_dag import run_name
from laptop.warm_start import warm_start
from smar_model.errors import InputError, machine_failure
from smar_model.lake.records import DamagedRecord
from smar_model.lake.runs import Run, StageState, load_run, parse_state, run_folder
from smar_model.settings import REPOSITORY, home, load_settings
from smar_model.stages import STAGES

STEPS = ("start", *STAGES, "register", "promote", "track")
SUMMARIES = {name: stage.summary for name, stage in STAGES.items()} | {
    "start": "Settings, inputs and the champion looked up.",
    "register": "Model, index and report as one version in MLflow.",
    "promote": "The alias `champion`, if the gate allows it.",
    "track": "The run and its stages in MLflow.",
}
POLL_SECONDS = 0.3
NEWS_SECONDS = 20.0
"""A stage that takes long shows its own line of progress this often."""
SET_ASIDE = " is set aside ("
"""In the line about a damaged output."""


class Progress:
    """Prints a line for each step that ended, from the states in the run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shown: set[tuple[str, str]] = set()
        self.last_news = time.monotonic()

    def update(self) -> None:
        for step in STEPS:
            state = self.state(step)
            if state is None or (step, state["at"]) in self.shown:
                continue
            if state["state"] == "running":
                if time.monotonic() - self.last_news > NEWS_SECONDS and state.get("progress"):
                    print(f"    … {step}: {state['progress']}", flush=True)
                    self.last_news = time.monotonic()
                continue
            self.shown.add((step, state["at"]))
            self.last_news = time.monotonic()
            how = "reused" if state.get("reused") else state["state"]
            print(f"  {step:<17} {state['seconds']:>7.1f} s  {how:<9} {SUMMARIES[step]}", flush=True)

    def failures(self) -> list[tuple[str, str]]:
        """Steps that failed, in order, with their messages."""
        states = {step: state for step in STEPS if (state := self.state(step))}
        return [
            (step, s.get("message", "was killed")) for step, s in states.items() if s["state"] in {"failed", "running"}
        ]

    def state(self, step: str) -> StageState | None:
        try:
            return parse_state((path := self.folder / f"{step}.json").read_bytes(), path)
        except (FileNotFoundError, DamagedRecord):  # the step itself says what is wrong with it
            return None


def retrain(*, settings: Path, day: date, window_days: int | None, promotion: str) -> int:
    """Run the DAG for a day; returns the exit code."""
    load_settings(settings)  # a wrong file is said before anything starts
    print("Preparing Airflow", flush=True)
    prepare()
    started = time.monotonic()
    when = datetime.now(UTC).replace(microsecond=0)
    name = run_name(when)
    conf = {"settings": str(settings.resolve()), "date": str(day), "window_days": window_days, "promotion": promotion}
    log = home() / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"Run {name}: {settings}, day {day}. Log: {log}", flush=True)
    adopt_orphans()
    progress = Progress(run_folder(name))
    with log.open("w", encoding="utf-8") as output, warm_start(environment(), output) as variables:
        process = subprocess.Popen(
            [sys.executable, "-m", "laptop.run_dag", "smar_retrain", when.isoformat(), json.dumps(conf)],
            cwd=REPOSITORY,
            env=variables,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                progress.update()
                time.sleep(POLL_SECONDS)
        finally:
            end_all()  # nothing is left where the run ended by itself
        progress.update()
    for line in plain_lines(log):
        if SET_ASIDE in line:
            print(f"  {line}")
    seconds = time.monotonic() - started
    if process.returncode == 0:
        print(f"\nGreen after {seconds:.0f} s.\n")
        show_results(load_run(name))
        return 0
    state = progress.state("promote")
    promoted = state.get("metrics", {}) if state else {}
    what = promoted["text"].capitalize() if promoted.get("outcome") == "promoted" else "The champion is as it was"
    print(f"\nRed after {seconds:.0f} s. {what}.")
    failures = progress.failures()
    for step, message in failures:
        print(f"  {step}: {message}")
    if not failures:
        print("\n".join(f"  {line}" for line in first_error(log)))
    print(f"Log: {log}")
    return 1


def show_results(run: Run) -> None:
    from smar_model.evaluation.evaluation_record import read_evaluation
    from smar_model.evaluation.terminal_table import format_table

    evaluation = read_evaluation(run.output("evaluate").file("evaluation.json"))
    promoted = run.state("promote")
    assert promoted is not None, "a green run has promoted or kept"
    report = run.output("report").file("report.html")
    checks = run.output("check-data")
    print(format_table(evaluation))
    print(f"\n{promoted['metrics']['text'].capitalize()}")
    gate = run.output("gate")
    if run.promotion == "ask" and gate.metrics["decision"] == "promote" and promoted["metrics"]["outcome"] == "kept":
        # No scheduler runs here that would wait for an answer on a page, or end the wait.
        print(f"Approve: .venv/bin/smar promote --run {run.name} --approved-by $USER   (or --rejected-by $USER)")
    print(f"Report: {_short(report)}")
    warnings = checks.metrics["failed_warnings"]
    print(f"Checks: {_short(checks.file('checks.html'))}" + (f" ({warnings} warnings)" if warnings else ""))
    print(next_commands(run.settings_source))


def next_commands(settings_source: str) -> str:
    """What to look at and to try now; the commands take the sample shop's settings by default."""
    sample = settings_source == "configs/sample_shop.yaml"
    settings = "" if sample else f" --settings {shlex.quote(settings_source)}"
    query = "red floral summer dress" if sample else "…"
    return f'Next:   make ui\n        .venv/bin/smar search "{query}"{settings}\n        .venv/bin/smar serve{settings}'


def plain_lines(log: Path) -> list[str]:
    """Airflow's log without its own columns."""
    return [
        re.sub(r"\x1b\[[0-9;]*m|^\S+Z? \[\w+\s*\] |\s+\[[\w.]+\]( loc=\S+)?$", "", line.rstrip())
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
    ]


def first_error(log: Path) -> list[str]:
    """The first message of a `smar` command in Airflow's log; else the log's end."""
    lines = plain_lines(log)
    begun = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if not begun:
        return lines[-15:]
    rest = lines[begun[0] :]
    end = next((n for n, line in enumerate(rest) if line.startswith("Command exited")), 15)
    return rest[:end]


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def main() -> int:
    parser = argparse.ArgumentParser(prog="make retrain", description=__doc__)
    parser.add_argument("--settings", type=Path, default=REPOSITORY / "configs" / "sample_shop.yaml")
    # Yesterday, as for the scheduled run: the last day that is over. The same all day long, so that a second run
    # finds what the first has finished.
    parser.add_argument("--date", type=date.fromisoformat, default=datetime.now(UTC).date() - timedelta(days=1))
    parser.add_argument("--window-days", type=int)
    parser.add_argument(
        "--promotion",
        choices=["automatic", "ask", "never"],
        default="automatic",
        help="`ask`: the run ends without waiting, and says with which command a person approves or rejects",
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with one_at_a_time():
            return retrain(
                settings=arguments.settings,
                day=arguments.date,
                window_days=arguments.window_days,
                promotion=arguments.promotion,
            )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. `make retrain` again goes on from the last finished stage.", file=sys.stderr)
        return 130
    except Exception as error:
        line = machine_failure(error, default_place=str(home()))
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
