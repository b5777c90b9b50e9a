"""The record of one run: what it was asked, the champion it met, and which outputs its stages took or made.

<home>/runs/<run>/run.json         written once, by `smar start`
<home>/runs/<run>/<stage>.json     the stage's state, and the key of its output

All machines see them (`shared_files.py`).
"""

from __future__ import annotations

import datetime as dt
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from smar_model.errors import InputError, NoAnswer
from smar_model.lake.artifacts import Artifact, find_artifact, load_artifact
from smar_model.lake.process_identity import process_state, this_process
from smar_model.lake.records import OPEN, DamagedRecord, IsoTime, parse_record, say_once
from smar_model.lake.shared_files import (
    create_if_absent,
    folders_in,
    read_bytes,
    read_files,
    replace_file,
)
from smar_model.settings import Settings, home, validate_settings
from smar_model.url_secrets import mask_secrets

Promotion = Literal["automatic", "ask", "never"]
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")


@with_config(OPEN)
class _Release(TypedDict):
    version: NotRequired[str]
    cutoff: NotRequired[IsoTime]
    model_digest: NotRequired[str]
    model_folder: NotRequired[str]


@with_config(OPEN)
class _Base(TypedDict):
    run: str
    cutoff: str
    keys: dict[str, str]


@with_config(OPEN)
class _RunRecord(TypedDict):
    name: str
    date: str
    settings_source: str
    settings: dict[str, Any]
    champion: _Release | None
    promotion: Promotion
    release: NotRequired[_Release | None]
    note: NotRequired[str]
    base: NotRequired[_Base | None]
    warm_start: NotRequired[dict[str, Any] | None]
    mined_from: NotRequired[dict[str, Any] | None]
    oracle: NotRequired[dict[str, Any] | None]
    anchors: NotRequired[dict[str, dict[str, Any]]]


@with_config(OPEN)
class StageState(TypedDict):
    """What stands of a stage in the run's folder; further keys by stage and state."""

    stage: str
    state: str
    at: IsoTime
    key: NotRequired[str]
    output_of: NotRequired[str]
    message: NotRequired[str]
    seconds: NotRequired[float]
    metrics: NotRequired[dict[str, Any]]


