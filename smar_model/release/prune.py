"""`smar prune`: remove what no kept release and no younger run needs. What it keeps and removes: `docs/releases.md`, "Retention".

Everything removed could be made again, or is a copy; model versions and MLflow's runs stay whole. Each removal is one step of its own, the
name first and then the files, so that a process which is killed leaves nothing half there; the next one goes on.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from smar_model.errors import InputError
from smar_model.evaluation.oracle import REVEAL
from smar_model.lake.artifacts import DamagedOutput, find_artifact, manifest_path
from smar_model.lake.lease import Lease
from smar_model.lake.process_identity import process_state
from smar_model.lake.records import DamagedRecord, say_once
from smar_model.lake.release_copies import cache_folder
from smar_model.lake.runs import Run, load_run, parse_state
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
        if survey.damaged:
            names = ", ".join(str(path) for path in survey.damaged)
            say_once(
                f"{names}: damaged, so what those runs need is not known, and no output and no copy is removed; do those steps "
                "again, or delete the folders of runs that are not needed"
            )
        else:
            _prune_outputs(pruning, survey, builds)
            _prune_copies(pruning, survey, builds, kept)
        _prune_records(pruning, survey)
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
    there = {str(found.version) for found in _all_versions(registry)}
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
    return run.champion["version"] if run.champion else None


def _prune_builds(pruning: Pruning, kept: Collection[str]) -> set[str]:
    """Let go of index builds that another has replaced, and of those of versions that are not kept, whose index is then again the one
    that they were released with; returns the digests of the builds that stay."""
    registry, staying, is_whole = pruning.registry, set[str](), is_history_whole()
    last_good = registry.registered().last_good
    refreshes = [entry for entry in read_history(registry.name) if entry["action"] == "refresh"]
    for found in _all_versions(registry):
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


def _all_versions(registry: Registry) -> Iterator[Any]:
    token: str | None = None
    while token != "":
        page = registry.client.search_model_versions(f"name = '{registry.name}'", max_results=100, page_token=token)
        yield from page
        token = page.token or ""


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


@dataclass(slots=True, kw_only=True)
class Survey:
    """All runs of the home folder, at one moment."""

    taken_at: float
    """Seconds since the epoch."""
    needed: set[Output] = field(default_factory=set)
    """Outputs of runs that are kept."""
    paths: set[str] = field(default_factory=set)
    """Absolute paths that the records of those name: models and indexes of other releases, in lake or cache."""
    old: set[Output] = field(default_factory=set)
    """Outputs of the others."""
    old_records: list[Path] = field(default_factory=list)
    """Folders of old runs that only refreshed an index, or never began."""
    damaged: list[Path] = field(default_factory=list)
    """Records that cannot be read, so that it is not known what they need."""


def _survey(registry: Registry, kept_versions: Collection[str]) -> Survey:
    """Tell the runs that are kept from the others.

    Kept are runs that did something of late; runs of kept releases; those whose pretraining a kept run builds on; the newest oracle of
    each shop; runs of other deployments in the same home folder, and those whose record this version of SMAR cannot read.
    """
    survey = Survey(taken_at=time.time())
    trained = {found.tags.get("smar.run") for found in _all_versions(registry) if str(found.version) in kept_versions}
    runs: dict[str, Run] = {}
    kept: set[str] = set()
    oracles: dict[tuple[str, str], list[tuple[datetime, str]]] = defaultdict(list)
    fetch_folder(home() / "runs", suffix=".json")
    folders = folders_in(home() / "runs")
    for folder in folders:
        states, damaged = _states(folder)
        survey.damaged += damaged
        is_refresh = bool(states.keys() & REFRESH_STAGES.keys()) and "finetune" not in states
        at = max((state["at"] for state in states.values()), default=None)
        is_young = bool(damaged) or not _is_older(
            at, REFRESH_AGE if is_refresh else timedelta(days=registry.settings.release.keep_days)
        )
        if not (folder / "run.json").is_file():
            survey.old_records += [] if is_young else [folder]
            continue
        try:
            runs[folder.name] = run = load_run(folder.name)
        except InputError as error:
            kept.add(folder.name)
            survey.damaged += [folder / "run.json"] if isinstance(error, DamagedRecord) else []
            continue
        is_ours = (run.settings.release.model, run.settings.tracking_uri) == (
            registry.name,
            registry.settings.tracking_uri,
        )
        is_running = any(s["state"] == "running" and process_state(s) != "gone" for s in states.values())
        if is_young or is_running or not is_ours or folder.name in trained:
            kept.add(folder.name)
        elif is_refresh and _is_older(at, timedelta(days=registry.settings.release.keep_days)):
            survey.old_records.append(folder)
        told = states.get("prepare-items", {}).get("output_of", "")
        if told in REVEAL.values() and states.get("finetune", {}).get("state") == "finished":
            oracles[run.settings.shop.root.as_posix(), told].append((run.cutoff, folder.name))
    kept |= {max(of_shop)[1] for of_shop in oracles.values()}
    kept |= {base["run"] for name in kept if name in runs and (base := runs[name].base)}
    for folder in folders:
        outputs = _outputs(folder)
        if folder.name not in kept:
            survey.old |= outputs
            continue
        survey.needed |= outputs
        if (folder / "run.json").is_file() and folder / "run.json" not in survey.damaged:
            content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            survey.needed |= set(((content.get("base") or {}).get("keys") or {}).items())
            survey.paths |= {str(home() / folder) for folder in _folders(content)}
    return survey


def _states(folder: Path) -> tuple[dict[str, dict[str, Any]], list[Path]]:
    """Stage → its state as it is written in a run's folder; and the files there that cannot be read."""
    states, damaged = {}, []
    for path in folder.glob("*.json"):
        if path.stem not in STEPS:
            continue
        try:
            states[path.stem] = parse_state(path.read_bytes(), path)
        except FileNotFoundError:
            continue
        except (OSError, DamagedRecord):
            damaged.append(path)
    return states, damaged


