"""The history of releases, `<home>/releases.jsonl`: one line a change, only ever added to; and the change that is under way.

Every line has `at`, `action`, `model`, `from`, `to`, `run`, `date`, `by`, `reason` and `evidence`; by action:

    promote, rollback, by hand    moves: `number`; `from`, `to`: the champion before and after; `index`: the build that `to` answers by
    refresh                       `from` = `to`: the version; `index_from`, `index`: its build before and after
    sign                          `from` = `to`: the version, signed again
    reject                        `from` = `to`: the champion, which stays; `version`: the one that a person refused

A change is first noted beside it (`releases.pending.json`), so that the next command finishes what a killed process began, or drops it.
Both are written by who holds the registry's lock alone: a holder that was paused until its lease ran out is refused (`lake/lease.py`).
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NotRequired, cast

from pydantic import AfterValidator, TypeAdapter
from typing_extensions import TypedDict

from smar_model.lake.durable_files import flush, named_in_errors
from smar_model.lake.lease import fenced
from smar_model.lake.records import OPEN, DamagedRecord, IsoTime, parse_record, say_once
from smar_model.lake.shared_files import read_to_replace, replace_unchanged, store
from smar_model.settings import home

MOVES = {"promote", "rollback", "by hand", "found as champion"}
"""Actions that change the champion; the last was written by earlier versions of this project."""


Change = TypedDict(
    "Change",
    {
        "at": IsoTime,
        "action": str,
        "model": str,
        "from": NotRequired[str | None],
        "to": NotRequired[str | None],
        "run": NotRequired[str],
        "date": NotRequired[str],
        "number": NotRequired[int],
        "index": NotRequired[str],
        "index_from": NotRequired[str | None],
        "index_source": NotRequired[str],
        "index_signature": NotRequired[str],
        "version": NotRequired[str],
        "by": NotRequired[str],
        "reason": NotRequired[str],
        "evidence": NotRequired[dict[str, Any]],
    },
)
Change.__pydantic_config__ = OPEN  # type: ignore[attr-defined]


def _complete(change: Change) -> Change:
    """A change with all that has to be known to finish it."""
    needed = ["to", "index", "run", "by", "reason", *(["number"] if change["action"] in MOVES else [])]
    if missing := [name for name in needed if change.get(name) is None]:
        raise ValueError(f"a change without {missing[0]!r}")
    return change


_CHANGE: TypeAdapter[Change] = TypeAdapter(Change)
_PENDING = TypeAdapter(dict[str, Annotated[Change, AfterValidator(_complete)]])


def history_file() -> Path:
    return home() / "releases.jsonl"


def registry_lock() -> Path:
    """The lock of who may write to the registry, the history and the note."""
    return home() / "registry.lock"


def read_history(model: str | None = None) -> list[Change]:
    """Every change, of one registered model or of all, oldest first; a line that a killed process left torn is none, and so is one that
    is damaged, which is said: moves among those are put back from the registered model's tags (`tag_history`)."""
    return [entry for entry in _read_lines()[0] if model in {None, entry["model"]}]


def is_history_whole() -> bool:
    """Whether every line of the history can be read."""
    return not _read_lines()[1]


def _read_lines() -> tuple[list[Change], int]:
    """The changes, and how many lines are damaged."""
    *lines, torn = read_to_replace(history_file())[0].split(b"\n")
    places = ((line, f"{history_file()}: line {number}") for number, line in enumerate(lines, start=1))
    entries = [_parse_change(line, place) for line, place in places if line.strip()]
    return [*filter(None, entries), *filter(None, [_whole_change(torn)])], entries.count(None)


def _parse_change(line: bytes, place: str) -> Change | None:
    """A change as it was written; None where it is damaged, which is said."""
    try:
        change: Change = parse_record(
            line, _CHANGE, path=place, what_to_do="passed over; correct it or leave it as it is"
        )
    except DamagedRecord as damaged:
        say_once(str(damaged))
        return None
    return change


def restored_move(text: str, *, model: str, number: int) -> Change | None:
    """A move of the champion as the registered model's tag says it in short; None where that is damaged, which is said."""
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    is_move = (
        isinstance(values, dict) and {"from", "to", "run", "date"} <= values.keys() and values.get("action") in MOVES
    )
    move = (values if is_move else {}) | {"model": model, "number": number, "evidence": {}}
    return _parse_change(json.dumps(move).encode("utf-8"), f"model {model!r}: tag of move {number}")


def _whole_change(torn: bytes) -> Change | None:
    """The last change, if all that its line lacks is its end."""
    try:
        return _CHANGE.validate_json(torn)
    except ValueError:
        return None


def append_history(entry: Change) -> None:
    """Add a line to the history, which is never rewritten, but for an object store, which knows whole objects alone.

    Raises:
        InputError: the registry's lease, under which this is done, ran out; nothing is written.
    """
    line = json.dumps(entry, ensure_ascii=False) + "\n"
    while store():
        old, known_by = read_to_replace(history_file())
        with fenced(registry_lock()):
            if replace_unchanged(history_file(), old.decode("utf-8", "surrogateescape") + line, known_by):
                return
    with fenced(registry_lock()), named_in_errors(history_file()), history_file().open("a+b") as file:
        file.seek(0)
        whole, end, torn = file.read().rpartition(b"\n")
        if _whole_change(torn):
            line = "\n" + line
        else:
            file.truncate(len(whole) + len(end))
        file.write(line.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())
    flush(history_file().parent)


def read_moves(model: str) -> list[Change]:
    """Changes of the champion, oldest first, each with its number, from 1."""
    moves = [entry for entry in read_history(model) if entry["action"] in MOVES and {"from", "to"} <= entry.keys()]
    numbered = [cast("Change", {"number": n} | move) for n, move in enumerate(moves, start=1)]
    return sorted(numbered, key=lambda move: move["number"])


def new_entry(model: str, action: str, **values: Any) -> Change:
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return cast("Change", {"at": at, "action": action, "model": model} | values)


def _pending_file() -> Path:
    return home() / "releases.pending.json"


def read_pending(model: str) -> Change | None:
    """The change of a model that was begun and not finished."""
    return _parse_pending(read_to_replace(_pending_file())[0]).get(model)


def write_pending(model: str, entry: Change | None) -> None:
    """Note the change that begins, or that none is under way any more. Only for who holds the registry's lease.

    Raises:
        InputError: that ran out; nothing is written.
    """
    while True:
        content, known_by = read_to_replace(_pending_file())
        others = {name: other for name, other in _parse_pending(content).items() if name != model}
        text = json.dumps(others | ({model: entry} if entry else {}), ensure_ascii=False)
        with fenced(registry_lock()):
            if replace_unchanged(_pending_file(), text, known_by):
                return


def _parse_pending(content: bytes) -> dict[str, Change]:
    if not content:
        return {}
    what_to_do = "it is dropped: what the registry says was done, and is written down as found there"
    try:
        pending: dict[str, Change] = parse_record(content, _PENDING, path=_pending_file(), what_to_do=what_to_do)
    except DamagedRecord as damaged:
        say_once(str(damaged))
        return {}
    return pending
