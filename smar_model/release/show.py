"""What people ask of the registry: which version is the champion, and which items its index has."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from smar_model.errors import InputError
from smar_model.release.paths import short_path
from smar_model.release.registry import serving_or_version
from smar_model.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa


def index_item_ids(settings: Settings) -> pa.Array | None:
    """Ids of the items in the champion's index; None where there is no champion."""
    try:
        release = serving_or_version(settings, None)
    except InputError:
        return None
    from smar_model.retrieval.index_items import read_columns

    files = sorted((Path(release.index_folder) / "index_items").glob("*.parquet"))
    return read_columns(files, ["item_id"])["item_id"].combine_chunks()


def show_champion(settings: Settings, *, as_json: bool) -> None:
    """Print where the champion comes from and where its files are.

    Raises:
        InputError: there is none yet.
    """
    release = serving_or_version(settings, None)
    if as_json:
        print(json.dumps(asdict(release), indent=1))
        return
    names = {
        "version": release.version,
        "trained by run": release.run,
        "trained up to": release.cutoff,
        "fine-tuned from": release.started_from,
        "judged up to": release.date,
        "model": short_path(release.model_folder),
        "index": short_path(release.index_folder),
        "report": short_path(str(release.settings_file.with_name("report.html"))),
    }
    for name, value in names.items():
        print(f"{name:<15} {value}")
