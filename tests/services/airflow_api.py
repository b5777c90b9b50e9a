"""Airflow's REST API as the tests use it: trigger, wait, ask for states, logs and times."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from time import monotonic, sleep
from typing import Any

from tests.patience import PATIENCE_SECONDS

ENDED = ("success", "failed")
RUN_SECONDS = 2 * PATIENCE_SECONDS


@dataclass(slots=True, kw_only=True)
class AirflowApi:
    address: str
    user: str
    password: str
    _token: str = field(default="", init=False)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        if not self._token:
            login = json.dumps({"username": self.user, "password": self.password}).encode()
            asked = urllib.request.Request(f"{self.address}/auth/token", login, {"Content-Type": "application/json"})
            self._token = json.loads(urllib.request.urlopen(asked, timeout=300).read())["access_token"]
        request = urllib.request.Request(
            f"{self.address}/api/v2/{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from error

    def turn_on(self, dag: str) -> None:
        self.call("PATCH", f"dags/{dag}", {"is_paused": False})

    def trigger(self, dag: str, *, logical_date: datetime | None = None, **conf: Any) -> str:
        """Id of a new run, made as the trigger form makes it."""
        body = {"conf": conf, "logical_date": logical_date.isoformat() if logical_date else None}
        return self.call("POST", f"dags/{dag}/dagRuns", body)["dag_run_id"]

    def run(self, dag: str, run: str) -> dict[str, Any]:
        return self.call("GET", f"dags/{dag}/dagRuns/{urllib.parse.quote(run)}")

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """Newest first."""
        return self.call("GET", f"dags/{dag}/dagRuns?order_by=-run_after&limit=50")["dag_runs"]

    def tasks(self, dag: str, run: str) -> list[dict[str, Any]]:
        path = f"dags/{dag}/dagRuns/{urllib.parse.quote(run)}/taskInstances?limit=200"
        return self.call("GET", path)["task_instances"]

    def states(self, dag: str, run: str) -> dict[str, str]:
        """Task → state; of a mapped task's instances the last one listed."""
        return {task["task_id"]: task["state"] for task in self.tasks(dag, run)}

    def wait(self, dag: str, run: str, *, seconds: float = RUN_SECONDS) -> str:
        """Its state once it has ended."""
        deadline = monotonic() + seconds
        while (state := self.run(dag, run)["state"]) not in ENDED:
            assert monotonic() < deadline, f"{dag} {run} has not ended: {self.states(dag, run)}"
            sleep(1)
        return state

    def wait_for_task(
        self, dag: str, run: str, task: str, states: Iterable[str], *, seconds: float = RUN_SECONDS
    ) -> str:
        """Its state once it is one of these; an error if the run ends before."""
        deadline = monotonic() + seconds
        while (state := self.states(dag, run).get(task, "")) not in set(states):
            assert self.run(dag, run)["state"] not in ENDED, f"{task}: {state} in {self.states(dag, run)}"
            assert monotonic() < deadline, f"{task} of {dag} {run} is {state}"
            sleep(1)
        return state

    def log(self, dag: str, run: str, task: str, *, attempt: int = 1) -> str:
        path = f"dags/{dag}/dagRuns/{urllib.parse.quote(run)}/taskInstances/{task}/logs/{attempt}?full_content=true"
        content = self.call("GET", path)["content"]
        return "\n".join(line if isinstance(line, str) else str(line.get("event", line)) for line in content)

    def backfill(self, dag: str, day: date, **conf: Any) -> str:
        """Id of the run for a day of the DAG's schedule, made as the form *Backfill* makes it."""
        start = datetime.combine(day, time.min, tzinfo=UTC)
        body = {"dag_id": dag, "from_date": start.isoformat(), "to_date": (start + timedelta(days=1)).isoformat()}
        self.call(
            "POST", "backfills", body | {"dag_run_conf": conf, "max_active_runs": 1, "reprocess_behavior": "none"}
        )
        (run,) = [run for run in self.runs(dag) if run["run_type"] == "backfill"]
        return run["dag_run_id"]

    def clear(self, dag: str, run: str, task: str) -> None:
        """Clear a task with everything downstream, as the button *Clear* does: it runs again, and so does the run."""
        body = {
            "dry_run": False,
            "dag_run_id": run,
            "task_ids": [task],
            "include_downstream": True,
            "only_failed": False,
            "reset_dag_runs": True,
        }
        self.call("POST", f"dags/{dag}/clearTaskInstances", body)