def _outputs(folder: Path) -> set[Output]:
    states, _ = _states(folder)
    return {(s.get("output_of", stage), s["key"]) for stage, s in states.items() if "key" in s}


def _folders(content: dict[str, Any]) -> Iterator[str]:
    """Folders of releases in a run's record."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _folders(value)
        elif name.endswith("folder"):
            yield value


def _prune_outputs(pruning: Pruning, survey: Survey, builds: Collection[str]) -> None:
    """Outputs of old runs, of the lake, that no kept run took or made or names, and no version answers by."""
    for stage, key in sorted(survey.old - survey.needed):
        try:
            artifact = find_artifact(stage, key)
        except DamagedOutput as damage:
            pruning.failures.append(f"{stage} {key[:12]}: {damage}")
            continue
        if (
            artifact is None
            or artifact.digest in builds
            or not _is_older(artifact.manifest["finished_at"], REFRESH_AGE)
        ):
            continue
        if _is_named(artifact.place, survey) or (stage, key) in _taken_since(survey):
            continue
        what = f"{stage} {key[:12]} of {artifact.manifest['finished_at'][:10]}"
        pruning.remove(what, artifact.place, name=manifest_path(stage, key))


def _is_named(folder: Path, survey: Survey) -> bool:
    return any(Path(path).is_relative_to(folder) for path in survey.paths)


def _taken_since(survey: Survey) -> set[Output]:
    """Outputs of runs that have written a state since the survey: one may just have found an old output again."""
    taken: set[Output] = set()
    for folder in folders_in(home() / "runs"):
        if last_written(folder) >= survey.taken_at - 1:
            fetch_folder(folder, suffix=".json")
            taken |= _outputs(folder)
    return taken


def _prune_copies(pruning: Pruning, survey: Survey, builds: Collection[str], kept: Collection[str]) -> None:
    """Local copies of versions that are not kept and of builds that are gone, and what killed processes were copying."""
    staying = {f"{pruning.registry.name}-{version}" for version in kept} | {f"index-{digest}" for digest in builds}
    ours = re.compile(rf"{re.escape(pruning.registry.name)}-\d+|index-[0-9a-f]+|\..*")
    left = [*home().glob(".register-*"), *home().glob(".publish-*"), *home().glob(".sign-*")]
    for folder in [*sorted(cache_folder().glob("*")), *left]:
        is_old = time.time() - folder.stat().st_mtime > REFRESH_AGE.total_seconds()
        if folder.name not in staying and is_old and ours.fullmatch(folder.name) and not _is_named(folder, survey):
            pruning.remove(f"copy {folder.name}", folder)


def _prune_records(pruning: Pruning, survey: Survey) -> None:
    for folder in survey.old_records:
        pruning.remove(f"record of run {folder.name}", folder)
