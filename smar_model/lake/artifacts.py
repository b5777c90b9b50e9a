"""Published outputs of stages: immutable folders that one manifest makes real (design, decision 2).

    <lake>/<stage>/<key>.json          the manifest: every file with size and digest
    <lake>/<stage>/attempts/<id>/…     the files; private until a manifest lists them
    <lake>/contracts/<table>.json      the columns with which a table was last published, and their version

A manifest appears by one atomic create-if-absent (a hard link of a finished file, or a conditional put). Readers open only files that it
lists. The lake lies in the home folder or in an object store (`shared_files.py`); files are written and read on this machine in both cases.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from smar_model.errors import InputError
from smar_model.lake.contracts import Column, Contract, has_contract, load_contract
from smar_model.lake.digests import digest_files, digest_json, digest_rows
from smar_model.lake.shared_files import (
    create_if_absent,
    fetch_files,
    files_in,
    folders_in,
    is_file,
    last_written,
    read_file,
    read_files,
    remove_file,
    remove_folder,
    replace_file,
    share_files,
    store,
)
from smar_model.settings import home

ORPHAN_AGE_SECONDS = 7 * 24 * 3600
"""An attempt whose process cannot be asked (another host) is swept after this long."""


def lake() -> Path:
    return home() / "lake"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A finished output of a stage."""

    stage: str
    key: str
    place: Path
    """Its folder on this machine, where some of its files may not have been fetched yet."""
    manifest: dict[str, Any] = field(repr=False)

    @property
    def folder(self) -> Path:
        """Its folder on this machine, with all its files.

        Raises:
            InputError: one is gone from the object store.
        """
        self._fetch(self.manifest["files"])
        return self.place

    @property
    def digest(self) -> str:
        """Digest of the content alone: the same rows and weights give the same digest."""
        return self.manifest["digest"]

    @property
    def metrics(self) -> dict[str, Any]:
        return self.manifest["metrics"]

    def file(self, name: str) -> Path:
        """A listed file by its path inside the artifact.

        Raises:
            InputError: the manifest does not list it, or the file is gone or changed in size.
        """
        entry = self.manifest["files"].get(name)
        if entry is None:
            raise InputError(f"{self.stage} {self.key[:12]}: its manifest lists no file {name!r}")
        self._fetch([name])
        path = self.place / name
        if not self._is_whole(name):
            raise InputError(
                f"{path}: missing or damaged (expected {entry['bytes']} bytes); "
                f"delete {lake() / self.stage / self.key}.json and run the stage again"
            )
        return path

    def verify_files(self) -> None:
        """Raises InputError: a listed file is gone or changed in size, as `file` finds."""
        for name in self.manifest["files"]:
            self.file(name)

    def files(self, table: str) -> list[Path]:
        """Files of a table (a sub-folder), in the order of their names; empty where it has no rows or has expired."""
        names = [name for name in sorted(self.manifest["files"]) if name.startswith(f"{table}/")]
        if names and is_file(_expiry_mark(self.place, table)):
            return []
        self._fetch(names)
        return [self.file(name) for name in names]

    def _fetch(self, names: Iterable[str]) -> None:
        if store():
            fetch_files(self.place / name for name in names if not self._is_whole(name))

    def _is_whole(self, name: str) -> bool:
        path = self.place / name
        return path.is_file() and path.stat().st_size == self.manifest["files"][name]["bytes"]


