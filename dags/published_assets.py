"""Assets by which DAGs follow each other. Others' DAGs may name them too: `schedule=[Asset("smar_release")]`.

An event carries, as its extra, the `run` that it comes from, `said`, the last line that the command printed, and what the command handed over.
"""

from __future__ import annotations

from airflow.sdk import Asset

ITEMS = Asset("smar_items")
"""The shop's catalogue or pictures have changed. Nothing here says so: whoever delivers them does, by an outlet of the DAG that
writes them or by `POST /api/v2/assets/events`. `smar_refresh_index` follows."""
TABLES = Asset("smar_tables")
"""Tables of a day are made and have passed their checks."""
MODEL = Asset("smar_model")
"""A version is registered, with its index and report, whether or not it passed the gate."""
INDEX = Asset("smar_index")
"""A new build of a release's index is what its tag names."""
RELEASE = Asset("smar_release")
"""Another version is the champion: promoted, or rolled back to."""
