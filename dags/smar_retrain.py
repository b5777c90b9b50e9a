"""
# smar_retrain: the daily run

Reads a window of a shop's click log, its catalogue and pictures; trains, judges and indexes a model; makes it the
champion if it passes the gate. Every task is one `smar` command, which can be typed by hand as well (see the task's
rendered arguments). A command that finds its finished output takes it, so that clearing a task, or the whole run, is
always safe and costs only what was not finished.

On most days the tokenizer, the vision encoder and the pretraining are those of one of the last seven days, and the champion is
fine-tuned further on the new days' clicks: `start` says whose they are (`training.reuse_pretraining` in the settings).

**Parameters** (*Trigger*): `date`, the last day of the click log to read (empty: the day before the run);
`window_days` (empty: the settings'); `settings`, a file as in `configs/`; `promotion`, whether a model that passes the gate becomes the champion.

**A green run** either promoted its model or kept the champion for a stated reason: see the last lines of `gate` and
`promote`, or the tag `smar.decision` of the run in MLflow.

**A red run** left the champion as it was. Open the first red task: its last line says which file, row or setting is
wrong and what to do. Then clear that task with everything downstream. `train-text-only` is a baseline: when it alone
fails, the model is released all the same, the comparison is missing from the report, and `watcher` turns the run
red so that somebody looks. `watcher` is red whenever any task is.

**The report** (what the model finds, by segment and query by query, and the decision) is behind the button *Report* of `track`.

**Needs** the pool `training` with one slot (`airflow pools set training 1 "one training process at a time"`): the
tasks that use all cores or the GPU take turns in it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, CronTriggerTimetable, Param, TaskGroup, chain, task
from airflow.sdk.exceptions import AirflowFailException
from form_fields import date_field, settings_field
from run_names import run_name
from stages import SmarOperator, TrackOperator

RUN = "{{ run_name(run_id) }}"
# `ds` does not exist on a manual run without a logical date.
DATE = "{{ params.date or macros.ds_add((dag_run.logical_date or dag_run.run_after) | ds, -1) }}"
WINDOW = ["{{ '--window-days' if params.window_days }}", "{{ params.window_days or '' }}"]

CHECKS_PAGE = """
All checks with their figures, and the rows not used by reason, are on the page `checks.html`. The last line of this
task's log, or the message that it failed with, says where it lies; `track` adds it to the run's artifacts in MLflow.
"""

REPORT = """
The button *Report*, under the task's details, opens the run's report in MLflow; so does the address in the last line of the log.
"""

QUICK = timedelta(minutes=30)
SPARK = timedelta(hours=4)
TRAINING = timedelta(hours=24)


def command(name: str, *, timeout: timedelta = QUICK, training: bool = False, **options: Any) -> SmarOperator:
    """A task that runs `smar NAME --run RUN`, with the command's name as its id."""
    pool = {"pool": "training"} if training else {}
    return SmarOperator(task_id=name, arguments=[name, "--run", RUN], execution_timeout=timeout, **pool, **options)


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
        "date": date_field(),
        "window_days": Param(
            None,
            type=["null", "integer"],
            minimum=2,
            maximum=366,
            title="Days of the log",
            description="That day and those before it; the last is held out to judge the model. Empty: the settings'.",
        ),
        "settings": settings_field(),
        "promotion": Param(
            "automatic",
            type="string",
            enum=["automatic", "ask", "never"],
            title="Promotion",
            description="What happens to a model that passes the gate. never: it is registered and judged, but the champion stays.",
        ),
    },
    default_args={
        "owner": "search",
        "retries": 2,
        "retry_delay": timedelta(seconds=20),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=10),
    },
    user_defined_macros={"run_name": run_name},
) as dag:
    with TaskGroup("data", prefix_group_id=False, tooltip="From the shop's files to checked training tables"):
        shop_open = SmarOperator(
            task_id="shop-open",
            arguments=["shop", "open", "--settings", "{{ params.settings }}", "--date", DATE, *WINDOW],
            execution_timeout=SPARK,
        )
        start = SmarOperator(
            task_id="start",
            arguments=[
                *["start", "--settings", "{{ params.settings }}", "--run", RUN, "--date", DATE, *WINDOW],
                *["--promotion", "{{ params.promotion }}"],
            ],
            execution_timeout=QUICK,
        )
        prepare_items = command("prepare-items", timeout=SPARK)
        extract_clicks = command("extract-clicks", timeout=SPARK)
        generate_queries = command("generate-queries", timeout=SPARK)
        measure_drift = command("measure-drift")
        label_fashion = command("label-fashion", timeout=SPARK)
        assign_segments = command("assign-segments", timeout=SPARK)
        check_data = command("check-data", timeout=SPARK, doc_md=CHECKS_PAGE)

    with TaskGroup("training", prefix_group_id=False, tooltip="Tokenizer, the model in three steps, the baseline"):
        train_tokenizer = command("train-tokenizer", timeout=SPARK)
        mine_negatives = command("mine-negatives", timeout=SPARK, training=True)
        adapt_vision = command("adapt-vision", timeout=TRAINING, training=True)
        encode_pictures = command("encode-pictures", timeout=TRAINING, training=True)
        pretrain = command("pretrain", timeout=TRAINING, training=True)
        finetune = command("finetune", timeout=TRAINING, training=True)
        train_text_only = command("train-text-only", timeout=TRAINING, training=True)
        # Whether the baseline finished or failed, the evaluation goes on.
        text_only_settled = EmptyOperator(task_id="text_only_settled", trigger_rule="all_done")

    with TaskGroup("judging", prefix_group_id=False, tooltip="Index, evaluation, decision, report"):
        embed = command("embed", timeout=SPARK, training=True)
        index = command("index", timeout=SPARK, training=True)
        evaluate = command("evaluate", timeout=SPARK, training=True)
        gate = command("gate")
        report = command("report")

    with TaskGroup("release", prefix_group_id=False, tooltip="Model version, champion"):
        register = command("register")
        promote = command("promote")
        track = TrackOperator(
            task_id="track",
            arguments=["track", "--run", RUN],
            execution_timeout=QUICK,
            trigger_rule="all_done",
            doc_md=REPORT,
        )

        @task(trigger_rule="one_failed", retries=0)
        def watcher() -> None:
            """A leaf that fails with any task: a run must not end green because `track` did."""
            raise AirflowFailException("a task of this run failed; see the first red one")

        watching = watcher()

    chain(shop_open, start, prepare_items, extract_clicks, [generate_queries, label_fashion], check_data)
    chain(generate_queries, measure_drift, check_data)
    chain(check_data, train_tokenizer, adapt_vision, encode_pictures, pretrain, finetune, embed, index, evaluate)
    chain(train_tokenizer, mine_negatives, [pretrain, train_text_only])
    chain(train_text_only, text_only_settled, evaluate)
    # The report tells the decision, and the model version holds the report.
    chain(evaluate, gate, report, register, promote)
    # Beside training, which does not wait for it.
    chain(check_data, assign_segments, evaluate)
    chain([promote, text_only_settled], track)
    # A failure anywhere on the way to `promote` reaches it as upstream_failed, which one_failed counts.
    chain([promote, train_text_only, track], watching)