class Attempt:
    """A private folder to write into, until `publish` makes it real or `discard` removes it."""

    def __init__(self, stage: str, key: str) -> None:
        self.stage, self.key = stage, key
        self.id = uuid.uuid4().hex
        self.folder = lake() / stage / "attempts" / self.id
        self.folder.mkdir(parents=True)
        owner = {"host": platform.node(), "pid": os.getpid()}
        (self.folder / ".owner.json").write_text(json.dumps(owner), encoding="utf-8")
        self.started = time.monotonic()

    def publish(
        self, *, metrics: dict[str, Any], inputs: dict[str, str], settings: dict[str, Any], made_by: str = ""
    ) -> Artifact:
        """List the files in a manifest and create it, unless another attempt was first: then that one is returned.

        `made_by` is a digest of how it was made, whatever it was made of; `newest_artifact` finds it again by that.

        Tables (sub-folders with Parquet files) must have a contract and agree with it.

        Raises:
            InputError: a table has no contract or differs from it, or its contract has changed incompatibly since it
                was last published under the same version.
        """
        tops, contracts = _files_by_top(self.folder), []
        for top, members in tops.items():
            if (self.folder / top).is_dir() and any(m.suffix == ".parquet" for m in members):
                contracts.append(load_contract(top))
                contracts[-1].verify_files(members)
                _refuse_incompatible(contracts[-1])
        content = content_digests(self.folder)
        listed = {str(f.relative_to(self.folder)): {"bytes": f.stat().st_size} for fs in tops.values() for f in fs}
        manifest = {
            "stage": self.stage,
            "key": self.key,
            "digest": digest_json(content),
            "content": content,
            "inputs": inputs,
            "settings": settings,
            "made_by": made_by,
            "metrics": metrics,
            "attempt": self.id,
            "files": listed,
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self.started, 2),
            "host": platform.node(),
        }
        path = manifest_path(self.stage, self.key)
        share_files(self.folder / name for name in listed)
        if not create_if_absent(path, json.dumps(manifest, indent=1, ensure_ascii=False)):
            remove_folder(self.folder)
        for contract in contracts:
            columns = [column.model_dump(mode="json") for column in contract.columns]
            record = json.dumps({"version": contract.version, "columns": columns}, indent=1, ensure_ascii=False)
            kept = _contract_record(contract.table)
            if not is_file(kept) or read_file(kept) != record:
                replace_file(kept, record)
        return load_artifact(self.stage, self.key)

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def content_digests(folder: Path) -> dict[str, str]:
    """Each file, folder and table of an output → its digest: a manifest's `content`, whose `digest_json` is the output's digest."""
    return {
        top: digest_rows(members) if has_contract(top) else digest_files(members, root=folder)
        for top, members in _files_by_top(folder).items()
    }


def _files_by_top(folder: Path) -> dict[str, list[Path]]:
    tops: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not _is_hidden(file.relative_to(folder)):
            tops.setdefault(file.relative_to(folder).parts[0], []).append(file)
    return tops


def _is_hidden(relative: Path) -> bool:
    """Spark's `_SUCCESS` and checksum files, and our own owner file."""
    return any(part.startswith((".", "_")) for part in relative.parts)


def _contract_record(table: str) -> Path:
    return lake() / "contracts" / f"{table}.json"


def _refuse_incompatible(contract: Contract) -> None:
    path = _contract_record(contract.table)
    if not is_file(path):
        return
    record = json.loads(read_file(path))
    lines = contract.incompatibilities(Column.model_validate(column) for column in record["columns"])
    if lines and contract.version <= record["version"]:
        raise InputError(
            f"schemas/{contract.table}.yaml: differs incompatibly from version {record['version']}, which this lake holds "
            f"({path}); undo the change, or make all readers fit and set `version: {record['version'] + 1}`:\n"
            + "\n".join(f"  {line}" for line in lines)
        )


def manifest_path(stage: str, key: str) -> Path:
    return lake() / stage / f"{key}.json"


def find_artifact(stage: str, key: str) -> Artifact | None:
    try:
        return _load(stage, key)
    except FileNotFoundError:
        return None


def newest_artifact(stage: str, made_by: str, *, metrics: dict[str, Any] | None = None) -> Artifact | None:
    """The last published one that was made in the same way and has these metrics, from whatever inputs."""
    manifests = _manifests(stage)
    alike = [m for m in manifests if m.get("made_by") == made_by and (metrics or {}).items() <= m["metrics"].items()]
    newest = max(alike, key=lambda manifest: (manifest["finished_at"], manifest["key"]), default=None)
    return _artifact(newest) if newest else None


