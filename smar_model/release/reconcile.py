"""`smar reconcile`: what the registry says against what is written down.

The alias `champion` may be moved by hand in MLflow's page, and so may the tag `index`. Such a change is verified; a release that can
serve is written down like any other, and one that cannot is reported, while the last good one (tag `smar.last_good` of the registered
model) goes on serving. No alias is moved. What a killed process left is finished first.
"""

from __future__ import annotations

from dataclasses import dataclass

from smar_model.errors import InputError
from smar_model.release.changes import finish_pending, note_last_good, tag_history, write_down
from smar_model.release.history import new_entry, read_moves
from smar_model.release.lease import registry_lease
from smar_model.release.registry import CANNOT_SERVE, CHAMPION, Pointer, Registry
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
        found = reconcile_champion(registry)
    for line in found.done:
        print(f"reconcile: {line}")
    if found.problem:
        raise InputError(found.problem)
    serving = f"version {found.champion[0]} with index {found.champion[1][:12]}" if found.champion else "none yet"
    print(f"reconcile: model {registry.name!r}, champion: {serving}")
    return found


def reconcile_champion(registry: Registry, *, verify_known: bool = True) -> Reconciled:
    """The same for who holds the registry's lease already; a champion that cannot serve is a `problem`, no error.

    Args:
        verify_known: whether the files of a champion that served before are verified again.
    """
    finished = finish_pending(registry)
    done = [finished] if finished else []
    registered = registry.registered()
    if registered.aliases or registered.tags:
        tag_history(registry)
    moves, last_good, named = read_moves(registry.name), registered.last_good, registered.aliases.get(CHAMPION)
    known = moves[-1]["to"] if moves else None
    if finished:
        last_good = registry.registered().last_good
    if named is None:
        problem = None
        if known:
            problem = f"model {registry.name!r} has lost its alias {CHAMPION!r}, which stood at version {known}"
            problem = f"{problem}; {_what_to_do(last_good)}"
        return Reconciled(champion=last_good if known else None, problem=problem, done=done)
    version = registry.version(named)
    pointer = named, version.tags.get("index", "")
    is_known = pointer == last_good and named == known
    if is_known and not verify_known:
        return Reconciled(champion=pointer, problem=None, done=done)
    try:
        release = registry.release(named)
        if is_known:
            if CANNOT_SERVE in version.tags:
                registry.client.delete_model_version_tag(registry.name, named, CANNOT_SERVE)
            return Reconciled(champion=pointer, problem=None, done=done)
        evidence = {"answered": verify_release(release)}
    except InputError as error:
        registry.tag(named, CANNOT_SERVE, str(error)[:1_000])
        last_good = last_good if last_good != pointer and _is_whole(registry, last_good) else None
        problem = f"the champion of model {registry.name!r}, {_line(error)}; {_what_to_do(last_good)}"
        return Reconciled(champion=last_good, problem=problem, done=done)
    entry = new_entry(
        registry.name,
        "by hand" if named != known else "refresh",
        **{"from": known if named != known else named, "to": named, "index": pointer[1]},
        run=release["run"],
        date=release["date"],
        by=UNKNOWN,
        reason="found so in the registry, changed by another hand than smar's",
        evidence=evidence,
    )
    if named != known:
        write_down(registry, entry | {"number": moves[-1]["number"] + 1 if moves else 1})
        done.append(f"the champion was moved by hand from version {known or 'none'} to {named}; it answers")
    elif last_good and last_good[0] == named:
        write_down(registry, entry | {"index_from": last_good[1]})
        done.append(f"the index of version {named} was changed by hand to {pointer[1][:12]}; it answers")
    else:
        note_last_good(registry, *pointer)
    if CANNOT_SERVE in version.tags:
        registry.client.delete_model_version_tag(registry.name, named, CANNOT_SERVE)
    return Reconciled(champion=pointer, problem=None, done=done)


def _is_whole(registry: Registry, pointer: Pointer | None) -> bool:
    """Whether a release is still what was signed."""
    if pointer is None:
        return False
    try:
        registry.release(pointer[0], index=pointer[1])
    except InputError:
        return False
    return True


def _line(error: InputError) -> str:
    return " ".join(str(error).split())


def _what_to_do(last_good: Pointer | None) -> str:
    going_on = f"version {last_good[0]} goes on serving; " if last_good else "nothing can serve in its place; "
    return f"{going_on}move the alias to a version that can serve, in MLflow's page or by `smar rollback`"
