"""The history of releases, `<home>/releases.jsonl`: one line a change, only ever added to; and the change that is under way.

Every line has `at`, `action`, `model`, `from`, `to`, `run`, `date`, `by`, `reason` and `evidence`; by action:

    promote, rollback, by hand    moves: `number`; `from`, `to`: the champion before and after; `index`: the build that `to` answers by
    refresh                       `from` = `to`: the version; `index_from`, `index`: its build before and after
    sign                          `from` = `to`: the version, signed again
    reject                        `from` = `to`: the champion, which stays; `version`: the one that a person refused

A change is first noted beside it (`releases.pending.json`), so that the next command finishes what a killed process began, or drops it.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from smar_model.lake.shared_files import read_to_replace, replace_file, replace_unchanged, store
from smar_model.settings import home

MOVES = {"promote", "rollback", "by hand", "found as champion"}
"""Actions that change the champion; the last was written by earlier versions of this project."""


def history_file() -> Path:
    return home() / "releases.jsonl"


def read_history(model: str | None = None) -> list[dict[str, Any]]:
    """Every change, of one registered model or of all, oldest first; a line that a killed process left torn is none."""
    whole = read_to_replace(history_file())[0].rpartition("\n")[0]
    entries = [json.loads(line) for line in whole.split("\n") if line]
    return [entry for entry in entries if model in {None, entry["model"]}]


def append_history(entry: dict[str, Any]) -> None:
    """Add a line to the history, which is never rewritten, but for an object store, which knows whole objects alone."""
    line = json.dumps(entry, ensure_ascii=False) + "\n"
    while store():
        old, known_by = read_to_replace(history_file())
        if replace_unchanged(history_file(), old + line, known_by):
            return
    with history_file().open("a+b") as file:
        file.seek(0)
        whole = file.read().rpartition(b"\n")
        file.truncate(len(whole[0]) + len(whole[1]))
        file.write(line.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def read_moves(model: str) -> list[dict[str, Any]]:
    """Changes of the champion, oldest first, each with its number, from 1."""
    moves = [entry for entry in read_history(model) if entry["action"] in MOVES]
    return [{"number": place} | move for place, move in enumerate(moves, start=1)]


def predecessor(model: str, version: str) -> str | None:
    """The champion that a version took the place of when it first became one; None: the first release, or never released.

    Rolling back from a release does not make it the predecessor of the one before: a second step goes further back.
    """
    return next((move["from"] for move in read_moves(model) if move["to"] == version), None)


def new_entry(model: str, action: str, **values: Any) -> dict[str, Any]:
    return {"at": datetime.now(UTC).isoformat(timespec="seconds"), "action": action, "model": model} | values


def _pending_file() -> Path:
    return home() / "releases.pending.json"


def read_pending(model: str) -> dict[str, Any] | None:
    """The change of a model that was begun and not finished."""
    return _all_pending().get(model)


def write_pending(model: str, entry: dict[str, Any] | None) -> None:
    """Note the change that begins, or that none is under way any more. Only for who holds the registry's lease."""
    others = {name: other for name, other in _all_pending().items() if name != model}
    replace_file(_pending_file(), json.dumps(others | ({model: entry} if entry else {}), ensure_ascii=False))


def _all_pending() -> dict[str, dict[str, Any]]:
    return json.loads(read_to_replace(_pending_file())[0] or "{}")
