"""The question whether a version becomes the champion, which a person answers in Airflow, and how `smar promote` is told of the answer."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from form_fields import COMMENT_FIELD
from run_notices import notice

ANSWER_HOURS = float(os.environ.get("SMAR_ANSWER_HOURS", "12"))
TOLD_ANSWER = [f"{{{{ answer(ti.xcom_pull(task_ids='ask'))[{part}] }}}}" for part in (0, 1)]
"""Arguments of `smar promote`, in a DAG that has the macro `answer`."""


def ask_person(subject: str, **options: Any) -> HITLOperator:
    """The task `ask`: Approve or Reject, with a comment; it shows what the task `describe-decision` has written."""
    return HITLOperator(
        task_id="ask",
        subject=subject,
        body="{{ ti.xcom_pull(task_ids='describe-decision', key='outcome').text }}",
        options=["Approve", "Reject"],
        defaults=["Reject"],
        params={"comment": COMMENT_FIELD},
        response_timeout=timedelta(hours=ANSWER_HOURS),
        execution_timeout=None,
        notifiers=notice("asked"),
        **options,
    )


def answer(given: dict[str, Any] | None) -> tuple[str, str]:
    """Arguments of `smar promote` that tell what a person answered to `HITLOperator`; empty where nobody was asked.

    Args:
        given: its result: `chosen_options` (Approve or Reject), `params_input`, `responded_by_user` ({id, name}, or None where
            nobody answered in time).
    """
    if not given:
        return "", ""
    user = given.get("responded_by_user")
    if not user:
        return "", "--comment=nobody answered in time"
    kind = "approved" if given["chosen_options"] == ["Approve"] else "rejected"
    comment = (given.get("params_input") or {}).get("comment")
    return f"--{kind}-by={user['name'] or user['id']}", f"--comment={comment}" if comment else ""
