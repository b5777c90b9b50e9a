"""`smar rollback`: make an earlier release the champion again, its index brought up to date before by the same run."""

from __future__ import annotations

from smar_model.errors import InputError
from smar_model.lake.runs import Run
from smar_model.release.changes import carry_out
from smar_model.release.history import new_entry
from smar_model.release.reconcile import is_met, reconciled
from smar_model.release.registry import CHAMPION, PROMOTED_AT, Registry
from smar_model.release.steps import Outcome, decided_step
from smar_model.release.verify import verify_release


def roll_back(run: Run, *, reason: str, by: str) -> str:
    """Move the alias `champion` to the release that the run has refreshed.

    Returns:
        The outcome: `rolled back`, or `unchanged` (it is the champion already).

    Raises:
        InputError: no reason or no release is stated, its index has not been refreshed by this run, it was never released, it does not
            answer, or the champion has changed since the run started.
    """
    if not reason.strip():
        raise InputError("--reason: say why, for the history")
    outcome = decided_step(run, "rollback", lambda: _roll_back(run, reason.strip(), by))
    print(f"[{run.name}] rollback: {outcome.text}")
    return outcome.kind


def _roll_back(run: Run, reason: str, by: str) -> Outcome:
    if run.release is None:
        raise InputError(
            f"run {run.name}: met no release when it started; begin one with `smar start --release VERSION`"
        )
    version, registry = run.release.version, Registry(run.settings)
    published = run.state("publish-index")
    if not published or published["state"] != "finished":
        raise InputError(
            f"run {run.name}: refresh the index of version {version} first: `smar publish-index --run {run.name}`"
        )
    with reconciled(registry, run, "rollback") as (lease, found):
        if registry.aliased(CHAMPION) == version and found.problem is None:
            return Outcome(kind="unchanged", text=f"version {version} is the champion already", version=version)
        release = registry.release(version)
        if PROMOTED_AT not in registry.version(version).tags:
            raise InputError(
                f"version {version} was never released, so it cannot be rolled back to; `smar history` lists the releases"
            )
        if release.model_digest != run.release.model_digest:
            raise InputError(f"version {version} is another one than run {run.name} has refreshed; start a new run")
        before = found.champion[0] if found.champion else None
        if not is_met(registry, before, run.champion):
            met = run.champion.name if run.champion else "none"
            raise InputError(
                f"the champion became version {before} while this run, which met {met}, was under way; start a new run"
            )
        entry = new_entry(
            registry.name,
            "rollback",
            **{"from": before, "to": version, "index": release.index_digest},
            run=run.name,
            date=str(run.date),
            by=by,
            reason=reason,
            evidence={"answered": verify_release(release)},
        )
        carry_out(registry, lease, entry)
    text = f"version {version} is the champion again, in place of version {before}: {reason}"
    return Outcome(kind="rolled back", text=text, version=version)
