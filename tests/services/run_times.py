"""Where the time of a DAG run went: by Airflow's record of its tasks, and by what their commands say of themselves."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from tests.services.airflow_api import AirflowApi

HEADS = ("run", "tasks", "seconds", "in stages", "starting processes", "while no task ran", "the last two, a task")


def describe_times(airflow: AirflowApi, dag: str, runs: dict[str, tuple[str, Path]]) -> list[str]:
    """A table of runs.

    Args:
        runs: label → id of the run, and its folder in SMAR_HOME.

    Returns:
        Lines of Markdown. In stages: seconds that the commands count themselves, once the interpreter is up. Starting processes: what
        their tasks took beyond, that is Airflow's supervisor, the interpreter, imports. While no task ran: what the scheduler took.
    """
    lines = [f"| {' | '.join(HEADS)} |", "| --- |" + " ---: |" * (len(HEADS) - 1)]
    for label, (run, folder) in runs.items():
        whole = airflow.run(dag, run)
        began, ended = (datetime.fromisoformat(whole[name]) for name in ("start_date", "end_date"))
        tasks = [task for task in airflow.tasks(dag, run) if task["start_date"] and task["duration"]]
        spans = sorted(
            tuple(datetime.fromisoformat(task[name]) for name in ("start_date", "end_date")) for task in tasks
        )
        covered, last = 0.0, began
        for start, end in spans:  # tasks beside each other count once
            covered += max(0.0, (end - max(start, last)).total_seconds())
            last = max(last, end)
        idle = (ended - began).total_seconds() - covered
        stages = sum(
            json.loads(file.read_text(encoding="utf-8"))["seconds"]
            for task in tasks
            if (file := folder / f"{task['task_id']}.json").is_file()
        )
        starting = sum(task["duration"] for task in tasks) - stages
        each = (idle + starting) / len(tasks)
        seconds = [(ended - began).total_seconds(), stages, starting, idle, each]
        lines.append(f"| {label} | {len(tasks)} | " + " | ".join(f"{value:.1f}" for value in seconds) + " |")
    return lines
