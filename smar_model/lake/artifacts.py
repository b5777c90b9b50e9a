"""Published outputs of stages: immutable folders that one manifest makes real (design, decision 2).

    <lake>/<stage>/<key>.json          the manifest: every file with size and digest, and a digest of itself
    <lake>/<stage>/attempts/<id>/…     the files; private until a manifest lists them
    <lake>/<stage>/damaged/<key>.<id>/ the manifest of an output whose content has changed since: nothing finds it any more
    <lake>/<stage>/damaged/<key>.….json  a manifest that cannot be read: likewise
    <lake>/contracts/<table>.json      the columns with which a table was last published, and their version

A manifest appears by one atomic create-if-absent (a hard link of a finished file, or a conditional put), once all that it lists is on the
disk. Readers open only files that it lists, and verify their content, once a process. The lake lies in the home folder or in an object store (`shared_files.py`); files are written and read on this machine in both cases.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NotRequired

from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from smar_model.errors import InputError
from smar_model.lake.contracts import Column, Contract, has_contract, load_contract
from smar_model.lake.digests import digest_json, digest_rows_once, digests_once
from smar_model.lake.process_identity import process_state, this_process
from smar_model.lake.records import OPEN, DamagedRecord, IsoTime, parse_record, say_once
from smar_model.lake.shared_files import (
    create_if_absent,
    fetch_files,
    files_in,
    flush_files,
    folders_in,
    is_file,
    last_written,
    make_folder,
    move_unchanged,
    read_bytes,
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
"""An attempt whose process cannot be asked for (another host or PID namespace, before a restart) is swept after this long, and
so is a damaged output."""


@with_config(OPEN)
class _File(TypedDict):
    bytes: int


@with_config(OPEN)
class _Manifest(TypedDict):
    stage: str
    key: str
    digest: str
    content: dict[str, str]
    made_by: NotRequired[str]
    metrics: dict[str, Any]
    attempt: str
    files: dict[str, _File]
    finished_at: IsoTime


@with_config(OPEN)
class _ContractRecord(TypedDict):
    version: int
    columns: list[Column]


_MANIFEST, _CONTRACT, _OWNER = TypeAdapter(_Manifest), TypeAdapter(_ContractRecord), TypeAdapter(dict[str, Any])


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
        """Its folder on this machine, with all its files, verified.

        Raises:
            DamagedOutput: one is gone or has changed.
        """
        self.verify_files()
        return self.place

    @property
    def digest(self) -> str:
        """Digest of the content alone: the same rows and weights give the same digest."""
        return self.manifest["digest"]

    @property
    def metrics(self) -> dict[str, Any]:
        return self.manifest["metrics"]

    def file(self, name: str) -> Path:
        """A listed file by its path inside the artifact, verified.

        Raises:
            InputError: the manifest does not list it.
            DamagedOutput: the file is gone or has changed.
        """
        if name not in self.manifest["files"]:
            raise InputError(f"{self.stage} {self.key[:12]}: its manifest lists no file {name!r}")
        self._verify([name])
        return self.place / name

    def verify_files(self, *, fetch: bool = True) -> None:
        """Verify all files, but those of tables that have expired.

        Args:
            fetch: whether files that this machine lacks are brought from the object store, or left out.

        Raises:
            DamagedOutput: one is gone or has changed.
        """
        names = self.manifest["files"]
        if store() and not fetch:
            names = [name for name in names if (self.place / name).is_file()]
        self._verify(names)

    def files(self, table: str) -> list[Path]:
        """Files of a table (a sub-folder), verified, in the order of their names; empty where it has no rows or has expired.

        Raises:
            DamagedOutput: one is gone or has changed.
        """
        names = [name for name in sorted(self.manifest["files"]) if name.startswith(f"{table}/")]
        if names and self._is_expired(table):
            return []
        self._verify(names)
        return [self.place / name for name in names]

    def _verify(self, names: Iterable[str]) -> None:
        names = list(self._verified_together(names))
        if store():
            self._fetch(
                name for name in names if not (self.place / name).is_file() and not self._is_expired(_top(name))
            )
        problems = self._problems(names)
        if problems and store():
            # What lies there may be whole where this machine's copy is not.
            self._fetch(name for name in problems if not self._is_expired(_top(name)))
            problems = self._problems(names)
        for name, problem in problems.items():
            if not self._is_expired(_top(name)):
                raise DamagedOutput(self, problem)

    def _verified_together(self, names: Iterable[str]) -> Iterable[str]:
        """With those beside them where the manifest is of before it had a digest of each file: then only a whole folder or table can be
        verified."""
        names, listed = list(names), self.manifest["files"]
        tops = {_top(name) for name in names if "sha256" not in listed[name]}
        return {*names, *(name for name in listed if _top(name) in tops)} if tops else names

    def _problems(self, names: Iterable[str]) -> dict[str, str]:
        """Name of a file that is not as it was published → what is wrong with it."""
        problems, listed, tops = dict[str, str](), dict[str, str](), set[str]()
        for name in names:
            entry, path = self.manifest["files"][name], self.place / name
            if not path.is_file():
                problems[name] = f"{path}: missing or damaged (there is no such file)"
            elif (size := path.stat().st_size) != entry["bytes"]:
                problems[name] = f"{path}: missing or damaged ({size} bytes, published were {entry['bytes']})"
            elif "sha256" in entry:
                listed[name] = entry["sha256"]
            else:
                tops.add(_top(name))
        digests = digests_once(self.place / name for name in listed)
        for (name, wanted), digest in zip(listed.items(), digests, strict=True):
            if digest != wanted:
                problems[name] = f"{self.place / name}: missing or damaged (its content is not what was published)"
        for top in tops - {_top(name) for name in problems}:
            names = [name for name in self.manifest["files"] if _top(name) == top]
            files = [self.place / name for name in names]
            try:
                digest = _digest_top(top, files, dict(zip(files, digests_once(files), strict=True)), root=self.place)
            except Exception:  # a damaged table fails in its own ways
                digest = ""
            if digest != self.manifest["content"][top]:
                problem = f"{self.place / top}: missing or damaged (its content is not what was published)"
                problems |= dict.fromkeys(names, problem)
        return problems

    def _fetch(self, names: Iterable[str]) -> None:
        names = list(names)
        try:
            fetch_files(self.place / name for name in names)
        except InputError:
            for name in names:
                if not is_file(self.place / name):
                    raise DamagedOutput(
                        self, f"{self.place / name}: missing or damaged (gone from the object store)"
                    ) from None
            raise

    def _is_expired(self, table: str) -> bool:
        return has_contract(table) and is_file(_expiry_mark(self.place, table))


class DamagedOutput(InputError):
    """An output whose files or manifest are not what was published."""

    def __init__(self, artifact: Artifact, problem: str) -> None:
        self.artifact, self.problem = artifact, problem
        super().__init__(
            f"{problem}; run the stage again ({artifact.stage}, output {artifact.key[:12]}), which sets it aside and makes it anew"
        )

    def __reduce__(self) -> Any:
        return DamagedOutput, (self.artifact, self.problem)


class Attempt:
    """A private folder to write into, until `publish` makes it real or `discard` removes it."""

    def __init__(self, stage: str, key: str) -> None:
        self.stage, self.key = stage, key
        self.id = uuid.uuid4().hex
        self.folder = lake() / stage / "attempts" / self.id
        make_folder(self.folder)
        (self.folder / ".owner.json").write_text(json.dumps(this_process()), encoding="utf-8")
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
        files = [file for members in tops.values() for file in members]
        flush_files(files, root=self.folder)
        digests = dict(zip(files, digests_once(files), strict=True))
        content = {top: _digest_top(top, members, digests, root=self.folder) for top, members in tops.items()}
        listed = {
            str(file.relative_to(self.folder)): {"bytes": file.stat().st_size, "sha256": digest}
            for file, digest in digests.items()
        }
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
        # Read back first, as readers will digest what JSON has made of the metrics.
        manifest["manifest_digest"] = digest_json(json.loads(json.dumps(manifest)))
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
    tops = _files_by_top(folder)
    files = [file for top, members in tops.items() if not has_contract(top) for file in members]
    digests = dict(zip(files, digests_once(files), strict=True))
    return {top: _digest_top(top, members, digests, root=folder) for top, members in tops.items()}


def _digest_top(top: str, files: list[Path], digests: Mapping[Path, str], *, root: Path) -> str:
    """`digest_rows` of a table; of anything else what `digest_files` makes of the digests of its files."""
    if has_contract(top):
        return digest_rows_once(files)
    return digest_json(sorted((str(file.relative_to(root)), digests[file]) for file in files))


def _top(name: str) -> str:
    return name.partition("/")[0]


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
    try:
        record = parse_record(
            read_bytes(path),
            _CONTRACT,
            path=path,
            what_to_do="it is written anew from the table as it is published now",
        )
    except DamagedRecord as damaged:
        say_once(str(damaged))
        return
    lines = contract.incompatibilities(record["columns"])
    if lines and contract.version <= record["version"]:
        raise InputError(
            f"schemas/{contract.table}.yaml: differs incompatibly from version {record['version']}, which this lake holds "
            f"({path}); undo the change, or make all readers fit and set `version: {record['version'] + 1}`:\n"
            + "\n".join(f"  {line}" for line in lines)
        )


def manifest_path(stage: str, key: str) -> Path:
    return lake() / stage / f"{key}.json"


def find_artifact(stage: str, key: str) -> Artifact | None:
    """A finished output, if there is one. One whose manifest is damaged counts as not there, and is set aside to be made again."""
    try:
        return _load(stage, key)
    except (FileNotFoundError, DamagedRecord):
        return None


def find_whole_artifact(stage: str, key: str) -> Artifact | None:
    """A finished output whose content is verified; None where there is none, or where it is damaged: then it is set aside.

    With an object store what this machine lacks of it is left for whoever reads it.
    """
    try:
        artifact = find_artifact(stage, key)
        if artifact:
            artifact.verify_files(fetch=False)
    except DamagedOutput as damage:
        set_aside(damage, "it is made again")
        return None
    return artifact


def is_whole(artifact: Artifact, then: str = "the work goes on without it") -> bool:
    """Whether all files are as they were published; an output that is damaged is set aside."""
    try:
        artifact.verify_files()
    except DamagedOutput as damage:
        set_aside(damage, then)
        return False
    return True


def newest_artifact(stage: str, made_by: str, *, metrics: dict[str, Any] | None = None) -> Artifact | None:
    """The last published one that was made in the same way and has these metrics, from whatever inputs; one that is damaged is set
    aside and passed over."""
    alike = [
        m
        for m in _manifests(stage)[0]
        if m.get("made_by") == made_by and (metrics or {}).items() <= m["metrics"].items()
    ]
    for manifest in sorted(alike, key=lambda manifest: (manifest["finished_at"], manifest["key"]), reverse=True):
        try:
            artifact = _artifact(manifest, stage, manifest["key"])
        except DamagedOutput as damage:
            set_aside(damage, "nothing of it is used again")
            continue
        if is_whole(artifact, "nothing of it is used again"):
            return artifact
    return None


def artifact_of(folder: Path, content: str) -> Artifact | None:
    """The output that has a folder of the lake, or was made again as it was: the content of the folder, or of the whole output where
    that is it, has this digest."""
    stage, _, attempt, *inner = folder.relative_to(lake()).parts
    found = [
        manifest
        for manifest in _manifests(stage)[0]
        if (manifest["content"].get(inner[0]) if inner else manifest["digest"]) == content
    ]
    if not found:
        return None
    best = max(found, key=lambda manifest: manifest["attempt"] == attempt)
    return _artifact(best, stage, best["key"])


def set_aside(damage: DamagedOutput, then: str) -> None:
    """Let nothing find a damaged output any more, and say so in one line.

    Its files stay where they are for as long as those of an attempt: others may be reading them, and people may want to look. Nothing is
    done where another process was first, and may have made it again.

    Args:
        then: what becomes of it, for people.
    """
    artifact = damage.artifact
    path = manifest_path(artifact.stage, artifact.key)
    attempt = Path(artifact.manifest["attempt"]).name
    record = damaged_folder(artifact.stage) / f"{artifact.key}.{attempt}" / "manifest.json"
    try:
        content = read_bytes(path)
        is_that = json.loads(content) == artifact.manifest
    except (FileNotFoundError, ValueError):
        return
    if is_that and move_unchanged(path, record, content):
        print(
            f"{damage.problem}; {artifact.stage} {artifact.key[:12]} is set aside ({record.parent}): {then}",
            file=sys.stderr,
        )


def load_artifact(stage: str, key: str) -> Artifact:
    """An artifact by stage and key.

    Raises:
        InputError: there is none, or its manifest is damaged.
    """
    try:
        return _load(stage, key)
    except FileNotFoundError as missing:
        path = missing.filename or missing
        raise InputError(f"{path}: no such output; run the stage {stage!r} again") from None


def _load(stage: str, key: str) -> Artifact:
    path = manifest_path(stage, key)
    content = read_bytes(path)
    try:
        return _artifact(_parse_manifest(content, path), stage, key)
    except DamagedRecord as damaged:
        aside = damaged_folder(stage) / f"{key}.{uuid.uuid4().hex}.json"
        if not move_unchanged(path, aside, content):  # another process was first, and may have made it again
            return _load(stage, key)
        named = DamagedRecord(
            path, damaged.why, f"set aside as {aside}; the stage {stage!r} makes the output again when it is run"
        )
        say_once(str(named))
        raise named from None


def damaged_folder(stage: str) -> Path:
    return lake() / stage / "damaged"


def _parse_manifest(content: bytes, path: Path) -> dict[str, Any]:
    what_to_do = "what it lists counts as not there; the stage makes it again when it is run"
    manifest = parse_record(content, _MANIFEST, path=path, what_to_do=what_to_do)
    if not re.fullmatch(r"[\w-]+", manifest["attempt"]):
        raise DamagedRecord(path, f"attempt: {manifest['attempt']!r} names no folder", what_to_do)
    return manifest


def _artifact(manifest: dict[str, Any], stage: str, key: str) -> Artifact:
    """Raises DamagedOutput: the manifest is not what was published, or is that of another output."""
    place = lake() / stage / "attempts" / manifest["attempt"]
    artifact = Artifact(stage=stage, key=key, place=place, manifest=manifest)
    rest = {name: value for name, value in manifest.items() if name != "manifest_digest"}
    # Manifests of before they had a digest of their own are taken as they are.
    if (
        manifest.get("manifest_digest", digest_json(rest)) != digest_json(rest)
        or manifest["digest"] != digest_json(manifest["content"])
        or (manifest["stage"], manifest["key"]) != (stage, key)
    ):
        raise DamagedOutput(
            artifact, f"{manifest_path(stage, key)}: damaged (it is not the manifest that was published)"
        )
    return artifact


def _manifests(stage: str) -> tuple[list[dict[str, Any]], list[DamagedRecord]]:
    """Those of a stage's outputs, and what is wrong with those that cannot be read, which is said."""
    manifests, damaged = [], []
    for path, content in read_files(files_in(lake() / stage, ".json")).items():
        try:
            manifest = _parse_manifest(content, path)
            if (manifest["stage"], manifest["key"]) != (stage, path.stem):
                raise DamagedRecord(
                    path, "it is that of another output", f"delete it, and run the stage {stage!r} again"
                )
            manifests.append(manifest)
        except DamagedRecord as problem:
            say_once(str(problem))
            damaged.append(problem)
    return manifests, damaged