def load_artifact(stage: str, key: str) -> Artifact:
    """An artifact by stage and key.

    Raises:
        InputError: there is none.
    """
    try:
        return _load(stage, key)
    except FileNotFoundError as missing:
        path = missing.filename or missing
        raise InputError(f"{path}: no such output; run the stage {stage!r} again") from None


def _load(stage: str, key: str) -> Artifact:
    return _artifact(json.loads(read_file(manifest_path(stage, key))))


def _artifact(manifest: dict[str, Any]) -> Artifact:
    stage, key = manifest["stage"], manifest["key"]
    return Artifact(stage=stage, key=key, place=lake() / stage / "attempts" / manifest["attempt"], manifest=manifest)


def _manifests(stage: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in read_files(files_in(lake() / stage, ".json"))]


def has_output(stage: str, digest: str) -> bool:
    """Whether the stage has an output of this content."""
    return any(manifest["digest"] == digest for manifest in _manifests(stage))


def checkpoint_stage(stage: str) -> str:
    """Name under which a stage's checkpoints are published."""
    return f"{stage}-checkpoint"


def find_checkpoints(stage: str) -> list[Artifact]:
    return [_artifact(manifest) for manifest in _manifests(checkpoint_stage(stage))]


def remove_artifact(artifact: Artifact) -> None:
    """The manifest first: from then on the output is not there."""
    remove_file(manifest_path(artifact.stage, artifact.key))
    with suppress(FileNotFoundError):  # another process is at it as well
        remove_folder(artifact.place)


def _stage_folders() -> list[Path]:
    return [folder for folder in folders_in(lake()) if folder != _contract_record("").parent]


def sweep_orphans() -> int:
    """Remove what is of no more use: folders of attempts that no manifest names and whose process is gone, and
    checkpoints of outputs that are finished; returns how many."""
    swept = 0
    for folder in _stage_folders():
        # Before the manifests are read: what is published meanwhile is among those.
        here = list((folder / "attempts").glob("*"))
        shared = folders_in(folder / "attempts") if store() else []
        published = {manifest["attempt"] for manifest in _manifests(folder.name)}
        for orphan in (path for path in here if path.name not in published):
            if not _is_alive(orphan):
                shutil.rmtree(orphan, ignore_errors=True)
                swept += 1
        for orphan in (path for path in shared if path.name not in published):
            if time.time() - last_written(orphan) > ORPHAN_AGE_SECONDS:
                remove_folder(orphan)
                swept += 1
        stage = folder.name.removesuffix(checkpoint_stage(""))
        if stage != folder.name:
            for checkpoint in find_checkpoints(stage):
                if is_file(manifest_path(stage, checkpoint.metrics["of"])):
                    remove_artifact(checkpoint)
                    swept += 1
    return swept


def sweep_expired() -> int:
    """Remove tables that were published longer ago than their contract's `retention_days`; returns how many.

    The output stays and is found as before, but the table reads as empty.
    """
    swept = 0
    for folder in _stage_folders():
        for manifest in _manifests(folder.name):
            age = datetime.now(UTC) - datetime.fromisoformat(manifest["finished_at"])
            for table in filter(has_contract, manifest["content"]):
                days, place = load_contract(table).retention_days, folder / "attempts" / manifest["attempt"]
                mark = _expiry_mark(place, table)
                if days and age > timedelta(days=days) and ((place / table).is_dir() or not is_file(mark)):
                    replace_file(mark, "")  # first: a table that is half removed is none
                    remove_folder(place / table)
                    swept += 1
    return swept


def _expiry_mark(folder: Path, table: str) -> Path:
    return folder / f".expired-{table}"


def _is_alive(folder: Path) -> bool:
    try:
        owner = json.loads((folder / ".owner.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        owner = {}
    if owner.get("host") == platform.node():
        return is_running(owner["pid"])
    return time.time() - folder.stat().st_mtime < ORPHAN_AGE_SECONDS


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
