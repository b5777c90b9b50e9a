"""
# smar_retrain: the daily run

Reads a window of a shop's click log, its catalogue and pictures; trains, judges and indexes a model; makes it the
champion if it passes the gate. Every task is one `smar` command, which can be typed by hand as well (see the task's
rendered arguments). A command that finds its finished output takes it, so that clearing a task, or the whole run, is
always safe and costs only what was not finished.

On most days the tokenizer, the vision encoder and the pretraining are those of one of the last seven days, and the champion is
fine-tuned further on the new days' clicks: `start` says whose they are (*Reuse pretraining*).

**Parameters** (*Trigger*; a bad value is refused there)

| field | what it does | empty |
| --- | --- | --- |
| `date` | last day of the click log to read | the day before the run |
| `window_days` | days of the log, that day included | the settings' |
| `settings` | a file as in `configs/` | must not be |
| `variant` | of the network | the settings' |
| `pretraining` | `auto`, `always`, `never`: take that of an earlier run | the settings' |
| `seed` | of every draw in training | the settings' |
| `sample_share` | train on this share of the log | the settings' |
| `promotion` | what happens to a model that passes the gate: `automatic`, `ask` a person, `never` | must not be |
| `note` | why it is started | none |

**Promotion by a person.** With `ask`, a model that passed the gate waits at the task `ask`, which shows the decision's table and the report's
link, for *Approve* or *Reject* and a comment. Who decided is recorded. Without an answer within twelve hours (`SMAR_ANSWER_HOURS`) the champion
stays, and the run ends green; `smar promote --run RUN --approved-by YOU` still promotes it. `airflow dags test` and `make retrain` ask nobody.

**A green run** either promoted its model (`released` is green) or kept the champion for a stated reason (`released` is skipped): see the last
lines of `gate` and `promote`, or the tag `smar.decision` of the run in MLflow.

**A red run** left the champion as it was. Open the first red task: its last line says which file, row or setting is wrong and what to do.
Then clear that task with everything downstream.

- `reconcile` alone: the alias `champion` was moved by hand to a version that cannot serve. The run went on all the same. Its last line says
  what to mend; the last good release keeps serving.
- `train-text-only` alone: a baseline. The model is released all the same, the comparison is missing from the report.
- `track` or `prune` alone: nothing is lost; clear it once MLflow, or the disk, is well again.
- `watcher` is red whenever any task is. It says nothing of its own.

**Backfill** of past days by Airflow (*Trigger*, *Backfill*, or `airflow backfill create`) never promotes; days whose inputs and code have
not changed take what is finished.

**The report** (what the model finds, by segment and query by query, and the decision) is behind the button *Report* of `track`.

**Events** that other DAGs can follow: `smar_tables`, `smar_model`, `smar_release`.

**Needs** the pools of `dags/pools.json` (`airflow pools import dags/pools.json`). Tasks that use all cores or the GPU take turns in `training`.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, CronTriggerTimetable, TaskGroup, chain
from form_fields import (
    DATE_FIELD,
    NOTE_FIELD,
    PRETRAINING_FIELD,
    PROMOTION_FIELD,
    SAMPLE_SHARE_FIELD,
    SEED_FIELD,
    SETTINGS_FIELD,
    VARIANT_FIELD,
    WINDOW_FIELD,
)
from persons_answer import TOLD_ANSWER, answer, ask_person
from published_assets import MODEL, RELEASE, TABLES
from run_names import run_name
from run_notices import late_after, notice
from stages import (
    DATE,
    DEFAULT_ARGS,
    QUICK,
    SPARK,
    TRAINING,
    OutcomeOperator,
    SmarOperator,
    TrackOperator,
    watcher,
)

RUN = "{{ run_name(run_id) }}"
SETTINGS = ["--settings", "{{ params.settings }}"]
WINDOW = ["{{ '--window-days' if params.window_days }}", "{{ params.window_days or '' }}"]
PROMOTION = "{{ 'never' if dag_run.run_type == 'backfill' else params.promotion }}"
CHANGES = {
    "variant": "network.variant",
    "pretraining": "training.reuse_pretraining",
    "seed": "training.seed",
    "sample_share": "clicks.sample_share",
}
"""Field of the form → the setting that it changes in this run alone."""
LATE_HOURS = float(os.environ.get("SMAR_LATE_HOURS", "12"))

CHECKS_PAGE = """
All checks with their figures, and the rows not used by reason, are on the page `checks.html`. The last line of this
task's log, or the message that it failed with, says where it lies; `track` adds it to the run's artifacts in MLflow.
"""

PARTS = """
Skipped where the index is one file. With `index.parts` above 1 the parts are filled and tuned by tasks of their own, each by whichever worker
takes it: as many at a time as the pool `indexing` has slots. `index` then publishes all as one.
"""

REPORT = """
The button *Report*, under the task's details, opens the run's report in MLflow; so does the address in the last line of the log.
"""

NOBODY = """
Skipped where nobody is to be asked: the policy is not `ask`, the gate keeps the champion, the run is a backfill, or no scheduler
runs that would end the wait (`airflow dags test`, `make retrain`).
"""


def command(name: str, *, pool: str = "default_pool", timeout: timedelta = QUICK, **options: Any) -> SmarOperator:
    """A task that runs `smar NAME --run RUN`, with the command's name as its id."""
    return SmarOperator(task_id=name, arguments=[name, "--run", RUN], pool=pool, execution_timeout=timeout, **options)


