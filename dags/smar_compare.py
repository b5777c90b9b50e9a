"""
# smar_compare: variants beside each other

Trains the rows of a comparison file (variants of the network, baselines, oracles that are told the truth) for the same time, judges them on the same
queries, and writes one page. Each row and seed that is not measured yet is a task; `list` says which. What rows have in common is made once. It
releases nothing.

Once a week, and by hand. Paused until somebody turns it on: it takes the slot `training` for its whole time, row by row, so that a daily run takes
its turn in between.

**Parameters** (*Trigger*; a bad value is refused there): `settings`, the comparison (`configs/compare_….yaml`: rows, seeds, day, seconds for each
row); `rows`, their names (empty: all); `seeds`, of those that the file names (empty: all); `date`, the last day of the click log (empty: the file's; the
weekly run takes the day before it).

**The page** is where the last line of `report` says: figures of every row with intervals, differences of pairs, oracles, recovered shares.

**A red run**: a red `compare` names the row that failed; the others are measured and on the page all the same. Clear it once its cause is mended; what is
measured is not measured again. A red `list`: the file, or a name of a row, is wrong.

**Needs** the pools of `dags/pools.json`.
"""

from __future__ import annotations

import json
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, chain
from form_fields import COMPARED_DATE_FIELD, COMPARISON_FIELD, ROWS_FIELD, SEEDS_FIELD
from run_notices import late_after, notice
from stages import DEFAULT_ARGS, TRAINING, SmarOperator, watcher

DATED = "{{ '--date' if params.date or dag_run.run_type == 'scheduled' }}"
DAY = "{{ params.date or (macros.ds_add(dag_run.run_after | ds, -1) if dag_run.run_type == 'scheduled' else '') }}"
COMPARE = ["compare", "--settings", "{{ params.settings }}", DATED, DAY]


class ListOperator(SmarOperator):
    """`smar compare --list`; its result is a list with the arguments of `smar compare` for each row and seed that is missing."""

    def execute(self, context: Any) -> list[list[str]]:
        asked = context["params"]
        self.more = [*(f"--only={row}" for row in asked["rows"]), *(f"--seeds={seed}" for seed in asked["seeds"])]
        return [[f"--only={row}", f"--seeds={seed}"] for row, seed in json.loads(super().execute(context))]


with DAG(
    dag_id="smar_compare",
    description="Train and judge chosen variants and seeds for the same time; one page.",
    doc_md=__doc__,
    schedule=CronTriggerTimetable("0 14 * * 0", timezone="UTC", run_immediately=False),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
    tags=["smar"],
    params={
        "settings": COMPARISON_FIELD,
        "rows": ROWS_FIELD,
        "seeds": SEEDS_FIELD,
        "date": COMPARED_DATE_FIELD,
    },
    default_args=DEFAULT_ARGS,
    on_failure_callback=notice("failed"),
    deadline=late_after(24),
) as dag:
    missing = ListOperator(task_id="list", arguments=[*COMPARE, "--list"])
    compare = SmarOperator.partial(
        task_id="compare",
        arguments=COMPARE,
        pool="training",
        execution_timeout=TRAINING,
        map_index_template="{{ task.more | join(' ') | replace('--only=', '') | replace('--seeds=', 'seed ') }}",
    ).expand(more=missing.output)
    report = SmarOperator(task_id="report", arguments=[*COMPARE, "--page-only"], trigger_rule="all_done")
    chain(missing, compare, report)
    chain([missing, compare, report], watcher())