_RUN, _STATE = TypeAdapter(_RunRecord), TypeAdapter(StageState)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    name: str
    date: dt.date
    """Last day of the click log that the run reads."""
    settings_source: str
    settings: Settings
    champion: dict[str, Any] | None
    """The champion when the run started, as `smar_model/release/registry.py` describes it: `version`, `cutoff` (ISO
    time), `model_digest` (of its `model` folder), `model_folder` (in the home folder: `release_copies.py`); None: no release."""
    promotion: Promotion
    """Who decides that a version which passed the gate becomes the champion: the gate alone, a person too, or nobody."""
    release: dict[str, Any] | None = None
    """The release whose index the run refreshes, and to which it may roll back, described as the champion is: by default the champion."""
    note: str = ""
    """Why the run was started, by whoever started it."""
    base: dict[str, Any] | None = None
    """The earlier run whose pretraining this one builds on: `run`, `cutoff`, `keys` (stage → key of its output)."""
    warm_start: dict[str, Any] | None = None
    """The release that fine-tuning goes on from where it fits, described as the champion is."""
    mined_from: dict[str, Any] | None = None
    """The release whose index hard negatives are mined from: `run`, `cutoff`, and digest and folder of model and index."""
    oracle: dict[str, Any] | None = None
    """The oracle that evaluate judges beside the model: `run`, `cutoff`, `truth` (visible or all), `model_digest`, `model_folder`."""
    anchors: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Earlier models that the run's must not be worse than, so that small losses cannot add up: `best_release`, `cold_start`, where
    there are (`smar_model/release/starting_points.py`). Each has `version` or None, `run`, `cutoff`, `model_digest`, `model_folder`."""

    earlier_catalogue: dict[str, Any] | None = None
    """The catalogue of the shop's newest run of an earlier day, by which prepare-items tells since when a text has stood: `run`, `key`
    (of the output of prepare-items), `catalogue_digest`. None: the shop has no earlier run."""

    @property
    def days(self) -> list[dt.date]:
        """The window, oldest day first."""
        return [self.date - timedelta(days=n) for n in reversed(range(self.settings.window.days))]

    @property
    def training_days(self) -> list[dt.date]:
        return self.days[: -self.settings.window.evaluation_days]

    @property
    def evaluation_days(self) -> list[dt.date]:
        return self.days[-self.settings.window.evaluation_days :]

    @property
    def cutoff(self) -> datetime:
        """First moment after training: nothing at or after it may be learned from (design, decision 10)."""
        first = self.evaluation_days[0]
        return datetime(first.year, first.month, first.day, tzinfo=UTC)

    def rivals(self) -> dict[str, dict[str, Any]]:
        """The models that this run's must not be worse than: `champion`, `best_release` and `cold_start`, where there are.

        None is twice among them, nor is the very model that this run trained.
        """
        mine = self.find_output("finetune")
        met = {mine.manifest["content"]["model"]} if mine else set()
        rivals = {}
        for name, release in {"champion": self.champion, **self.anchors}.items():
            if release and release["model_digest"] not in met:
                met.add(release["model_digest"])
                rivals[name] = release
        return rivals

    @property
    def folder(self) -> Path:
        return run_folder(self.name)

    def state(self, stage: str) -> dict[str, Any] | None:
        """State of a stage: `state` is running, finished, skipped, failed or killed; None: not begun.

        Raises:
            DamagedRecord: it cannot be read.
        """
        path = self.folder / f"{stage}.json"
        try:
            content = parse_state(read_bytes(path), path)
        except FileNotFoundError:
            return None
        if content["state"] == "running" and process_state(content) == "gone":
            content["state"] = "killed"
        return content

    def write_state(self, stage: str, state: str, **more: Any) -> None:
        content = {
            "stage": stage,
            "state": state,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **this_process(),
            **{name: mask_secrets(value) if isinstance(value, str) else value for name, value in more.items()},
        }
        replace_file(self.folder / f"{stage}.json", json.dumps(content, indent=1, ensure_ascii=False))

    def write_failure(self, stage: str, error: BaseException, *, seconds: float) -> None:
        """Record why a stage failed. Where that cannot be written either, for want of disk, it is said, and the error itself counts."""
        message = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        try:
            self.write_state(stage, "failed", message=message, seconds=round(seconds, 1))
        except (OSError, UnicodeError, NoAnswer) as unwritten:
            print(f"[{self.name}] {stage}: its failure could not be recorded: {unwritten}", file=sys.stderr, flush=True)

    def output(self, stage: str) -> Artifact:
        """The finished output that this run took or made.

        Raises:
            InputError: the stage has not finished in this run.
        """
        found = self.find_output(stage)
        if found is None:
            raise InputError(
                f"run {self.name}: stage {stage!r} has no finished output; run `smar {stage} --run {self.name}`"
            )
        return found

    def find_output(self, stage: str) -> Artifact | None:
        content = self.state(stage)
        if not content or content["state"] != "finished":
            return None
        if "key" not in content:
            path = self.folder / f"{stage}.json"
            raise DamagedRecord(path, "finished, and names no output", _run_again(path))
        return load_artifact(content.get("output_of", stage), content["key"])

    def base_output(self, stage: str) -> Artifact | None:
        """What the run that this one builds on has of a stage; None where it builds on none.

        Raises:
            InputError: it is gone.
        """
        if self.base is None:
            return None
        found = find_artifact(stage, self.base["keys"][stage])
        if found is None:
            raise InputError(
                f"run {self.name}: builds on the pretraining of run {self.base['run']}, whose output of {stage!r} is gone from "
                "the lake; start a new run"
            )
        return found

    def take(self, artifact: Artifact, *, stage: str) -> None:
        """Record a finished output as that of a stage of this run: another run's, or another stage's in its place."""
        self.write_state(stage, "finished", key=artifact.key, output_of=artifact.stage, reused=True)


def run_folder(name: str) -> Path:
    if not RUN_NAME.fullmatch(name):
        raise InputError(f"run name {name!r}: use letters, digits, '.', '_' and '-', at most 120")
    return home() / "runs" / name


def create_run(run: Run) -> Run:
    """Record a run, and return it as it is recorded. A name that exists already keeps its record, champion included, if it asks for the same.

    Raises:
        InputError: the name is taken by a run with another date or other settings.
    """
    content = _portable(asdict(run)) | {"date": str(run.date), "settings": run.settings.model_dump(mode="json")}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    if create_if_absent(run.folder / "run.json", text):
        return _read_run(text.encode("utf-8"), source=run.folder / "run.json")
    old = load_run(run.name)
    if (old.date, old.settings) != (run.date, run.settings):
        raise InputError(f"run {run.name}: exists with another date or other settings; choose another name")
    return old


def _portable(content: dict[str, Any]) -> dict[str, Any]:
    """Folders below the home folder without it: on another machine that is another."""
    made = {}
    for name, value in content.items():
        if isinstance(value, dict):
            value = _portable(value)
        elif name.endswith("folder") and Path(value).is_relative_to(home()):
            value = str(Path(value).relative_to(home()))
        made[name] = value
    return made


def load_run(name: str) -> Run:
    """A run by name.

    Raises:
        InputError: there is none.
    """
    path = run_folder(name) / "run.json"
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such run; begin it with `smar start --run {name} …`") from None
    return _read_run(content, source=path)


def _read_run(record: bytes, *, source: Path) -> Run:
    name = source.parent.name
    what_to_do = f"delete it and begin the run again with `smar start --run {name} …`"
    content = parse_record(record, _RUN, path=source, what_to_do=what_to_do)
    if content["name"] != name:
        raise DamagedRecord(source, f"it is that of run {content['name']!r}", what_to_do)
    try:
        date = dt.date.fromisoformat(content["date"])
    except ValueError as error:
        raise DamagedRecord(source, f"date: {error}", what_to_do) from None
    if unknown := sorted(content.keys() - Run.__dataclass_fields__.keys()):
        raise InputError(f"{source}: written by another version of SMAR, as {unknown[0]!r} is unknown to this one")
    return Run(**content | {"date": date, "settings": validate_settings(content["settings"], source=str(source))})


def parse_state(content: bytes, path: Path) -> dict[str, Any]:
    """What a run's file says of a stage.

    Raises:
        DamagedRecord: it cannot be read.
    """
    state = parse_record(content, _STATE, path=path, what_to_do=_run_again(path))
    if state["stage"] != path.stem:
        raise DamagedRecord(path, f"it is that of {state['stage']!r}", _run_again(path))
    return state


def _run_again(path: Path) -> str:
    return f"do that step again: `smar {path.stem} --run {path.parent.name}`"


def find_runs() -> Iterator[Run]:
    """All runs, by name; without those whose settings this version does not know, and those whose record is damaged, which is said."""
    for path, content in read_files(folder / "run.json" for folder in folders_in(home() / "runs")).items():
        try:
            yield _read_run(content, source=path)
        except DamagedRecord as damaged:
            skip_record(damaged)
        except InputError:
            continue


def skip_record(damaged: InputError) -> None:
    """Go on without another run's record, which is said once where it is damaged."""
    if isinstance(damaged, DamagedRecord):
        say_once(f"passed over: {damaged}")
