"""
# smar_refresh_index: today's catalogue under the models that are out

Between two trainings: embeds what is new or changed in the catalogue with the champion, measures the recall of the rebuilt index, and makes it
the one that the version's tag `index` names; `smar serve` follows within seconds. Then the same for the champion before it, so that rolling
back is a matter of seconds, and for a version that is being interleaved with the champion (`gate.interleaving`), so that shoppers compare two
models over one catalogue. Nothing is trained.

Runs every hour, and at once when the asset `smar_items` changes: let whatever delivers items say so, by
`outlets=[Asset("smar_items")]` on its task or by `POST /api/v2/assets/events`. Where nothing changed, everything is taken as it is.

**Never beside a release in progress**: whoever writes to the registry (`promote`, `rollback`, `publish-index`, `prune`) waits for the one slot of the
pool `release`, so that it is seen here who waits for whom, and holds the registry's lease, which also stops those who type a command by hand.
Between `start` and `publish-index` the champion may change; then the new build goes to the version it was made for, which is never wrong.
The work itself runs in the pool `indexing`, beside a training.

**Parameters** (*Trigger*): `settings`, as in `smar_retrain`; `date` for the record (empty: the day before the run).

**Skipped** (pink): there is no such release yet. That is a normal end.

**A red run** changed nothing: the indexes in use stay. Open the first red task; its last line says what is wrong. A red `refresh-index` means that
the rebuilt index finds too little (`index.minimum_recall`): the next `smar_retrain` builds one with newly trained parts. A red `reconcile` means
that somebody moved the alias `champion` to a version that cannot serve. Clear the red task with everything downstream, or wait for the next hour.

**Events** that other DAGs can follow: `smar_index`.

**Needs** the pools of `dags/pools.json`.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, TaskGroup, chain
from form_fields import DATE_FIELD, SETTINGS_FIELD
from published_assets import INDEX, ITEMS
from run_names import run_name
from run_notices import late_after, notice
from stages import DATE, DEFAULT_ARGS, SPARK, SmarOperator, watcher

SETTINGS = ["--settings", "{{ params.settings }}"]
RELEASES = {
    "champion": "The one that serves",
    "previous": "The one before it, kept ready to roll back to",
    "challenger": "The one that is being interleaved with the champion",
}

with DAG(
    dag_id="smar_refresh_index",
    description="Embed changed items with the champion, its predecessor and who is interleaved; publish rebuilt indexes.",
    doc_md=__doc__,
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("0 * * * *", timezone="UTC", run_immediately=False), assets=[ITEMS]
    ),
    catchup=False,
    max_active_runs=1,
    tags=["smar"],
    params={"settings": SETTINGS_FIELD, "date": DATE_FIELD},
    default_args=DEFAULT_ARGS,
    user_defined_macros={"run_name": run_name},
    on_failure_callback=notice("failed"),
    deadline=late_after(2),
) as dag:
    reconcile = SmarOperator(task_id="reconcile", arguments=["reconcile", *SETTINGS], pool="release")
    watching = watcher()
    before = reconcile
    for release, tooltip in RELEASES.items():
        run = f"refresh-{{{{ run_name(run_id) }}}}-{release}"

        def command(name: str, *, run: str = run, **options: Any) -> SmarOperator:
            return SmarOperator(task_id=name, arguments=[name, "--run", run], **options)

        with TaskGroup(release, tooltip=tooltip):
            start = SmarOperator(
                task_id="start",
                arguments=["start", *SETTINGS, "--run", run, "--date", DATE, "--release", release],
            )
            prepare_items = command("prepare-items", pool="spark", execution_timeout=SPARK)
            embed = command("embed-release", pool="indexing", execution_timeout=SPARK)
            refresh = command("refresh-index", pool="indexing", execution_timeout=SPARK)
            publish = command("publish-index", pool="release", outlets=[INDEX])
        chain(before, start, prepare_items, embed, refresh, publish, watching)
        # The others find the catalogue that the first has made. They do not wait for each other: either may be skipped.
        before = prepare_items if release == "champion" else before
    chain(reconcile, watching)
