"""
# smar_promote_challenger: what shoppers say of the version that waits

Where the settings ask for it (`gate.interleaving`), a version that passed the gate of `smar_retrain` waits under the alias `challenger` while
`smar serve --interleave champion:challenger` shows it to a share of the shoppers. Once a day, when the day before's log is delivered, this DAG
reads the log: a version that shoppers are shown to prefer becomes the champion; one that they are shown not to prefer, or that its time has run
out for, is rejected. Both stand in the history of releases.

**Turn it on** (it is paused at first) together with `gate.interleaving`, at an hour at which your log of the day before is there.

**Parameters**: `settings`, as in `smar_retrain`; they name the registry. What is asked for stands in the record of the run that made the version.

**Promotion by a person.** A run that was started with `ask` waits for one here, at the task `ask`, once shoppers prefer its version; the page
shows their preference beside the gate's decision. Without an answer the champion stays, and the next day asks again.

**A green run** has promoted, rejected, or waits for more requests: see the last line of `promote`. Skipped: no version waits.

**A red run** left the champion as it was. Open the first red task: its last line says which file or setting is wrong and what to do.

**Events** that other DAGs can follow: `smar_release`.

**Needs** the pools of `dags/pools.json`.
"""

from __future__ import annotations

from airflow.sdk import DAG, CronTriggerTimetable, chain
from form_fields import SETTINGS_FIELD
from persons_answer import ANSWER_HOURS, TOLD_ANSWER, answer, ask_person
from published_assets import RELEASE
from run_notices import late_after, notice
from stages import DEFAULT_ARGS, OutcomeOperator, SmarOperator

CHALLENGER = ["--challenger", "--settings", "{{ params.settings }}"]

with DAG(
    dag_id="smar_promote_challenger",
    description="Promote or reject the version that is being interleaved, by what shoppers prefer.",
    doc_md=__doc__,
    schedule=CronTriggerTimetable("0 6 * * *", timezone="UTC", run_immediately=False),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
    tags=["smar"],
    params={"settings": SETTINGS_FIELD},
    default_args=DEFAULT_ARGS,
    user_defined_macros={"answer": answer},
    on_failure_callback=notice("failed"),
    deadline=late_after(ANSWER_HOURS + 2),
) as dag:
    chain(
        SmarOperator(
            task_id="describe-decision",
            arguments=["describe-decision", *CHALLENGER, "--if-asked"],
            # No scheduler would end the wait of a run by `dag.test()`.
            unless="{{ dag_run.triggering_user_name == 'dag_test' }}",
        ),
        ask_person("Shall the version that shoppers prefer become the champion?"),
        SmarOperator(
            task_id="promote",
            arguments=["promote", *CHALLENGER, *TOLD_ANSWER],
            pool="release",
            trigger_rule="none_failed",  # `ask` is skipped where nobody is to be asked
        ),
        OutcomeOperator(
            task_id="released", of="promote", retries=0, outlets=[RELEASE], on_skipped_callback=notice("kept")
        ),
    )
