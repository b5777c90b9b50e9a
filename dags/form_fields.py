"""Fields that the trigger forms of all DAGs have in common."""

from __future__ import annotations

import os

from airflow.sdk import Param


def date_field() -> Param:
    return Param(
        None,
        type=["null", "string"],
        format="date",
        title="Date",
        description="Last day of the click log to read. Empty: the day before the run.",
    )


def settings_field() -> Param:
    return Param(
        os.environ.get("SMAR_SETTINGS", "configs/sample_shop.yaml"),
        type="string",
        minLength=1,
        title="Settings file",
        description="One file per shop, as in configs/.",
    )
