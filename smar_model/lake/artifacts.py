"""Published outputs of stages: immutable folders that one manifest makes real (design, decision 2); found, read and verified.

    <lake>/<stage>/<key>.json          the manifest: every file with size and digest, and a digest of itself
    <lake>/<stage>/attempts/<id>/…     the files; private until a manifest lists them
    <lake>/<stage>/damaged/<key>.<id>/ the manifest of an output whose content has changed since: nothing finds it any more
    <lake>/<stage>/damaged/<key>.….json  a manifest that cannot be read: likewise
    <lake>/contracts/<table>.json      the columns with which a table was last published, and their version

A manifest appears by one atomic create-if-absent (a hard link of a finished file, or a conditional put), once all that it lists is on the
disk (`publishing.py`). Readers open only files that it lists, and verify their content, once a process. The lake lies in the home folder or
in an object store (`shared_files.py`); files are written and read on this machine in both cases. What is of no more use goes by
`sweeping.py`.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired

from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from smar_model.errors import InputError
from smar_model.lake.contracts import has_contract
from smar_model.lake.digests import digest_json
from smar_model.lake.output_digests import ListedFile, find_changes, top_of, verified_together
from smar_model.lake.records import OPEN, DamagedRecord, IsoTime, parse_record, say_once
from smar_model.lake.shared_files import (
    fetch_files,
    files_in,
    is_file,
    move_unchanged,
    read_bytes,
    read_files,
    remove_file,
    remove_folder,
    store,
)
from smar_model.settings import home

Metrics = dict[str, Any]
"""What a stage says of its output: figures and short texts by names of its own, as JSON holds them."""


@with_config(OPEN)
class Manifest(TypedDict):
    """What an output was published with. Keys that may be left out are those that an earlier version did not write."""

    stage: str
    key: str
    digest: str
    """Of `content`."""
    content: dict[str, str]
    """File, folder or table → its digest."""
    inputs: NotRequired[dict[str, str]]
    """Name of an input → its digest."""
    settings: NotRequired[dict[str, object]]
    """Section → its values."""
    made_by: NotRequired[str]
    metrics: Metrics
    attempt: str
    """Name of the folder that holds the files."""
    files: dict[str, ListedFile]
    finished_at: IsoTime
    seconds: NotRequired[float]
    manifest_digest: NotRequired[str]
    """Of all else."""


_MANIFEST = TypeAdapter(Manifest)


def lake() -> Path:
    return home() / "lake"


def manifest_path(stage: str, key: str) -> Path:
    return lake() / stage / f"{key}.json"


def damaged_folder(stage: str) -> Path:
    return lake() / stage / "damaged"


def contract_records() -> Path:
    return lake() / "contracts"


def checkpoint_stage(stage: str) -> str:
    """Name under which a stage's checkpoints are published."""
    return f"{stage}-checkpoint"


def expiry_mark(place: Path, table: str) -> Path:
    """The file that says that a table of an output has expired."""
    return place / f".expired-{table}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A finished output of a stage."""

    stage: str
    key: str
    place: Path
    """Its folder on this machine, where some of its files may not have been fetched yet."""
    manifest: Manifest = field(repr=False)

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
    def metrics(self) -> Metrics:
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
        names = list(self.manifest["files"])
        if store() and not fetch:
            names = [name for name in names if (self.place / name).is_file()]
        self._verify(names)

    def files(self, table: str) -> list[Path]:
        """Files of a table (a sub-folder), verified, in the order of their names; empty where it has no rows or has expired.

        Raises:
            DamagedOutput: one is gone or has changed.
        """
        names = [name for name in sorted(self.manifest["files"]) if name.startswith(f"{table}/")]
        if names and self.is_expired(table):
            return []
        self._verify(names)
        return [self.place / name for name in names]

    def _verify(self, names: Iterable[str]) -> None:
        files, content = self.manifest["files"], self.manifest["content"]
        names = verified_together(names, files)
        if store():
            self._fetch(
                name for name in names if not (self.place / name).is_file() and not self.is_expired(top_of(name))
            )
        problems = find_changes(self.place, names, files, content)
        if problems and store():
            # What lies there may be whole where this machine's copy is not.
            self._fetch(name for name in problems if not self.is_expired(top_of(name)))
            problems = find_changes(self.place, names, files, content)
        for name, problem in problems.items():
            if not self.is_expired(top_of(name)):
                raise DamagedOutput(self, problem)

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

    def is_expired(self, table: str) -> bool:
        """Whether a table was removed, as its contract keeps it for a time only: it reads as empty."""
        return has_contract(table) and is_file(expiry_mark(self.place, table))