def has_output(stage: str, digest: str) -> bool:
    """Whether the stage has an output of this content."""
    return any(manifest["digest"] == digest for manifest in _manifests(stage)[0])


def checkpoint_stage(stage: str) -> str:
    """Name under which a stage's checkpoints are published."""
    return f"{stage}-checkpoint"


def find_checkpoints(stage: str) -> list[Artifact]:
    """Without those whose manifest is damaged, which are set aside."""
    found = []
    for manifest in _manifests(checkpoint_stage(stage))[0]:
        try:
            found.append(_artifact(manifest, checkpoint_stage(stage), manifest["key"]))
        except DamagedOutput as damage:
            set_aside(damage, "the work begins without it")
    return found


def remove_artifact(artifact: Artifact) -> None:
    """The manifest first: from then on the output is not there."""
    remove_file(manifest_path(artifact.stage, artifact.key))
    with suppress(FileNotFoundError):  # another process is at it as well
        remove_folder(artifact.place)


def _stage_folders() -> list[Path]:
    return [folder for folder in folders_in(lake()) if folder != _contract_record("").parent]


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
        for orphan in (path for path in here if named is not None and path.name not in named):
            if not _is_alive(orphan):
                shutil.rmtree(orphan, ignore_errors=True)
                swept += 1
        for orphan in (path for path in shared if named is not None and path.name not in named):
            if time.time() - last_written(orphan) > ORPHAN_AGE_SECONDS:
                remove_folder(orphan)
                swept += 1
        stage = folder.name.removesuffix(checkpoint_stage(""))
        if stage != folder.name:
            for checkpoint in find_checkpoints(stage):
                if (of := checkpoint.metrics.get("of")) and is_file(manifest_path(stage, of)):
                    remove_artifact(checkpoint)
                    swept += 1
    return swept


