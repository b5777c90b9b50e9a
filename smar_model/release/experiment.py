"""An experiment: a version that passed the gate is interleaved with the champion until shoppers have said which one they prefer
(`gate.interleaving`, `smar serve --interleave champion:challenger`).

One is under way at a time: of the version that the alias `challenger` names, where its tag `smar.experiment` names the champion of now and
nobody has decided about it. Setting that tag begins it; a decision, another champion or another challenger ends it. So whatever dies
between two steps, the registry says what is so, and the next `smar promote` goes on from there.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal

from smar_model.errors import InputError, NothingToDo
from smar_model.evaluation.interleaved_experiments import (
    HOW_TO_BEGIN,
    click_log_of,
    preference_as_json,
    read_experiments,
)
from smar_model.evaluation.preference import Pair, Preference, describe_preference
from smar_model.lake.lease import Lease
from smar_model.lake.runs import Run
from smar_model.release.changes import DECIDED_BY, DECISION, DECISION_REASON
from smar_model.release.registry import CHALLENGER, CHAMPION, Registry
from smar_model.settings import Interleaving, Settings

EXPERIMENT = "smar.experiment"
"""Tag of a version: the champion that it is interleaved with, and the day (UTC) on which that began."""
BY_SHOPPERS = "interleaving"
"""Who decides where shoppers do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    version: str
    champion: str
    since: date


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the log says of a version and the champion, since their experiment began."""

    champion: str
    since: date | None
    """First day of the experiment; None: it has not begun."""
    preference: Preference | None
    """None: no interleaved request of the two counts."""

    def as_json(self) -> dict[str, Any]:
        """For the history: everything but the single looks."""
        found = preference_as_json(self.preference) if self.preference else {}
        return {name: value for name, value in found.items() if name != "looks"} | (
            {"last_look": found["looks"][-1]} if found else {}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What an experiment comes to."""

    kind: Literal["promote", "reject", "wait"]
    text: str


def experiment_of(tags: dict[str, str], version: str) -> Experiment | None:
    """What a version's tag says, where it is one."""
    champion, _, since = tags.get(EXPERIMENT, "").partition(" ")
    try:
        return Experiment(version=version, champion=champion, since=date.fromisoformat(since)) if champion else None
    except ValueError:
        return None


def experiment_under_way(registry: Registry) -> Experiment | None:
    """The experiment of the version with the alias `challenger`, where it is one with the champion of now and nobody has decided."""
    aliases = registry.registered().aliases
    version, champion = aliases.get(CHALLENGER), aliases.get(CHAMPION)
    if version is None or champion in {None, version}:
        return None
    try:
        tags = dict(registry.version(version).tags)
    except InputError:
        return None
    found = experiment_of(tags, version)
    return found if found and found.champion == champion and DECISION not in tags else None


def version_in_experiment(settings: Settings) -> tuple[str, str]:
    """Version whose experiment is under way, and the run that it was trained by.

    Raises:
        NothingToDo: there is none.
    """
    registry = Registry(settings)
    found = experiment_under_way(registry)
    if found is None:
        raise NothingToDo(
            f"no version of model {registry.name!r} waits for interleaving: the alias {CHALLENGER!r} is without an experiment"
        )
    return found.version, registry.version(found.version).tags["smar.run"]


def read_evidence(run: Run, registry: Registry, version: str) -> Evidence | None:
    """What the shop's log says of a version and the champion; None where the gate asks for none, or there is no other champion.

    Only days since the experiment began count: a registry that was made anew counts its versions from 1 again.

    Raises:
        InputError: the log cannot be read, or there is no such version.
    """
    champion = registry.aliased(CHAMPION)
    if run.settings.gate.interleaving is None or champion is None or champion == version:
        return None
    found = experiment_of(dict(registry.version(version).tags), version)
    if found is None or found.champion != champion:
        return Evidence(champion=champion, since=None, preference=None)
    pair, preference = Pair(int(champion), int(version)), None
    if click_log_of(run.settings).is_dir():
        preference = read_experiments(run.settings, first=found.since, pair=pair).of(pair)
    return Evidence(champion=champion, since=found.since, preference=preference)


def rule(evidence: Evidence, asked: Interleaving, *, today: date) -> Ruling:
    """What the settings make of the evidence."""
    found, since = evidence.preference, evidence.since
    is_over = since is not None and (today - since).days > asked.days
    told = _told(found) if found else "no interleaved request of the two counts yet"
    if found is None or found.last.shoppers < asked.users:
        told += f"; at least {asked.users:,} shoppers are asked for (gate.interleaving.users)"
        verdict = None
    else:
        verdict = found.verdict
    if verdict in {"challenger", "champion"}:
        return Ruling(kind="promote" if verdict == "challenger" else "reject", text=told)
    if is_over and verdict == "open" and asked.enough == "not_worse":
        return Ruling(kind="promote", text=f"not shown to be worse in {asked.days} days (gate.interleaving): {told}")
    if is_over:
        return Ruling(kind="reject", text=f"not shown to be preferred in {asked.days} days (gate.interleaving): {told}")
    return Ruling(kind="wait", text=told)


def _told(found: Preference) -> str:
    last = found.last
    return (
        f"interleaved with version {found.pair.champion}: {last.wins:,} shoppers won, {last.losses:,} lost, {last.ties:,} ties in {last.requests:,} "
        f"requests of {len(found.looks)} days, preference {found.preference:.3f}; {describe_preference(found)}"
    )


def begin_or_wait(registry: Registry, lease: Lease, run: Run, version: str, champion: str, ruling: Ruling) -> str:
    """Let a version have its experiment, or go on with it; what is said of that.

    Raises:
        InputError: the lease ran out; nothing is changed.
    """
    under_way = experiment_under_way(registry)
    if under_way and under_way.version != version:
        return (
            f"passed the gate, and is not promoted: version {under_way.version} is being interleaved with the champion since "
            f"{under_way.since}, one at a time"
        )
    found = experiment_of(dict(registry.version(version).tags), version)
    if found is None or found.champion != champion:
        lease.verify()
        registry.tag(version, EXPERIMENT, f"{champion} {today()}")
    if registry.aliased(CHALLENGER) != version:
        lease.verify()
        registry.client.set_registered_model_alias(registry.name, CHALLENGER, version)
    serve = f"{HOW_TO_BEGIN.format(log=click_log_of(run.settings))} --settings {shlex.quote(run.settings_source)}"
    return f"passed the gate and waits for interleaving ({ruling.text}): serve with `{serve}`; then smar promote --run {run.name}"


def today() -> date:
    return datetime.now(UTC).date()


def earlier_rejection(tags: dict[str, str]) -> str | None:
    """Why shoppers' preference has rejected a version before; None: it has not, or that was not written down whole."""
    if (tags.get(DECISION), tags.get(DECIDED_BY)) != ("rejected", BY_SHOPPERS):
        return None
    return tags.get(DECISION_REASON)
