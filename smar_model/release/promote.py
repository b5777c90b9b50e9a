"""`smar promote`: move the alias `champion` to the run's version, if the gate, the run and, where it is asked, a person say so."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from smar_model.errors import InputError
from smar_model.evaluation.decision import read_decision
from smar_model.lake.runs import Run
from smar_model.release.changes import carry_out, decision_tags
from smar_model.release.experiment import (
    BY_SHOPPERS,
    Evidence,
    Ruling,
    begin_or_wait,
    earlier_rejection,
    read_evidence,
    rule,
    today,
)
from smar_model.release.history import Change, append_history, new_entry, read_history
from smar_model.release.reconcile import is_met, reconciled
from smar_model.release.register import registered_version
from smar_model.release.registry import CHAMPION, Registry
from smar_model.release.steps import Outcome, decided_step
from smar_model.release.verify import verify_release
from smar_model.settings import Interleaving

GATE = "the gate"
"""Who decides where no person does."""


def promote_run(run: Run, *, approved_by: str = "", rejected_by: str = "", comment: str = "") -> str:
    """Promote the run's version where the gate, the run and who was asked allow it.

    Args:
        approved_by, rejected_by: the person who decided, at most one of them; a run that asks waits for one.
        comment: why, in that person's words.

    Returns:
        The outcome: `promoted`, `unchanged` (it is the champion already) or `kept` (the champion stays: a normal end).

    Raises:
        InputError: the run is not registered or has no decision, or the version does not load and answer a query.
    """
    if approved_by and rejected_by:
        raise InputError("--approved-by and --rejected-by: state one of them")
    outcome = decided_step(
        run, "promote", lambda: _promote(run, approved_by.strip(), rejected_by.strip(), comment.strip())
    )
    print(f"[{run.name}] promote: {outcome.kind}: {outcome.text}")
    return outcome.kind


def _promote(run: Run, approved_by: str, rejected_by: str, comment: str) -> Outcome:
    decision = read_decision(run.output("gate").file("decision.json"))
    version = registered_version(run)

    def kept(why: str) -> Outcome:
        return Outcome(kind="kept", text=f"version {version} {why}", version=version)

    if not decision.promote:
        return kept(f"is not promoted; {decision.verdict}")
    if run.promotion == "never":
        return kept("passed the gate, but this run was started with --promotion never")
    registry, asked = Registry(run.settings), run.settings.gate.interleaving
    seen = read_evidence(run, registry, version)  # which may take minutes: before the lock
    with reconciled(registry, run, "promote") as (lease, found):
        before = found.champion[0] if found.champion else None
        if registry.aliased(CHAMPION) == version and found.problem is None:
            return Outcome(kind="unchanged", text=f"version {version} is the champion already", version=version)
        release = registry.release(version)
        if release.model_digest != run.output("finetune").manifest["content"]["model"]:
            raise InputError(
                f"version {version} of model {registry.name!r} is not the one that run {run.name} registered: the registry has been made "
                f"anew; run `smar register --run {run.name}` again"
            )
        entry = new_entry(
            registry.name,
            "promote",
            **{"from": before, "to": version, "index": release.index_digest},
            run=run.name,
            date=str(run.date),
            by=approved_by or GATE,
            reason=comment or decision.verdict,
        )
        evidence: dict[str, Any] = {"reasons": [asdict(reason) for reason in decision.reasons]}
        if rejected_by:
            entry |= {"action": "reject", "to": before, "version": version, "by": rejected_by, "reason": comment}
            _write_rejection(registry, entry | {"evidence": evidence})
            return kept(f"passed the gate, and was rejected by {rejected_by}" + (f": {comment}" if comment else ""))
        # A champion that cannot serve cannot be interleaved either: the gate alone decides what takes its place.
        if asked and before and found.problem is None and is_met(registry, before, run.champion):
            ruling = _shoppers_ruling(registry, version, asked, seen, before)
            evidence |= {"interleaving": seen.as_json() if seen else {}}
            if ruling.kind == "wait":
                return kept(begin_or_wait(registry, lease, run, version, before, ruling))
            if ruling.kind == "reject":
                entry |= {
                    "action": "reject",
                    "to": before,
                    "version": version,
                    "by": BY_SHOPPERS,
                    "reason": ruling.text,
                }
                _write_rejection(registry, entry | {"evidence": evidence})
                return kept(f"passed the gate, and was rejected by {BY_SHOPPERS}: {ruling.text}")
            entry |= {"reason": comment or f"{decision.verdict}; {ruling.text}"}
        if run.promotion == "ask" and not approved_by:
            return kept(
                f"passed the gate and waits for a person: smar promote --run {run.name} --approved-by WHO, or --rejected-by WHO"
            )
        if not is_met(registry, before, run.champion):
            met = run.champion.name if run.champion else "none"
            return kept(
                f"is not promoted: the champion became version {before} while this run, which was compared with {met}, was under "
                "way; start a new run"
            )
        carry_out(registry, lease, entry | {"evidence": evidence | {"answered": verify_release(release)}})
    text = f"version {version} is the champion" + (f", in place of version {before}" if before else "")
    text += f", approved by {approved_by}" if approved_by else ""
    return Outcome(kind="promoted", text=text, version=version)


def _shoppers_ruling(
    registry: Registry, version: str, asked: Interleaving, seen: Evidence | None, champion: str
) -> Ruling:
    """What interleaving comes to, as of before where it has rejected the version."""
    if (reason := earlier_rejection(dict(registry.version(version).tags))) is not None:
        return Ruling(kind="reject", text=reason)
    if seen is None or seen.champion != champion:
        return Ruling(kind="wait", text="the champion has changed while the log was read")
    return rule(seen, asked, today=today())


def _write_rejection(registry: Registry, entry: Change) -> None:
    for name, value in decision_tags(entry).items():
        registry.tag(entry["version"], name, value)
    if _word(entry) not in map(_word, read_history(registry.name)):
        append_history(entry)


def _word(change: Change) -> tuple[str | None, ...]:
    """Who said what about a version."""
    return change["action"], change.get("version"), change.get("by"), change.get("reason")
