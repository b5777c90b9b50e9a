"""
# smar_oracle: a yardstick once a week

Trains a text-only model that is told what pictures show (`smar train-oracle`), on the same days and tables as `smar_retrain`. Daily
reports then say how much of its gain over text alone the model recovers, and how old it is.

Only for shops with `truth`, that is simulated ones: it is paused until somebody turns it on. It releases nothing. The tables are
those of the daily run where they are the same.

**Parameters** (*Trigger*; a bad value is refused there): `date` and `settings`, as in `smar_retrain`.

**A red run** changed nothing: the reports go on with the oracle before it. Open the first red task; its last line says what is wrong. Then clear
it with everything downstream.

**Needs** the pools of `dags/pools.json`.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, chain
from form_fields import DATE_FIELD, SETTINGS_FIELD
from run_names import run_name
from run_notices import late_after, notice
from stages import DATE, DEFAULT_ARGS, SPARK, TRAINING, SmarOperator

RUN = "oracle-{{ run_name(run_id) }}"


def command(name: str, **options: Any) -> SmarOperator:
    return SmarOperator(task_id=name, arguments=[name, "--run", RUN], **options)


with DAG(
    dag_id="smar_oracle",
    description="Train the oracle that daily reports compare with.",
    doc_md=__doc__,
    schedule=CronTriggerTimetable("0 12 * * 0", timezone="UTC", run_immediately=False),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
    tags=["smar"],
    params={"date": DATE_FIELD, "settings": SETTINGS_FIELD},
    default_args=DEFAULT_ARGS | {"execution_timeout": SPARK},
    user_defined_macros={"run_name": run_name},
    on_failure_callback=notice("failed"),
    deadline=late_after(24),
) as dag:
    shop_open = SmarOperator(
        task_id="shop-open",
        arguments=["shop", "open", "--settings", "{{ params.settings }}", "--date", DATE],
    )
    start = SmarOperator(
        task_id="start",
        arguments=[
            "start",
            "--settings",
            "{{ params.settings }}",
            "--run",
            RUN,
            "--date",
            DATE,
            "--promotion",
            "never",
        ],
    )
    generate_queries = command("generate-queries", pool="spark")
    label_fashion = command("label-fashion", pool="spark")
    check_data = command("check-data", pool="spark")
    prepare_items, extract_clicks = command("prepare-items", pool="spark"), command("extract-clicks", pool="spark")
    chain(shop_open, start, prepare_items, extract_clicks, [generate_queries, label_fashion])
    chain(generate_queries, command("measure-drift"), check_data)
    train = command("train-oracle", pool="training", execution_timeout=TRAINING)
    chain([generate_queries, label_fashion], check_data, train)
