"""Notices to people, by mail, Slack, a webhook or whatever else Apprise knows, through one Airflow connection.

SMAR_NOTICES        id of a connection of type `apprise`; unset: no notice is ever sent. Its config is {"path": "…", "tag": "…"}, or a
                    list of them, the path as `mailtos://user:password@example.com`, `slack://token/#channel`, `jsons://example.com/hook`
SMAR_NOTICES_ABOUT  what is worth one, by default all: `failed asked kept late`

One provider for all of them: a company changes from mail to Slack by its connection, not by the DAGs, and Apprise is small and pure Python.
The providers for SMTP, Slack and HTTP each have a notifier of another shape, and that for Slack brings an SDK.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseNotifier
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.log import mask_secret
from stages import FAILURE, run_address

CONNECTION = os.environ.get("SMAR_NOTICES", "")
if ":" in CONNECTION:  # an address, whose tokens would be stored and shown
    raise ValueError("SMAR_NOTICES: name a connection by its id; the address belongs into the connection's config")
ABOUT = os.environ.get("SMAR_NOTICES_ABOUT", "failed asked kept late").split()
NOTICE = "airflow.providers.apprise.notifications.apprise.AppriseNotifier"


class RunNotice(BaseNotifier):
    """Tell people what happened to a run: `failed`, `asked` (a person's answer is waited for) or `kept` (the gate or a person refused).

    A notice that cannot be sent is a line in the log, never a failure of the run.
    """

    def __init__(self, about: str) -> None:
        super().__init__()
        self.about = about

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """There are none; `dag.test()` hands over a DAG that could not render them."""

    def notify(self, context: Any) -> None:
        tell = {"failed": self._failed, "asked": self._asked, "kept": self._kept}[self.about]
        try:
            if message := tell(context):
                send(*message, failure=self.about == "failed")
        except Exception as error:  # whatever it is: the run's own outcome must stand
            self.log.error("No notice about %s was sent: %s: %s", self.about, type(error).__name__, error)

    def _failed(self, context: Any) -> tuple[str, str]:
        dag, run_id = context["dag"], context["run_id"]
        task_id, said = first_failure(context)
        return f"{dag.dag_id} failed: {task_id}", "\n".join(
            [
                f"DAG: {dag.dag_id}",
                f"Run: {run_id}",
                f"First failed task: {task_id}",
                f"It said: {said}" if said else f"Reason: {context.get('reason')}",
                "The champion is as it was unless the task `promote` or `rollback` is green.",
                run_address(dag.dag_id, run_id),
            ]
        )

    def _asked(self, context: Any) -> tuple[str, str]:
        dag, run_id = context["dag"], context["run_id"]
        return f"{dag.dag_id}: a person is asked to approve a release", "\n".join(
            [
                f"Run: {run_id}",
                "A model passed the gate. Approve or reject it on Airflow's page; without an answer the champion stays.",
                context["task"].generate_link_to_ui_from_context(context=context),
            ]
        )

    def _kept(self, context: Any) -> tuple[str, str] | None:
        dag, run_id = context["dag"], context["run_id"]
        if context["dag_run"].run_type == "backfill" or context["params"]["promotion"] == "never":
            return None  # as it was meant
        said = context["task"].said
        return f"{dag.dag_id}: the champion stays", "\n".join([f"Run: {run_id}", said, run_address(dag.dag_id, run_id)])


def notice(about: str) -> RunNotice | None:
    """The notice, if people want it."""
    return RunNotice(about) if CONNECTION and about in ABOUT else None


def first_failure(context: Any) -> tuple[str, str]:
    """The task that failed first, and the last line that its command printed."""
    from airflow.sdk.execution_time.xcom import XCom

    dag, run_id = context["dag"], context["run_id"]
    try:
        left = [
            (left["at"], task_id, left["said"])
            for task_id in dag.task_ids
            for left in XCom.get_all(key=FAILURE, dag_id=dag.dag_id, task_id=task_id, run_id=run_id) or ()
        ]
        if left:
            return min(left)[1:]
        # A task that was killed, or ran out of time, has left nothing.
        states = context["ti"].get_task_states(dag.dag_id, run_ids=[run_id])[run_id]
        return next((task_id for task_id in dag.task_ids if states.get(task_id) == "failed"), "none"), ""
    except ImportError:  # `dag.test()` has nobody to ask for XComs once its tasks are over
        return "the first red one", ""


def send(title: str, body: str, *, failure: bool) -> None:
    """Send to every service of the connection.

    Raises:
        RuntimeError: one of them did not take it.
    """
    import apprise
    from airflow.providers.apprise.hooks.apprise import AppriseHook

    hook = AppriseHook(CONNECTION)
    connection = hook.get_connection(CONNECTION)
    config = hook.get_config_from_conn(connection)
    for entry in config if isinstance(config, list) else [config]:
        # Tokens are parts of the address, which Airflow does not take for a secret by itself.
        for secret in [entry["path"], *re.findall(r"[^/:@?&=]{6,}", entry["path"].partition("://")[2])]:
            mask_secret(secret)
    services = apprise.Apprise()
    hook.set_config_from_conn(connection, services)
    kind = apprise.NotifyType.FAILURE if failure else apprise.NotifyType.INFO
    # The hook's own `notify` would not say whether it was taken.
    if not services.notify(body=body, title=title, notify_type=kind):
        raise RuntimeError(f"not every service of the connection {CONNECTION!r} took it; see its lines above")


def late_after(hours: float) -> DeadlineAlert | None:
    """Alert where a run is not over so many hours after it was queued; sent by the triggerer, so from the provider alone."""
    if not CONNECTION or "late" not in ABOUT:
        return None
    body = f"DAG: {{{{ dag_run.dag_id }}}}\nRun: {{{{ dag_run.dag_run_id }}}}\nIt is not over {hours:g} hours after it was queued. It goes on."
    return DeadlineAlert(
        name=f"over within {hours:g} hours",
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(hours=hours),
        callback=AsyncCallback(
            NOTICE, kwargs={"title": "{{ dag_run.dag_id }} is late", "body": body, "apprise_conn_id": CONNECTION}
        ),
    )
