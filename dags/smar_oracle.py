"""
# smar_oracle: a yardstick once a week

Trains a text-only model that is told what pictures show (`smar train-oracle`), on the same days and tables as `smar_retrain`. Daily
reports then say how much of its gain over text alone the model recovers, and how old it is.

Only for shops with `truth`, that is simulated ones: it is paused until somebody turns it on. It releases nothing. The tables are
those of the daily run where they are the same.

**Parameters** (*Trigger*): `date` and `settings`, as in `smar_retrain`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, chain
from form_fields import date_field, settings_field
from run_names import run_name
from stages import SmarOperator

RUN = "oracle-{{ run_name(run_id) }}"
DATE = "{{ params.date or macros.ds_add((dag_run.logical_date or dag_run.run_after) | ds, -1) }}"


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
    params={
        "date": date_field(),
        "settings": settings_field(),
    },
    default_args={
        "owner": "search",
        "retries": 2,
        "retry_delay": timedelta(seconds=20),
        "execution_timeout": timedelta(hours=4),
    },
    user_defined_macros={"run_name": run_name},
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
    generate_queries = command("generate-queries")
    label_fashion = command("label-fashion")
    check_data = command("check-data")
    chain(shop_open, start, command("prepare-items"), command("extract-clicks"), [generate_queries, label_fashion])
    chain(generate_queries, command("measure-drift"), check_data)
    train = command("train-oracle", pool="training", execution_timeout=timedelta(hours=24))
    chain([generate_queries, label_fashion], check_data, train)
