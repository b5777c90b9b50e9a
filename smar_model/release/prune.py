"""`smar prune`: remove what no kept release and no younger run needs. What it keeps and removes: `docs/releases.md`, "Retention".

Everything removed could be made again, or is a copy; model versions and MLflow's runs stay whole. Each removal is one step of its own, the
name first and then the files, so that a process which is killed leaves nothing half there; the next one goes on.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from smar_model.errors import InputError
from smar_model.evaluation.oracle import REVEAL
from smar_model.lake.artifacts import DamagedOutput, find_artifact, manifest_path
from smar_model.lake.lease import Lease
from smar_model.lake.process_identity import process_state
from smar_model.lake.records import DamagedRecord, say_once
from smar_model.lake.release_copies import cache_folder
from smar_model.lake.runs import Run, StageState, load_run, parse_state
from smar_model.lake.shared_files import (
    fetch_folder,
    folder_bytes,
    folders_in,
    last_written,
    remove_file,
    remove_folder,
)
from smar_model.release.history import is_history_whole, read_history, read_moves
from smar_model.release.lease import registry_lease
from smar_model.release.reconcile import reconcile_champion
from smar_model.release.registry import CHALLENGER, CHAMPION, Registry, released_index, signature_tag, source_tag
from smar_model.settings import Settings, home
from smar_model.stages import COMPARISON_STAGES, REFRESH_STAGES

REFRESH_AGE = timedelta(days=1)
"""Runs that only refresh an index are many a day: from then on they are old, and so is what another build or copy has replaced."""
STEPS = {*COMPARISON_STAGES, *REFRESH_STAGES, "start", "register", "promote", "publish-index", "rollback", "track"}
"""Whatever may have a state in a run's folder; other JSON files there are figures."""
Output = tuple[str, str]
"""Stage and key of an output in the lake."""


@dataclass(slots=True, kw_only=True)
class Pruning:
    registry: Registry
    lease: Lease
    dry_run: bool
    failures: list[str] = field(default_factory=list)
    count: int = 0
    bytes: int = 0

    def remove(self, what: str, folder: Path, *, name: Path | None = None) -> None:
        """Remove a folder, and before it the file by which it is found. A failure is kept for the end."""
        self.lease.verify()
        size = folder_bytes(folder)
        self.say(f"{what}, {size / 1e6:,.1f} MB")
        try:
            if name and not self.dry_run:
                remove_file(name)
            if not self.dry_run:
                remove_folder(folder)
        except OSError as error:
            self.failures.append(f"{what}: {error}")
        else:
            self.count, self.bytes = self.count + 1, self.bytes + size

    def say(self, what: str) -> None:
        print(f"{'would remove' if self.dry_run else 'removing'} {what}", flush=True)


def prune(settings: Settings, *, dry_run: bool = False) -> Pruning:
    """Remove what is old, or list it.

    Raises:
        InputError: the champion cannot serve, so that what has to be kept is in doubt, or something could not be removed.
    """
    registry = Registry(settings)
    with registry_lease(purpose="prune") as lease:
        if problem := reconcile_champion(registry, verified=False).problem:
            raise InputError(f"nothing is pruned while this is so: {problem}")
        pruning, kept = Pruning(registry=registry, lease=lease, dry_run=dry_run), kept_versions(registry)
        print(
            f"prune: keeps of model {registry.name!r} the releases {', '.join(sorted(kept, key=int)) or 'none yet'}, and runs of the "
            f"last {settings.release.keep_days} days",
            flush=True,
        )
        builds = _prune_builds(pruning, kept)
        survey = _survey(registry, kept)
        if damaged := [str(path) for folder in survey.kept for path in folder.damaged]:
            names = ", ".join(damaged)
            say_once(
                f"{names}: damaged, so what those runs need is not known, and no output and no copy is removed; do those steps "
                "again, or delete the folders of runs that are not needed"
            )
        else:
            _prune_outputs(pruning, survey, builds)
            _prune_copies(pruning, survey, builds, kept)
        _prune_records(pruning, survey, age=timedelta(days=settings.release.keep_days))
    print(f"prune: {pruning.count} {'would be removed' if dry_run else 'removed'}, {pruning.bytes / 1e6:,.1f} MB")
    if pruning.failures:
        raise InputError(f"{len(pruning.failures)} could not be removed:\n" + "\n".join(pruning.failures))
    return pruning


def kept_versions(registry: Registry) -> set[str]:
    """The last releases, champion, challenger and the last good release, and the predecessors of those three."""
    registered = registry.registered()
    named = {version for alias in (CHAMPION, CHALLENGER) if (version := registered.aliases.get(alias))}
    named |= {registered.last_good[0]} if registered.last_good else set()
    # Aliases, tags and the history may name versions that are gone.
    there = {str(found.version) for found in registry.versions()}
    try:
        before = {registry.predecessor(version) or _met_champion(registry, version) for version in named & there}
    except DamagedRecord as damaged:
        say_once(f"{damaged}; until then every version counts as kept")
        return there
    released = [v for v in dict.fromkeys(move["to"] for move in reversed(read_moves(registry.name))) if v in there]
    return there & (named | before | set(released[: registry.settings.release.keep]))