def _named_attempts(stage: str) -> set[str] | None:
    """Attempts that a manifest names, damaged ones among them; None where one does not tell."""
    manifests, damaged = _manifests(stage)
    named: set[str] | None = {manifest["attempt"] for manifest in manifests} | _set_aside_lately(lake() / stage)
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


def _set_aside_lately(folder: Path) -> set[str]:
    """Attempts whose output was set aside and is still kept; what has been long enough is forgotten, and its files are orphans."""
    attempts = set()
    for record in folders_in(folder / "damaged"):
        if time.time() - last_written(record) > ORPHAN_AGE_SECONDS:
            remove_folder(record)
        else:
            attempts.add(record.name.rpartition(".")[2])
    return attempts


def sweep_expired() -> int:
    """Remove tables that were published longer ago than their contract's `retention_days`; returns how many.

    The output stays and is found as before, but the table reads as empty.
    """
    swept = 0
    for folder in _stage_folders():
        for manifest in _manifests(folder.name)[0]:
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
        owner = _OWNER.validate_json((folder / ".owner.json").read_bytes())
    except (OSError, ValueError):
        owner = {}
    state = process_state(owner)
    if state == "unknown":
        with suppress(FileNotFoundError):
            return time.time() - folder.stat().st_mtime < ORPHAN_AGE_SECONDS
    return state == "alive"
