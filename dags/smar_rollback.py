"""
# smar_rollback: another release serves again

Puts the alias `champion` back to the one before it, or to any release that is named: first its index is brought up to today's catalogue and
measured, then the version is loaded and asked, then the alias is moved. `smar serve` follows within seconds. Until the last task nothing changes
for shoppers.

**Parameters** (*Trigger*; a bad value is refused there): `release`, `previous` or the number of a version (`smar history` and MLflow list them);
`reason`, which stands with your name in the history of releases; `settings`, as in `smar_retrain`.

**What follows.** A `smar_retrain` that is under way keeps the champion when it ends, as it was compared with another one. The next one is compared with
the release that serves now, and may promote a model like the one that was rolled back: set *Promotion* to `ask` until the cause is found.

**A red run** left the champion as it was. Open the first red task: its last line says what is wrong. `start`: there is no such release. `refresh-index`:
its index finds too little. `rollback`: the version does not load or answer, and the release before it may be tried. Then trigger it anew.

**Events** that other DAGs can follow: `smar_index`, `smar_release`.

**Needs** the pools of `dags/pools.json`. It waits for no training.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, chain
from form_fields import REASON_FIELD, RELEASE_FIELD, SETTINGS_FIELD
from published_assets import INDEX, RELEASE
from run_names import run_name
from run_notices import late_after, notice
from stages import DEFAULT_ARGS, SPARK, SmarOperator

RUN = "rollback-{{ run_name(run_id) }}"
# The catalogue is read as it is now; the day stands in the run's record alone.
TODAY = "{{ dag_run.run_after | ds }}"
WHO = "{{ dag_run.triggering_user_name or 'unknown' }}"


def command(name: str, **options: Any) -> SmarOperator:
    return SmarOperator(task_id=name, arguments=[name, "--run", RUN], **options)


with DAG(
    dag_id="smar_rollback",
    description="Make the previous or a named release the champion again, with a reason.",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    tags=["smar"],
    params={"release": RELEASE_FIELD, "reason": REASON_FIELD, "settings": SETTINGS_FIELD},
    # Somebody waits for it.
    default_args=DEFAULT_ARGS | {"retries": 1, "retry_delay": timedelta(seconds=5), "priority_weight": 100},
    user_defined_macros={"run_name": run_name},
    on_failure_callback=notice("failed"),
    deadline=late_after(1),
) as dag:
    chain(
        SmarOperator(
            task_id="start",
            arguments=[
                *["start", "--settings", "{{ params.settings }}", "--run", RUN, "--date", TODAY],
                *["--release", "{{ params.release }}", "--note=roll back: {{ params.reason }}"],
            ],
            required=True,
        ),
        command("prepare-items", pool="spark", execution_timeout=SPARK),
        command("embed-release", pool="indexing", execution_timeout=SPARK),
        command("refresh-index", pool="indexing", execution_timeout=SPARK),
        command("publish-index", pool="release", outlets=[INDEX]),
        SmarOperator(
            task_id="rollback",
            arguments=["rollback", "--run", RUN, "--reason={{ params.reason }}", f"--by={WHO}"],
            pool="release",
            outlets=[RELEASE],
        ),
    )
