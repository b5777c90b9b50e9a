"""
# smar_refresh_stock: prices and stock of the hour

Publishes the shop's file of prices and stock (`stock.parquet` or `stock.jsonl` in its folder, by `schemas/stock.yaml`) beside the index.
Running servers filter by it within seconds. No vector, index or version changes.

Runs every hour, once it is turned on: it is paused at first, as it fails where the shop delivers no such file. A shop that knows when its
prices change starts it by `POST /api/v2/dags/smar_refresh_stock/dagRuns` instead.

**Parameter** (*Trigger*): `settings`, as in `smar_retrain`.

**A red run** changed nothing: the table before stays in use, or where there was none the prices of the index. The last line of `refresh-stock` names
the file, the row and the column. Deliver the file again, then clear the task, or wait for the next hour.

**Needs** the pools of `dags/pools.json` for nothing: it writes nothing to the registry, and waits for nobody.
"""

from __future__ import annotations

from airflow.sdk import DAG
from form_fields import SETTINGS_FIELD
from run_notices import late_after, notice
from stages import DEFAULT_ARGS, SmarOperator

with DAG(
    dag_id="smar_refresh_stock",
    description="Publish the shop's prices and stock of the hour beside the index.",
    doc_md=__doc__,
    schedule="15 * * * *",
    is_paused_upon_creation=True,
    catchup=False,
    max_active_runs=1,
    tags=["smar"],
    params={"settings": SETTINGS_FIELD},
    default_args=DEFAULT_ARGS,
    on_failure_callback=notice("failed"),
    deadline=late_after(1),
) as dag:
    SmarOperator(task_id="refresh-stock", arguments=["refresh-stock", "--settings", "{{ params.settings }}"])