def spark(name: str, **options: Any) -> SmarOperator:
    return command(name, pool="spark", timeout=SPARK, **options)


def training(name: str, *, timeout: timedelta = TRAINING, **options: Any) -> SmarOperator:
    return command(name, pool="training", timeout=timeout, **options)


class PartsOperator(SmarOperator):
    """`smar plan-index`; its result is a list with the arguments of each part's commands."""

    def execute(self, context: Any) -> list[list[str]]:
        return [[f"--part={part}"] for part in json.loads(super().execute(context))]


with DAG(
    dag_id="smar_retrain",
    description="Train, judge, index and release the search model on the click log up to a day.",
    doc_md=__doc__,
    # Without a start date and with run_immediately=False, unpausing waits for the next 04:00.
    schedule=CronTriggerTimetable("0 4 * * *", timezone="UTC", run_immediately=False),
    catchup=False,
    max_active_runs=1,
    tags=["smar"],
    params={
        "date": DATE_FIELD,
        "window_days": WINDOW_FIELD,
        "settings": SETTINGS_FIELD,
        "variant": VARIANT_FIELD,
        "pretraining": PRETRAINING_FIELD,
        "seed": SEED_FIELD,
        "sample_share": SAMPLE_SHARE_FIELD,
        "promotion": PROMOTION_FIELD,
        "note": NOTE_FIELD,
    },
    default_args=DEFAULT_ARGS,
    user_defined_macros={"run_name": run_name, "answer": answer},
    on_failure_callback=notice("failed"),
    deadline=late_after(LATE_HOURS),
) as dag:
    with TaskGroup("data", prefix_group_id=False, tooltip="From the shop's files to checked training tables"):
        reconcile = SmarOperator(task_id="reconcile", arguments=["reconcile", *SETTINGS], pool="release")
        # Red and loud where the champion cannot serve, but a new model may be just what mends it.
        reconciled = EmptyOperator(task_id="reconciled", trigger_rule="all_done")
        shop_open = SmarOperator(
            task_id="shop-open",
            arguments=["shop", "open", *SETTINGS, "--date", DATE, *WINDOW],
            execution_timeout=SPARK,
        )
        start = SmarOperator(
            task_id="start",
            arguments=[
                *["start", *SETTINGS, "--run", RUN, "--date", DATE, *WINDOW],
                *["--promotion", PROMOTION, "{{ '--note=' ~ params.note if params.note }}"],
                *(
                    f"{{{{ '--set={setting}=' ~ params.{field} if params.{field} is not none }}}}"
                    for field, setting in CHANGES.items()
                ),
            ],
        )
        prepare_items = spark("prepare-items")
        extract_clicks = spark("extract-clicks")
        generate_queries = spark("generate-queries")
        measure_drift = command("measure-drift")
        label_fashion = spark("label-fashion")
        assign_segments = spark("assign-segments")
        check_data = spark("check-data", doc_md=CHECKS_PAGE, outlets=[TABLES])

    with TaskGroup("training", prefix_group_id=False, tooltip="Tokenizer, the model in three steps, the baseline"):
        train_tokenizer = command("train-tokenizer", timeout=SPARK)
        mine_negatives = training("mine-negatives", timeout=SPARK)
        adapt_vision = training("adapt-vision")
        encode_pictures = training("encode-pictures")
        pretrain = training("pretrain")
        finetune = training("finetune")
        train_text_only = training("train-text-only")
        # Whether the baseline finished or failed, the evaluation goes on.
        text_only_settled = EmptyOperator(task_id="text_only_settled", trigger_rule="all_done")

    with TaskGroup("judging", prefix_group_id=False, tooltip="Index, evaluation, decision, report"):
        embed = training("embed", timeout=SPARK)
        plan_index = PartsOperator(
            task_id="plan-index",
            arguments=["plan-index", "--run", RUN],
            pool="training",
            execution_timeout=SPARK,
            doc_md=PARTS,
        )
        fill_part, tune_part = (
            SmarOperator.partial(
                task_id=name,
                arguments=[name, "--run", RUN],
                pool="indexing",
                execution_timeout=SPARK,
                map_index_template="{{ task.more | join(' ') | replace('--part=', 'part ') }}",
            ).expand(more=plan_index.output)
            for name in ("fill-index-part", "tune-index-part")
        )
        index = training("index", timeout=SPARK, trigger_rule="none_failed")  # without parts those tasks are skipped
        evaluate = training("evaluate", timeout=SPARK)
        gate = command("gate")
        report = command("report")

    with TaskGroup("release", prefix_group_id=False, tooltip="Model version, a person's word, champion"):
        register = command("register", outlets=[MODEL])
        describe_decision = SmarOperator(
            task_id="describe-decision",
            arguments=["describe-decision", "--run", RUN, "--if-asked"],
            # No scheduler would end the wait of a run by `dag.test()`.
            unless="{{ params.promotion != 'ask' or dag_run.run_type == 'backfill' or dag_run.triggering_user_name == 'dag_test' }}",
            doc_md=NOBODY,
        )
        ask = ask_person("Shall the model of {{ run_name(run_id) }} become the champion?", doc_md=NOBODY)
        promote = SmarOperator(
            task_id="promote",
            arguments=["promote", "--run", RUN, *TOLD_ANSWER],
            pool="release",
            trigger_rule="none_failed",  # `ask` is skipped where nobody is to be asked
        )
        released = OutcomeOperator(
            task_id="released",
            of="promote",
            retries=0,
            outlets=[RELEASE],
            on_skipped_callback=notice("kept"),
        )
        track = TrackOperator(
            task_id="track", arguments=["track", "--run", RUN], trigger_rule="all_done", doc_md=REPORT
        )
        prune = SmarOperator(task_id="prune", arguments=["prune", *SETTINGS], pool="release", trigger_rule="all_done")
        watching = watcher()

    chain(reconcile, reconciled, start)
    chain(shop_open, start, prepare_items, extract_clicks, [generate_queries, label_fashion], check_data)
    chain(generate_queries, measure_drift, check_data)
    chain(check_data, train_tokenizer, adapt_vision, encode_pictures, pretrain, finetune, embed, index, evaluate)
    chain(embed, plan_index, fill_part, tune_part, index)
    chain(train_tokenizer, mine_negatives, [pretrain, train_text_only])
    chain(train_text_only, text_only_settled, evaluate)
    # The report tells the decision, and the model version holds the report.
    chain(evaluate, gate, report, register, promote, released)
    chain(register, describe_decision, ask, promote)
    # Beside training, which does not wait for it.
    chain(check_data, assign_segments, evaluate)
    chain([promote, text_only_settled], track, prune)
    # A failure anywhere on the way to `promote` reaches it as upstream_failed, which one_failed counts.
    chain([reconcile, promote, released, train_text_only, track, prune], watching)
