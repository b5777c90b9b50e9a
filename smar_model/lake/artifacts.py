"""Published outputs of stages: immutable folders that one manifest makes real (design, decision 2).

    <lake>/<stage>/<key>.json          the manifest: every file with size and digest
    <lake>/<stage>/attempts/<id>/…     the files; private until a manifest lists them
    <lake>/contracts/<table>.json      the columns with which a table was last published, and their version

A manifest appears by one atomic create-if-absent (a hard link of a finished file). Readers open only files that it lists.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from smar_model.errors import InputError
from smar_model.lake.contracts import Column, Contract, has_contract, load_contract
from smar_model.lake.digests import digest_files, digest_json, digest_rows
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
    folder: Path
    manifest: dict[str, Any] = field(repr=False)

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
        path = self.folder / name
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
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
        if _expiry_mark(self.folder, table).is_file():
            return []
        return [self.file(name) for name in sorted(self.manifest["files"]) if name.startswith(f"{table}/")]


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
        if not create_if_absent(path, json.dumps(manifest, indent=1, ensure_ascii=False)):
            self.discard()
        for contract in contracts:
            columns = [column.model_dump(mode="json") for column in contract.columns]
            record = json.dumps({"version": contract.version, "columns": columns}, indent=1, ensure_ascii=False)
            kept = _contract_record(contract.table)
            if not kept.is_file() or kept.read_text(encoding="utf-8") != record:
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
    if not path.is_file():
        return
    record = json.loads(path.read_text(encoding="utf-8"))
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
    return load_artifact(stage, key) if manifest_path(stage, key).is_file() else None


def newest_artifact(stage: str, made_by: str, *, metrics: dict[str, Any] | None = None) -> Artifact | None:
    """The last published one that was made in the same way and has these metrics, from whatever inputs."""
    manifests = [json.loads(path.read_text(encoding="utf-8")) for path in (lake() / stage).glob("*.json")]
    alike = [m for m in manifests if m.get("made_by") == made_by and (metrics or {}).items() <= m["metrics"].items()]
    if not alike:
        return None
    newest = max(alike, key=lambda manifest: (manifest["finished_at"], manifest["key"]))
    return load_artifact(stage, newest["key"])


def load_artifact(stage: str, key: str) -> Artifact:
    """An artifact by stage and key.

    Raises:
        InputError: there is none.
    """
    path = manifest_path(stage, key)
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such output; run the stage {stage!r} again") from None
    return Artifact(stage=stage, key=key, folder=lake() / stage / "attempts" / manifest["attempt"], manifest=manifest)


def checkpoint_stage(stage: str) -> str:
    """Name under which a stage's checkpoints are published."""
    return f"{stage}-checkpoint"


def find_checkpoints(stage: str) -> list[Artifact]:
    folder = checkpoint_stage(stage)
    return [load_artifact(folder, path.stem) for path in sorted((lake() / folder).glob("*.json"))]


def remove_artifact(artifact: Artifact) -> None:
    """The manifest first: from then on the output is not there."""
    manifest_path(artifact.stage, artifact.key).unlink(missing_ok=True)
    shutil.rmtree(artifact.folder, ignore_errors=True)


def create_if_absent(path: Path, text: str) -> bool:
    """Create a file with its whole content in one step; False where it existed already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        write_durably(temporary, text)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def replace_file(path: Path, text: str) -> None:
    """Write a file so that readers see the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    write_durably(temporary, text)
    temporary.replace(path)


def write_durably(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sweep_orphans() -> int:
    """Remove what is of no more use: folders of attempts that no manifest names and whose process is gone, and
    checkpoints of outputs that are finished; returns how many."""
    swept = 0
    for folder in lake().glob(checkpoint_stage("*")):
        stage = folder.name.removesuffix(checkpoint_stage(""))
        for checkpoint in find_checkpoints(stage):
            if manifest_path(stage, checkpoint.metrics["of"]).is_file():
                remove_artifact(checkpoint)
                swept += 1
    for attempts in lake().glob("*/attempts"):
        published = {json.loads(m.read_text(encoding="utf-8"))["attempt"] for m in attempts.parent.glob("*.json")}
        for folder in attempts.iterdir():
            if folder.name not in published and not _is_alive(folder):
                shutil.rmtree(folder, ignore_errors=True)
                swept += 1
    return swept


def sweep_expired() -> int:
    """Remove tables that were published longer ago than their contract's `retention_days`; returns how many.

    The output stays and is found as before, but the table reads as empty.
    """
    swept = 0
    for attempts in lake().glob("*/attempts"):
        for path in attempts.parent.glob("*.json"):
            manifest = json.loads(path.read_text(encoding="utf-8"))
            age = datetime.now(UTC) - datetime.fromisoformat(manifest["finished_at"])
            for table in filter(has_contract, manifest["content"]):
                days, folder = load_contract(table).retention_days, attempts / manifest["attempt"]
                if days and age > timedelta(days=days) and (folder / table).is_dir():
                    _expiry_mark(folder, table).touch()
                    shutil.rmtree(folder / table)
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
