"""Where the time of a DAG run went, by Airflow's own record of its tasks."""

from __future__ import annotations

from datetime import datetime

from tests.services.airflow_api import AirflowApi


def describe_times(airflow: AirflowApi, dag: str, runs: dict[str, str]) -> list[str]:
    """A table: of each run (label → id) its tasks, its seconds, those of its tasks, and those in which no task ran."""
    lines = [
        "| run | tasks | seconds | in tasks | while no task ran | a task |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for label, run in runs.items():
        spans = sorted(
            (datetime.fromisoformat(task["start_date"]), datetime.fromisoformat(task["end_date"]))
            for task in airflow.tasks(dag, run)
            if task["start_date"] and task["end_date"]
        )
        whole = airflow.run(dag, run)
        wall = (datetime.fromisoformat(whole["end_date"]) - datetime.fromisoformat(whole["start_date"])).total_seconds()
        busy = sum((end - start).total_seconds() for start, end in spans)
        # Tasks beside each other count once.
        covered, last = 0.0, datetime.fromisoformat(whole["start_date"])
        for start, end in spans:
            covered += max(0.0, (end - max(start, last)).total_seconds())
            last = max(last, end)
        idle = wall - covered
        lines.append(
            f"| {label} | {len(spans)} | {wall:.0f} | {busy:.0f} | {idle:.1f} | {idle / max(len(spans), 1):.2f} |"
        )
    return lines