class DamagedOutput(InputError):
    """An output whose files or manifest are not what was published."""

    def __init__(self, artifact: Artifact, problem: str) -> None:
        self.artifact, self.problem = artifact, problem
        super().__init__(
            f"{problem}; run the stage again ({artifact.stage}, output {artifact.key[:12]}), which sets it aside and makes it anew"
        )

    def __reduce__(self) -> Any:
        return DamagedOutput, (self.artifact, self.problem)


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
    then = "it is made again"
    try:
        artifact = find_artifact(stage, key)
    except DamagedOutput as damage:
        set_aside(damage, then)
        return None
    return artifact if artifact and is_whole(artifact, then, fetch=False) else None


def is_whole(artifact: Artifact, then: str = "the work goes on without it", *, fetch: bool = True) -> bool:
    """Whether all files are as they were published; an output that is damaged is set aside. `fetch`: as in `Artifact.verify_files`."""
    try:
        artifact.verify_files(fetch=fetch)
    except DamagedOutput as damage:
        set_aside(damage, then)
        return False
    return True


def newest_artifact(stage: str, made_by: str, *, metrics: Metrics | None = None, fetch: bool = True) -> Artifact | None:
    """The last published one that was made in the same way and has these metrics, from whatever inputs; one that is damaged is set
    aside and passed over. `fetch`: as in `Artifact.verify_files`."""
    then, manifests = "nothing of it is used again", read_manifests(stage)[0]
    for manifest in sorted(manifests, key=lambda manifest: (manifest["finished_at"], manifest["key"]), reverse=True):
        if manifest.get("made_by") == made_by and (metrics or {}).items() <= manifest["metrics"].items():
            artifact = _undamaged(manifest, then)
            if artifact and is_whole(artifact, then, fetch=fetch):
                return artifact
    return None


def _undamaged(manifest: Manifest, then: str) -> Artifact | None:
    """The output of a manifest; None where that is not what was published: then it is set aside."""
    try:
        return output_of(manifest, manifest["stage"], manifest["key"])
    except DamagedOutput as damage:
        set_aside(damage, then)
        return None


def artifact_of(folder: Path, content: str) -> Artifact | None:
    """The output that has a folder of the lake, or was made again as it was: the content of the folder, or of the whole output where
    that is it, has this digest."""
    stage, _, attempt, *inner = folder.relative_to(lake()).parts
    found = [
        manifest
        for manifest in read_manifests(stage)[0]
        if (manifest["content"].get(inner[0]) if inner else manifest["digest"]) == content
    ]
    if not found:
        return None
    best = max(found, key=lambda manifest: manifest["attempt"] == attempt)
    return output_of(best, stage, best["key"])


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
        return output_of(_parse_manifest(content, path), stage, key)
    except DamagedRecord as damaged:
        aside = damaged_folder(stage) / f"{key}.{uuid.uuid4().hex}.json"
        if not move_unchanged(path, aside, content):  # another process was first, and may have made it again
            return _load(stage, key)
        named = DamagedRecord(
            path, damaged.why, f"set aside as {aside}; the stage {stage!r} makes the output again when it is run"
        )
        say_once(str(named))
        raise named from None


def _parse_manifest(content: bytes, path: Path) -> Manifest:
    what_to_do = "what it lists counts as not there; the stage makes it again when it is run"
    manifest: Manifest = parse_record(content, _MANIFEST, path=path, what_to_do=what_to_do)
    if not re.fullmatch(r"[\w-]+", manifest["attempt"]):
        raise DamagedRecord(path, f"attempt: {manifest['attempt']!r} names no folder", what_to_do)
    return manifest


def output_of(manifest: Manifest, stage: str, key: str) -> Artifact:
    """The output that a manifest lists. Raises DamagedOutput: the manifest is not what was published, or is that of another output."""
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


def read_manifests(stage: str) -> tuple[list[Manifest], list[DamagedRecord]]:
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
    return any(manifest["digest"] == digest for manifest in read_manifests(stage)[0])


def find_checkpoints(stage: str) -> list[Artifact]:
    """Without those whose manifest is damaged, which are set aside."""
    found = (
        _undamaged(manifest, "the work begins without it") for manifest in read_manifests(checkpoint_stage(stage))[0]
    )
    return list(filter(None, found))


def remove_artifact(artifact: Artifact) -> None:
    """The manifest first: from then on the output is not there."""
    remove_file(manifest_path(artifact.stage, artifact.key))
    with suppress(FileNotFoundError):  # another process is at it as well
        remove_folder(artifact.place)