def _met_champion(registry: Registry, version: str) -> str | None:
    """What a version that was not released yet would take the place of: the champion that its run was compared with.

    Raises:
        DamagedRecord: that run's record cannot be read.
    """
    try:
        run = load_run(registry.version(version).tags["smar.run"])
    except DamagedRecord:
        raise
    except (InputError, KeyError):  # trained elsewhere, or no version of ours
        return None
    return run.champion.version if run.champion else None


def _prune_builds(pruning: Pruning, kept: Collection[str]) -> set[str]:
    """Let go of index builds that another has replaced, and of those of versions that are not kept, whose index is then again the one
    that they were released with; returns the digests of the builds that stay."""
    registry, staying, is_whole = pruning.registry, set[str](), is_history_whole()
    last_good = registry.registered().last_good
    refreshes = [entry for entry in read_history(registry.name) if entry["action"] == "refresh"]
    for found in registry.versions():
        version, tags = str(found.version), dict(found.tags)
        current, own = tags.get("index", ""), tags.get("smar.index_digest")
        if version not in kept and own and current != own:
            pruning.say(f"index {current[:12]} of version {version}: it is again the one that it was released with")
            if not pruning.dry_run:
                pruning.lease.verify()
                registry.tag(version, "index", own)
            current = own
        staying |= {current, released_index(tags) or ""}
        for name, source in tags.items():
            if not name.startswith(source_tag("")) or name == source_tag(current):
                continue
            digest = name.removeprefix(source_tag(""))
            replaced = max(
                (e["at"] for e in refreshes if (e.get("to"), e.get("index_from")) == (version, digest)), default=None
            )
            # Readers may still be opening it; a line that cannot be read may say so.
            is_fresh = version in kept and (not _is_older(replaced, REFRESH_AGE) or (replaced is None and not is_whole))
            if is_fresh or (version, digest) == last_good:
                staying.add(digest)
            else:
                _let_go(pruning, version, digest, source)
    return staying


def _is_older(at: str | None, age: timedelta) -> bool:
    return at is None or datetime.now(UTC) - datetime.fromisoformat(at) > age


def _let_go(pruning: Pruning, version: str, digest: str, source: str) -> None:
    """A build on a tracking server goes with its name; one in the lake with the other outputs that nothing needs."""
    pruning.lease.verify()
    registry, what = pruning.registry, f"index {digest[:12]} of version {version}"
    pruning.say(what)
    if pruning.dry_run:
        pruning.count += 1
        return
    on_server = re.fullmatch(r"runs:/(\w+)/(index-\w+)", source)
    try:
        if on_server:
            run = registry.client.get_run(on_server[1])
            files = get_artifact_repository(run.info.artifact_uri, tracking_uri=registry.settings.tracking_uri)
            files.delete_artifacts(on_server[2])
    except Exception as error:  # storage of each kind fails in its own ways
        pruning.failures.append(f"{what}: {type(error).__name__}: {error}")
        return
    registry.client.delete_model_version_tag(registry.name, version, source_tag(digest))
    registry.client.delete_model_version_tag(registry.name, version, signature_tag(digest))
    pruning.count += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """What lies in `<home>/runs/<run>/`."""

    path: Path
    states: dict[str, StageState]
    """By stage, as they are written."""
    damaged: list[Path]
    """Files that cannot be read, so that it is not known what the run needs."""
    run: Run | None
    """None: it never began, or this version of SMAR cannot read its record."""
    names: set[str]
    """All texts of its record: keys of outputs and folders are among them, whichever version wrote it. Empty: it never began."""

    @property
    def outputs(self) -> set[Output]:
        return {(s.get("output_of", stage), s["key"]) for stage, s in self.states.items() if "key" in s}

    @property
    def is_refresh(self) -> bool:
        return bool(self.states.keys() & REFRESH_STAGES.keys()) and "finetune" not in self.states

    def is_older(self, age: timedelta) -> bool:
        return not self.damaged and _is_older(max((s["at"] for s in self.states.values()), default=None), age)


