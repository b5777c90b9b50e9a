"""What the DAGs are wired from: operators that run one `smar` command, and how all of them fail, wait and are retried.

Needs Airflow alone. Commands run with the interpreter in the environment variable `SMAR_PYTHON`, by default the one
that parses the DAG, or by the command line in `SMAR_COMMAND`, where a process keeps them warm (`laptop/warm_start.py`);
a stage that `stages.python` in the settings sends elsewhere hands itself over when it starts.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import BaseOperator, conf, task
from airflow.sdk.bases.operatorlink import BaseOperatorLink
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

CHECKOUT = Path(__file__).resolve().parents[1]
PYTHON = os.environ.get("SMAR_PYTHON", sys.executable)
COMMAND = shlex.split(os.environ.get("SMAR_COMMAND", "")) or [PYTHON, "-m", "smar_model.cli"]
BAD_INPUT = 2
"""Exit code of `smar` for bad input, which no second attempt would mend."""
NOTHING_THERE = 99
"""Exit code of `smar` where there is nothing to do: no such release yet, nothing to ask a person."""
OUTCOME = "outcome"
"""Key of the XCom in which a task leaves what its command handed over."""
FAILURE = "failure"
"""Key of the XCom in which a task leaves what it failed with, for the notice (`run_notices.py`)."""

QUICK = timedelta(minutes=30)
SPARK = timedelta(hours=4)
TRAINING = timedelta(hours=24)
DEFAULT_ARGS: dict[str, Any] = {
    "owner": "search",
    # What a second attempt can mend: a killed process, a lost connection. Bad input is never retried.
    "retries": 2,
    "retry_delay": timedelta(seconds=20),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
    "execution_timeout": QUICK,
}
DATE = "{{ params.date or macros.ds_add((dag_run.logical_date or dag_run.run_after) | ds, -1) }}"
"""`ds` does not exist on a run without a logical date, as one started by an asset or by hand."""


class SmarOperator(BaseOperator):
    """Run one `smar` command as a process of its own, without a shell: a parameter's value is never code.

    Exit code 2 (bad input) fails the task at once; 99 (nothing there) skips it, or fails it if it is `required`; any other failure
    is left to the retries. The task's result is the last line that the command printed; what it hands over as data (`SMAR_OUTCOME`,
    `smar_model/release/steps.py`) is left as the XCom `outcome`, and goes with the event of its assets.
    """

    template_fields: Sequence[str] = ("arguments", "more", "unless")
    ui_color = "#e8f1f2"

    def __init__(
        self,
        *,
        arguments: list[str],
        more: Sequence[str] = (),
        required: bool = False,
        unless: str = "",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.arguments = arguments
        """After templating, an argument that came out empty is dropped."""
        self.more = more
        """Further arguments: what differs between mapped tasks."""
        self.required = required
        self.unless = unless
        """The task is skipped where this comes out as True."""
        self.outcome: dict[str, str] = {}
        """What the command handed over, once it has ended well."""

    @cached_property
    def process(self) -> SubprocessHook:
        return SubprocessHook()

    @property
    def command(self) -> list[str]:
        return [*COMMAND, *(argument for argument in (*self.arguments, *self.more) if argument)]

    def execute(self, context: Any) -> Any:
        if self.unless == "True":
            raise AirflowSkipException("not in this run")
        # A folder of this attempt: a retry, on whichever worker, finds nothing of the one before.
        with tempfile.TemporaryDirectory(prefix="smar-") as folder:
            file = Path(folder) / "outcome.json"
            environment = process_environment(context) | {"SMAR_OUTCOME": str(file)}
            result = self.process.run_command(self.command, cwd=str(CHECKOUT), env=environment)
            self.judge(context, result.exit_code, result.output)
            self.outcome = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if self.outcome:
            context["ti"].xcom_push(OUTCOME, self.outcome)
        send_events(self, context, {"said": result.output} | self.outcome)
        return result.output

    def judge(self, context: Any, exit_code: int, said: str) -> None:
        """Raise what an exit code means to Airflow; the log then says what to do next."""
        if exit_code == 0:
            return
        if exit_code == NOTHING_THERE and not self.required:
            raise AirflowSkipException(said)
        context["ti"].xcom_push(FAILURE, {"at": datetime.now(UTC).isoformat(), "said": said})
        final = exit_code in (BAD_INPUT, NOTHING_THERE)
        next_step = "mend what it names" if final else "if its retries fail too, see the lines above"
        self.log.error(
            "Run %s, stage %s ended with exit code %s. Next: %s, then clear this task with everything downstream",
            *(context["run_id"], self.task_id, exit_code, next_step),
        )
        if final:
            raise AirflowFailException(f"bad input, not retried: {said}")
        raise AirflowException(f"exit code {exit_code}: {said}")

    def on_kill(self) -> None:
        self.process.send_sigterm()


def send_events(operator: BaseOperator, context: Any, said: dict[str, str]) -> None:
    """What goes with the event of an operator's assets, which Airflow sends when its task has ended well."""
    for asset in operator.outlets:
        context["outlet_events"][asset].extra = {"run": context["run_id"]} | said


def process_environment(context: Any) -> dict[str, str]:
    """This process's environment, where Airflow shows the run, so that MLflow can link back, and the task's span, of which the command's is a
    part (W3C Trace Context; none where Airflow traces nothing)."""
    address = run_address(context["dag"].dag_id, context["run_id"])
    span: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(span)
    return (
        dict(os.environ)
        | {name.upper(): value for name, value in span.items()}
        | ({"SMAR_AIRFLOW_URL": address} if address else {})
    )


def run_address(dag_id: str, run_id: str) -> str:
    """Page of a DAG run in Airflow; empty where Airflow does not know its own address (`[api] base_url`)."""
    base = conf.get("api", "base_url", fallback=None)
    return f"{base.rstrip('/')}/dags/{dag_id}/runs/{quote(run_id)}" if base else ""


class ReportLink(BaseOperatorLink):
    """Button on a task's page: the address that its command handed over."""

    name = "Report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        address: str = operator.outcome.get("report", "")
        return address


class TrackOperator(SmarOperator):
    """`smar track`, which knows where MLflow shows the run and its report."""

    operator_extra_links = (ReportLink(),)


class OutcomeOperator(BaseOperator):
    """Green where `smar promote` has made its version the champion, or it was it already; where it kept another, skipped: no release, no event."""

    def __init__(self, *, of: str, **options: Any) -> None:
        super().__init__(**options)
        self.of = of
        """Task that ran `smar promote`."""
        self.said = ""
        """What it said, for the notice."""

    def execute(self, context: Any) -> str:
        outcome = context["ti"].xcom_pull(task_ids=self.of, key=OUTCOME)
        if not outcome:
            raise AirflowFailException(
                f"the task {self.of} has handed over no outcome; clear it with everything downstream"
            )
        self.said = outcome["text"]
        if outcome["outcome"] not in {"promoted", "unchanged"}:
            raise AirflowSkipException(self.said)
        send_events(self, context, {"said": self.said} | outcome)
        return self.said


@task(trigger_rule="one_failed", retries=0)
def watcher() -> None:
    """A leaf that fails with any task before it: a run must not end green because a task that always runs did."""
    raise AirflowFailException("a task of this run failed; see the first red one")
