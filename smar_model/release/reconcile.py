"""`smar reconcile`: what the registry says against what is written down.

The alias `champion` may be moved by hand in MLflow's page, and so may the tag `index`. Such a change is verified; a release that can
serve is written down like any other, and one that cannot is reported, while the last good one (tag `smar.last_good` of the registered
model) goes on serving. No alias is moved. What a killed process left is finished first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from smar_model.errors import InputError
from smar_model.lake.earlier_outputs import Release
from smar_model.lake.lease import Lease
from smar_model.lake.runs import Run
from smar_model.release.changes import finish_pending, next_number, note_last_good, tag_history, write_down
from smar_model.release.history import new_entry, read_moves
from smar_model.release.lease import registry_lease
from smar_model.release.registry import CANNOT_SERVE, CHAMPION, PROMOTED_AT, Pointer, Registered, Registry
from smar_model.release.verify import verify_release
from smar_model.settings import Settings

UNKNOWN = "unknown"
"""Who moved an alias by hand: MLflow does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    champion: Pointer | None
    """What serves: the champion, or the last good one where that cannot serve; None before the first release."""
    problem: str | None
    """Why the champion that the registry names does not serve."""
    done: list[str]
    """What was finished or written down, for people."""

    @property
    def lines(self) -> list[str]:
        """All that people should see of it."""
        return [*self.done, *([f"WARNING: {self.problem}"] if self.problem else [])]


def reconcile(settings: Settings) -> Reconciled:
    """Bring the record up to what the registry says.

    Raises:
        InputError: the champion that the registry names cannot serve.
    """
    registry = Registry(settings)
    with registry_lease(purpose="reconcile"):
        found = reconcile_champion(registry, opened=True)
    for line in found.done:
        print(f"reconcile: {line}")
    if found.problem:
        raise InputError(found.problem)
    serving = f"version {found.champion[0]} with index {found.champion[1][:12]}" if found.champion else "none yet"
    print(f"reconcile: model {registry.name!r}, champion: {serving}")
    return found


@contextmanager
def reconciled(registry: Registry, run: Run, step: str, *, opened: bool = False) -> Iterator[tuple[Lease, Reconciled]]:
    """The registry's lease for a step of a run, and what serves, once the record says so; what was done for that is printed."""
    with registry_lease(purpose=f"{step} {run.name}") as lease:
        found = reconcile_champion(registry, opened=opened)
        for line in found.lines:
            print(f"[{run.name}] {step}: {line}", flush=True)
        yield lease, found


def reconcile_champion(registry: Registry, *, opened: bool = False, verified: bool = True) -> Reconciled:
    """The same for who holds the registry's lease already; a champion that cannot serve is a `problem`, no error.

    Args:
        opened: open the champion although it has served before. False: see by digest and signature that its files are those that were released.
        verified: False: of one that has served before, see only that its folders are there.
    """
    done = [finished] if (finished := finish_pending(registry)) else []
    registered = registry.registered()
    if registered.aliases or registered.tags:
        tag_history(registry)
    moves, last_good, named = read_moves(registry.name), registered.last_good, registered.aliases.get(CHAMPION)
    known = moves[-1]["to"] if moves else None
    if named is None:
        if known is None and last_good is None:
            return Reconciled(champion=None, problem=None, done=done)
        return _in_its_place(registry, _why_there_is_none(registry, registered, known), done=done, last_good=last_good)
    pointer, tags = (named, ""), dict[str, str]()
    try:
        tags = registry.version(named).tags
        pointer = named, tags.get("index", "")
        # A history may know another version of this number, of a registry that is gone.
        is_known = named == known and PROMOTED_AT in tags
        is_unchanged = pointer == last_good and is_known and CANNOT_SERVE not in tags
        release = registry.release(named) if verified or not is_unchanged else registry.unverified_release(named)[0]
        evidence = {} if is_unchanged and not opened else {"answered": verify_release(release)}
    except InputError as error:
        if tags:
            registry.tag(named, CANNOT_SERVE, str(error)[:1_000])
        problem = f"the champion of model {registry.name!r}, {' '.join(str(error).split())}"
        return _in_its_place(registry, problem, done=done, last_good=last_good, broken=pointer)
    if CANNOT_SERVE in tags:
        registry.client.delete_model_version_tag(registry.name, named, CANNOT_SERVE)
    if pointer == last_good and is_known:
        return Reconciled(champion=pointer, problem=None, done=done)
    entry = new_entry(
        registry.name,
        "refresh" if is_known else "by hand",
        **{"from": named if is_known else known, "to": named, "index": pointer[1]},
        run=release.run,
        date=release.date,
        by=UNKNOWN,
        reason="found so in the registry, changed by another hand than smar's",
        evidence=evidence,
    )
    if not is_known:
        write_down(registry, entry | {"number": next_number(registry)})
        done.append(f"the champion was moved by hand from version {known or 'none'} to {named}; it answers")
    elif last_good and last_good[0] == named:
        write_down(registry, entry | {"index_from": last_good[1]})
        done.append(f"the index of version {named} was changed by hand to {pointer[1][:12]}; it answers")
    else:
        note_last_good(registry, *pointer)
    return Reconciled(champion=pointer, problem=None, done=done)


def is_met(registry: Registry, champion: str | None, met: Release | None) -> bool:
    """Whether a version is the champion that a run met when it began: by its model too, as a registry that was made anew counts again from 1."""
    if champion is None or met is None:
        return champion is None and met is None
    return champion == met.version and registry.version(champion).tags.get("smar.model_digest") == met.model_digest


def _why_there_is_none(registry: Registry, registered: Registered, known: str | None) -> str:
    """Why no version has the alias `champion` although one was released."""
    model = f"model {registry.name!r}"
    if not registered.exists:
        return f"{model} is gone from {registry.settings.tracking_uri}, with all releases up to version {known}"
    stood = f"{model} has lost its alias {CHAMPION!r}"
    if known is None:
        return stood
    try:
        is_there = PROMOTED_AT in registry.version(known).tags
    except InputError:
        is_there = False
    return f"{stood}, which stood at version {known}" + (
        "" if is_there else ", and that version is gone from the registry"
    )


def _in_its_place(
    registry: Registry, problem: str, *, done: list[str], last_good: Pointer | None, broken: Pointer | None = None
) -> Reconciled:
    """What serves in the place of a champion that cannot: the last release that is there and answers, which is noted as the last good one."""
    released = dict.fromkeys(move["to"] for move in reversed(read_moves(registry.name)))
    candidates = [*([last_good] if last_good else []), *((version, None) for version in released)]
    for version, index in candidates:
        try:
            release = registry.release(version, index=index)
            pointer = version, release.index_digest
            if pointer == broken or PROMOTED_AT not in registry.version(version).tags:
                continue
            verify_release(release)
        except InputError:
            continue
        if pointer != last_good:
            note_last_good(registry, *pointer)
        instead = f"version {version} goes on serving; move the alias to a version that can serve, in MLflow's page or by `smar rollback`"
        return Reconciled(champion=pointer, problem=f"{problem}; {instead}", done=done)
    instead = "nothing can serve in its place: bring the registry and its files back from a backup, or let the next run be promoted"
    return Reconciled(champion=None, problem=f"{problem}; {instead}", done=done)
