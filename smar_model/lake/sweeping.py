"""What `smar start` removes from the lake: what killed processes left, checkpoints of finished work, and tables that have expired."""

from __future__ import annotations

import re
import shutil
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from smar_model.lake.artifacts import (
    checkpoint_stage,
    contract_records,
    damaged_folder,
    expiry_mark,
    find_checkpoints,
    lake,
    manifest_path,
    read_manifests,
    remove_artifact,
)
from smar_model.lake.contracts import has_contract, load_contract
from smar_model.lake.process_identity import process_state
from smar_model.lake.records import say_once
from smar_model.lake.shared_files import (
    files_in,
    folders_in,
    is_file,
    last_written,
    read_files,
    remove_folder,
    replace_file,
    store,
)

ORPHAN_AGE_SECONDS = 7 * 24 * 3600
"""An attempt whose process cannot be asked for (another host or PID namespace, before a restart) is swept after this long, and
so is a damaged output."""
_OWNER = TypeAdapter(dict[str, Any])


def sweep_orphans() -> int:
    """Remove what is of no more use: folders of attempts that no manifest names and whose process is gone, and
    checkpoints of outputs that are finished; returns how many.

    Folders stay that a manifest names which was set aside: a release may still answer from one. Where such a manifest does not even tell
    its folder, all folders of the stage stay.
    """
    swept = 0
    for folder in _stage_folders():
        # Before the manifests are read: what is published meanwhile is among those.
        here = list((folder / "attempts").glob("*"))
        shared = folders_in(folder / "attempts") if store() else []
        named = _named_attempts(folder.name)
        if named is not None:
            for orphan in here:
                if orphan.name not in named and not _is_alive(orphan):
                    shutil.rmtree(orphan, ignore_errors=True)
                    swept += 1
            for orphan in shared:
                if orphan.name not in named and _is_old(orphan):
                    remove_folder(orphan)
                    swept += 1
            swept += _sweep_unlisted(folder)
        stage = folder.name.removesuffix(checkpoint_stage(""))
        for checkpoint in find_checkpoints(stage) if stage != folder.name else ():
            if (of := checkpoint.metrics.get("of")) and is_file(manifest_path(stage, of)):
                remove_artifact(checkpoint)
                swept += 1
    return swept


def _sweep_unlisted(folder: Path) -> int:
    """Remove what tasks of Spark have put beside the files of an output in the object store: those that failed, or were done twice."""
    shared = store()
    if shared is None:
        return 0
    attempts, listed = set(), set()
    for manifest in read_manifests(folder.name)[0]:
        place = folder / "attempts" / manifest["attempt"]
        attempts.add(place)
        listed |= {place / name for name in manifest["files"]}
    unlisted = [
        path
        for path in shared.old_files(folder / "attempts", ORPHAN_AGE_SECONDS)
        if path not in listed and not path.name.startswith(".") and attempts.intersection(path.parents)
    ]
    for path in unlisted:
        shared.remove_file(path)
    return len(unlisted)


def sweep_expired() -> int:
    """Remove tables that were published longer ago than their contract's `retention_days`; returns how many.

    The output stays and is found as before, but the table reads as empty.
    """
    swept = 0
    for folder in _stage_folders():
        for manifest in read_manifests(folder.name)[0]:
            age = datetime.now(UTC) - datetime.fromisoformat(manifest["finished_at"])
            for table in filter(has_contract, manifest["content"]):
                days, place = load_contract(table).retention_days, folder / "attempts" / manifest["attempt"]
                mark = expiry_mark(place, table)
                if days and age > timedelta(days=days) and ((place / table).is_dir() or not is_file(mark)):
                    replace_file(mark, "")  # first: a table that is half removed is none
                    remove_folder(place / table)
                    swept += 1
    return swept


def _stage_folders() -> list[Path]:
    return [folder for folder in folders_in(lake()) if folder != contract_records()]


def _is_old(path: Path) -> bool:
    return time.time() - last_written(path) > ORPHAN_AGE_SECONDS


def _named_attempts(stage: str) -> set[str] | None:
    """Attempts that a manifest names, damaged ones among them; None where one does not tell."""
    manifests, damaged = read_manifests(stage)
    named: set[str] | None = {manifest["attempt"] for manifest in manifests} | _set_aside_lately(stage)
    aside = [*(Path(record.path) for record in damaged), *files_in(damaged_folder(stage), ".json")]
    for path, content in read_files(aside).items():
        # All that is left of most: a file is cut at its end, and the list of files stands there.
        attempts = re.findall(rb'"attempt": ?"([\w-]+)"', content)
        if not attempts:
            say_once(
                f"{path}: does not tell which folder of {lake() / stage / 'attempts'} it listed, so none of them is swept; "
                "delete it once no release needs that output"
            )
            named = None
        elif named is not None:
            named |= {attempt.decode() for attempt in attempts}
    return named


def _set_aside_lately(stage: str) -> set[str]:
    """Attempts whose output was set aside and is still kept; what has been long enough is forgotten, and its files are orphans."""
    attempts = set()
    for record in folders_in(damaged_folder(stage)):
        if _is_old(record):
            remove_folder(record)
        else:
            attempts.add(record.name.rpartition(".")[2])
    return attempts


def _is_alive(folder: Path) -> bool:
    """Whether the process of an attempt on this machine is; where it cannot be asked for, whether the attempt is young."""
    try:
        state = process_state(_OWNER.validate_json((folder / ".owner.json").read_bytes()))
    except (OSError, ValueError):
        state = "unknown"
    with suppress(FileNotFoundError):
        return time.time() - folder.stat().st_mtime < ORPHAN_AGE_SECONDS if state == "unknown" else state == "alive"
    return False
