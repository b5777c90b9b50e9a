"""What the DAGs are wired from: the operator that runs one `smar` command.

Needs Airflow alone. Commands run with the interpreter in the environment variable `SMAR_PYTHON`, by default the one
that parses the DAG; a stage that `stages.python` in the settings sends elsewhere hands itself over when it starts.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import BaseOperator
from airflow.sdk.bases.operatorlink import BaseOperatorLink
from airflow.sdk.exceptions import AirflowException, AirflowFailException

CHECKOUT = Path(__file__).resolve().parents[1]
PYTHON = os.environ.get("SMAR_PYTHON", sys.executable)
BAD_INPUT = 2
"""Exit code of `smar` for bad input, which no second attempt would mend."""


class SmarOperator(BaseOperator):
    """Run one `smar` command as a process of its own, without a shell: a parameter's value is never code.

    Exit code 2 (bad input) fails the task at once, any other failure is left to its retries.
    """

    template_fields: Sequence[str] = ("arguments",)
    ui_color = "#e8f1f2"

    def __init__(self, *, arguments: list[str], **options: Any) -> None:
        super().__init__(**options)
        self.arguments = arguments
        """After templating, an argument that came out empty is dropped."""
        self.last_line = ""
        """What the command said last, once it has ended well."""

    @cached_property
    def process(self) -> SubprocessHook:
        return SubprocessHook()

    def execute(self, context: Any) -> None:
        command = [PYTHON, "-m", "smar_model.cli", *(argument for argument in self.arguments if argument)]
        result = self.process.run_command(command, cwd=str(CHECKOUT))
        if result.exit_code == BAD_INPUT:
            raise AirflowFailException(f"bad input, not retried: {result.output}")
        if result.exit_code != 0:
            raise AirflowException(f"exit code {result.exit_code}: {result.output}")
        self.last_line = result.output

    def on_kill(self) -> None:
        self.process.send_sigterm()


class ReportLink(BaseOperatorLink):
    """Button on a task's page: the address in the last line that its command printed."""

    name = "Report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        found = re.search(r"https?://\S+", operator.last_line)
        return found.group() if found else ""


class TrackOperator(SmarOperator):
    """`smar track`, which knows where MLflow shows the run and its report."""

    operator_extra_links = (ReportLink(),)
