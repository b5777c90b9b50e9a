"""How a run is named, for the DAG and for whoever wants to find its folder."""

from __future__ import annotations

import re


def run_name(run_id: str) -> str:
    """Airflow's run id as a name that a folder and the `smar` commands take: letters, digits, '.', '_' and '-'."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", run_id).strip("-._")[:100]
