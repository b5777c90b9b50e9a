"""Cluster policy of Airflow: which workers a task goes to. Airflow finds this module on its path.

Queue `spark` has Java and Spark, `gpu` trains, the default one does all else. With `SMAR_POD_TEMPLATES`, a folder, a task
that has a queue of its own is a pod by the template of that name (KubernetesExecutor).
"""

from __future__ import annotations

import os
from typing import Any

SPARK = frozenset(
    {
        "prepare-items",
        "extract-clicks",
        "generate-queries",
        "label-fashion",
        "check-data",
        "assign-segments",
    }
)
"""Tasks that run Spark jobs: the stages whose work is in `jobs/`."""
TRAINING_POOL = "training"
"""Of tasks that use all cores or the GPU."""


def task_policy(task: Any) -> None:
    if task.task_id in SPARK:
        task.queue = "spark"
    elif task.pool == TRAINING_POOL:
        task.queue = "gpu"
    else:
        return
    if templates := os.environ.get("SMAR_POD_TEMPLATES"):
        settings = {"pod_template_file": f"{templates}/{task.queue}.yaml"}
        if hasattr(task, "partial_kwargs"):  # a mapped task, whose attribute of that name is read-only
            task.partial_kwargs["executor_config"] = settings
        else:
            task.executor_config = settings
