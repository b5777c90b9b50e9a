"""Run a DAG once, in this process and without a scheduler: `python -m laptop.run_dag smar_retrain WHEN CONF`.

Airflow's own `dag.test()`: tasks run one after another as their trigger rules allow, with their retries, and the run
stands in Airflow's database like any other. Unlike `airflow dags test` it lets us choose the moment, and with it
the run's id. Exit code 0 for a green run, 1 for a red one.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path

from smar_model.settings import REPOSITORY


def run_name(when: datetime) -> str:
    """Name under which `smar` keeps the run that `main` makes for a moment."""
    sys.path.append(str(REPOSITORY / "dags"))  # where Airflow, too, finds the modules of a DAG file
    import run_names

    return run_names.run_name(f"manual__{when.isoformat()}")


def main(dag_id: str, when: str, conf: str) -> int:
    from airflow.dag_processing.dagbag import BundleDagBag
    from airflow.utils.state import DagRunState

    folder = REPOSITORY / "dags"
    bag = BundleDagBag(dag_folder=str(folder), bundle_path=Path(folder), bundle_name="dags-folder")
    if dag_id not in bag.dags:
        print(f"error: no DAG {dag_id!r} in {folder}: {bag.import_errors}")
        return 1
    moment = datetime.fromisoformat(when)
    dag = bag.dags[dag_id]
    dag.deadline = None  # it takes a scheduler to miss one; with one, `dag.test()` fails when the run has ended
    run = dag.test(run_after=moment, logical_date=moment, run_conf=json.loads(conf))
    print(f"{run.run_id}: {run.state}")
    return 0 if run.state == DagRunState.SUCCESS else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