def _read_folder(path: Path) -> RunFolder:
    states, damaged, run, names = dict[str, StageState](), list[Path](), None, set[str]()
    for file in path.glob("*.json"):
        try:
            if file.stem in STEPS:
                states[file.stem] = parse_state(file.read_bytes(), file)
            elif file.name == "run.json":
                # Called with each object in it.
                json.loads(
                    file.read_bytes(),
                    object_hook=lambda found: names.update(v for v in found.values() if isinstance(v, str)),
                )
                run = load_run(path.name)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError) as error:
            is_of_another_version = isinstance(error, InputError) and not isinstance(error, DamagedRecord)
            damaged += [] if is_of_another_version else [file]
    return RunFolder(path=path, states=states, damaged=damaged, run=run, names=names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """All runs of the home folder, at one moment."""

    taken_at: float
    """Seconds since the epoch."""
    kept: list[RunFolder]
    old: list[RunFolder]

    @property
    def names(self) -> set[str]:
        """What the records of kept runs name: keys of outputs; models and indexes of other releases, in lake or cache."""
        return set[str]().union(*(folder.names for folder in self.kept))


def _survey(registry: Registry, kept_versions: Collection[str]) -> Survey:
    """Tell the runs that are kept from the others.

    Kept are runs that did something of late; runs of kept releases; those whose pretraining a kept run builds on; the newest oracle of
    each shop; runs of other deployments in the same home folder, and those whose record this version of SMAR cannot read.
    """
    taken_at, ours = time.time(), (registry.name, registry.settings.tracking_uri)
    trained = {found.tags.get("smar.run") for found in registry.versions() if str(found.version) in kept_versions}
    fetch_folder(home() / "runs", suffix=".json")
    folders = {path.name: _read_folder(path) for path in folders_in(home() / "runs")}
    kept = {
        name for name, folder in folders.items() if folder.damaged or (folder.run is None and folder.names)
    } | trained
    oracles: dict[tuple[str, str], list[tuple[datetime, str]]] = defaultdict(list)
    for run, folder in ((folder.run, folder) for folder in folders.values() if folder.run):
        age = REFRESH_AGE if folder.is_refresh else timedelta(days=registry.settings.release.keep_days)
        is_running = any(s["state"] == "running" and process_state(s) != "gone" for s in folder.states.values())
        is_ours = (run.settings.release.model, run.settings.tracking_uri) == ours
        if is_running or not is_ours or not folder.is_older(age):
            kept.add(run.name)
        told, finetuned = folder.states.get("prepare-items"), folder.states.get("finetune")
        if (
            told
            and (stage := told.get("output_of")) in REVEAL.values()
            and finetuned
            and finetuned["state"] == "finished"
        ):
            oracles[str(run.settings.shop.root), str(stage)].append((run.cutoff, run.name))
    kept |= {max(of_shop)[1] for of_shop in oracles.values()}
    kept |= {folder.run.base.run for name, folder in folders.items() if name in kept and folder.run and folder.run.base}
    return Survey(
        taken_at=taken_at,
        kept=[folder for name, folder in folders.items() if name in kept],
        old=[folder for name, folder in folders.items() if name not in kept],
    )


def _prune_outputs(pruning: Pruning, survey: Survey, builds: Collection[str]) -> None:
    """Outputs of old runs, of the lake, that no kept run took or made or names, and no version answers by."""
    named = survey.names
    needed, old = (set[Output]().union(*(f.outputs for f in found)) for found in (survey.kept, survey.old))
    for stage, key in sorted(old - needed):
        try:
            artifact = find_artifact(stage, key)
        except DamagedOutput as damage:
            pruning.failures.append(f"{stage} {key[:12]}: {damage}")
            continue
        if artifact is None or artifact.digest in builds or key in named or _is_named(artifact.place, named):
            continue
        made_at = artifact.manifest["finished_at"]
        if _is_older(made_at, REFRESH_AGE) and (stage, key) not in _taken_since(survey):
            what = f"{stage} {key[:12]} of {made_at[:10]}"
            pruning.remove(what, artifact.place, name=manifest_path(stage, key))


def _is_named(folder: Path, names: Collection[str]) -> bool:
    return any((home() / name).is_relative_to(folder) for name in names if "/" in name)


def _taken_since(survey: Survey) -> set[Output]:
    """Outputs of runs that have written a state since the survey: one may just have found an old output again."""
    taken: set[Output] = set()
    for folder in folders_in(home() / "runs"):
        if last_written(folder) >= survey.taken_at - 1:
            fetch_folder(folder, suffix=".json")
            taken |= _read_folder(folder).outputs
    return taken


def _prune_copies(pruning: Pruning, survey: Survey, builds: Collection[str], kept: Collection[str]) -> None:
    """Local copies of versions that are not kept and of builds that are gone, and what killed processes were copying."""
    named = survey.names
    staying = {f"{pruning.registry.name}-{version}" for version in kept} | {f"index-{digest}" for digest in builds}
    ours = re.compile(rf"{re.escape(pruning.registry.name)}-\d+|index-[0-9a-f]+|\..*")
    left = [*home().glob(".register-*"), *home().glob(".publish-*"), *home().glob(".sign-*")]
    for folder in [*sorted(cache_folder().glob("*")), *left]:
        is_old = time.time() - folder.stat().st_mtime > REFRESH_AGE.total_seconds()
        if folder.name not in staying and is_old and ours.fullmatch(folder.name) and not _is_named(folder, named):
            pruning.remove(f"copy {folder.name}", folder)


def _prune_records(pruning: Pruning, survey: Survey, *, age: timedelta) -> None:
    """Folders of old runs that only refreshed an index, or never began."""
    for folder in survey.old:
        if folder.is_older(age) and (folder.is_refresh or folder.run is None):
            pruning.remove(f"record of run {folder.path.name}", folder.path)
