"""One change of the registry, so that a process which dies at any step leaves the old release or the new one, whole.

1. Note the change beside the history.
2. Make it by one request: an alias moves, or the tag `index` of a version. Readers see it now, and only now.
3. Write it down: tags of the version and of the registered model, a line of the history.
4. Drop the note.

`finish_pending` looks at the registry to tell whether a change that was noted was made, and does what is left of 3.
"""

from __future__ import annotations

import json
import re

from smar_model.errors import InputError
from smar_model.lake.lease import Lease
from smar_model.release.history import (
    MOVES,
    Change,
    append_history,
    read_history,
    read_moves,
    read_pending,
    restored_move,
    write_pending,
)
from smar_model.release.registry import (
    CHAMPION,
    LAST_GOOD,
    PROMOTED_AT,
    PROMOTED_FROM,
    Registry,
    signature_tag,
    source_tag,
)

DECISION, DECIDED_BY, DECISION_REASON = "smar.decision", "smar.decided_by", "smar.decision_reason"
"""Tags of a version."""
HISTORY_TAG = "smar.release."
"""Tags of the registered model, each a move of the champion in short: `smar.release.00007`."""
HISTORY_NAME = re.compile(r"smar\.release\.\d{5,}")
TAGGED = 100
"""Moves that the registered model has tags of, the last ones: every reader of an alias is sent them all."""
TAG_LENGTH = 1_000
"""Characters of a tag's value; MLflow's databases have columns of 5,000."""
SHORT = ("at", "action", "from", "to", "run", "date", "by", "index", "reason")


def carry_out(registry: Registry, lease: Lease, entry: Change) -> None:
    """Make a change of the champion or of a version's index, which has been verified, and write it down.

    Raises:
        InputError: the lease ran out before the change; nothing is changed.
    """
    version, index, is_move = str(entry["to"]), entry["index"], entry["action"] in MOVES
    if is_move:
        entry = entry | {"number": next_number(registry)}
    lease.verify()
    write_pending(registry.name, entry)
    if is_move:
        registry.client.set_registered_model_alias(registry.name, CHAMPION, version)
    else:
        # Place and signature first: readers ask for them once they have met the digest.
        tags = {
            source_tag(index): entry["index_source"],
            signature_tag(index): entry["index_signature"],
            "index": index,
        }
        for name, value in tags.items():
            registry.tag(version, name, value)
    write_down(registry, entry)


def next_number(registry: Registry) -> int:
    """Of the next move of the champion."""
    moves = read_moves(registry.name)
    return moves[-1]["number"] + 1 if moves else 1


def finish_pending(registry: Registry) -> str | None:
    """Finish what a killed process began, or drop it where it changed nothing; returns what was done, for people."""
    entry = read_pending(registry.name)
    if entry is None:
        return None
    what = f"the {entry['action']} of version {entry['to']} that was begun at {entry['at']}"
    try:
        index = registry.version(str(entry["to"])).tags.get("index")
    except InputError:
        write_pending(registry.name, None)
        return f"{what} is dropped: the version is gone from the registry"
    if registry.aliased(CHAMPION) == entry["to"] if entry["action"] in MOVES else index == entry["index"]:
        write_down(registry, entry)
        return f"{what} was made, and is now written down"
    write_pending(registry.name, None)
    return f"{what} was not made, and is dropped"


def write_down(registry: Registry, entry: Change) -> None:
    """Tags and history of a change that has been made; what is there already stays."""
    write_pending(registry.name, entry)
    version, is_move = str(entry["to"]), entry["action"] in MOVES
    tags = {"smar.refreshed_at": entry["at"], "smar.refreshed_by": entry["run"]}
    if is_move:
        # By the version's own tags: a history may know another version of this number, of a registry that is gone.
        is_first = not {PROMOTED_FROM, PROMOTED_AT} & registry.version(version).tags.keys()
        tags = {PROMOTED_FROM: entry["from"] or "none"} if is_first else {}
        tags |= {PROMOTED_AT: entry["at"], "smar.promoted_by": entry["by"]}
        tags |= decision_tags(entry) if entry["action"] == "promote" else {}
    for name, value in tags.items():
        registry.tag(version, name, value)
    if is_move or registry.aliased(CHAMPION) == version:
        note_last_good(registry, version, entry["index"])
    if entry not in read_history(registry.name):
        append_history(entry)
    tag_history(registry)
    write_pending(registry.name, None)


def decision_tags(entry: Change) -> dict[str, str]:
    """Tags of a version that say who decided about it."""
    decision = "rejected" if entry["action"] == "reject" else "approved"
    return {DECISION: decision, DECIDED_BY: entry["by"], DECISION_REASON: entry["reason"][:1_000]}


def note_last_good(registry: Registry, version: str, index: str) -> None:
    registry.client.set_registered_model_tag(registry.name, LAST_GOOD, f"{version} {index}")


def tag_history(registry: Registry) -> None:
    """Bring the registered model's tags to the last moves of the history; or moves that the history has lost to its tags."""
    tags = {name: value for name, value in registry.registered().tags.items() if HISTORY_NAME.fullmatch(name)}
    known = {move["number"] for move in read_moves(registry.name)}
    for name in sorted(tags):
        number = int(name.removeprefix(HISTORY_TAG))
        if number not in known and (move := restored_move(tags[name], model=registry.name, number=number)):
            append_history(move)
    kept = {f"{HISTORY_TAG}{move['number']:05}": _short(move) for move in read_moves(registry.name)[-TAGGED:]}
    for name, value in kept.items():
        if name not in tags:
            registry.client.set_registered_model_tag(registry.name, name, value)
    for name in (name for name in tags if kept and name < min(kept)):
        registry.client.delete_registered_model_tag(registry.name, name)


def _short(move: Change) -> str:
    values = {name: value for name, value in move.items() if name in SHORT}
    text = json.dumps(values, ensure_ascii=False)
    if len(text) <= TAG_LENGTH:
        return text
    # Twice as long at most when quotes and backslashes are written out.
    left = max(0, (len(move["reason"]) - (len(text) - TAG_LENGTH)) // 2)
    return json.dumps(values | {"reason": move["reason"][:left]}, ensure_ascii=False)
