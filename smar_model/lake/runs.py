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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BeforeValidator, PlainSerializer, PlainValidator, TypeAdapter, ValidationInfo, with_config
from typing_extensions import TypedDict

from smar_model.errors import InputError, NoAnswer
from smar_model.lake.artifacts import Artifact, find_artifact, load_artifact
from smar_model.lake.earlier_outputs import (
    Base,
    CatalogueOutput,
    EarlierModel,
    NamedEncoder,
    Oracle,
    Release,
    SearchableModel,
)
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
class StageState(TypedDict):
    """What stands of a stage in the run's folder; further keys by stage and state."""

    stage: str
    state: str
    at: IsoTime
    host: NotRequired[str]
    key: NotRequired[str]
    output_of: NotRequired[str]
    reused: NotRequired[bool]
    progress: NotRequired[str]
    message: NotRequired[str]
    seconds: NotRequired[float]
    metrics: NotRequired[dict[str, Any]]
    version: NotRequired[str | None]
    """That the run was registered as."""
    release_digest: NotRequired[str | None]


_STATE = TypeAdapter(StageState)


def _read_settings(content: Any, info: ValidationInfo) -> Settings:
    if not isinstance(content, dict):
        raise ValueError("not an object")
    return validate_settings(content, source=str(info.context))


def _write_settings(settings: Settings) -> dict[str, Any]:
    return settings.model_dump(mode="json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    name: str
    date: dt.date
    """Last day of the click log that the run reads."""
    settings_source: str
    settings: Annotated[Settings, PlainValidator(_read_settings), PlainSerializer(_write_settings)]
    champion: Release | None
    """The champion when the run started; None: no release."""
    promotion: Promotion
    """Who decides that a version which passed the gate becomes the champion: the gate alone, a person too, or nobody."""
    release: Release | None = None
    """The release whose index the run refreshes, and to which it may roll back: by default the champion."""
    note: str = ""
    """Why the run was started, by whoever started it."""
    base: Base | None = None
    """The earlier run whose pretraining this one builds on."""
    warm_start: EarlierModel | None = None
    """The release that fine-tuning goes on from where it fits."""
    mined_from: SearchableModel | None = None
    """The release, or the run, whose index hard negatives are mined from."""
    oracle: Oracle | None = None
    """The oracle that evaluate judges beside the model."""
    anchors: dict[str, EarlierModel] = field(default_factory=dict)
    """Earlier models that the run's must not be worse than, so that small losses cannot add up: `best_release`, `cold_start`, where
    there are (`smar_model/release/starting_points.py`)."""
    earlier_catalogue: CatalogueOutput | None = None
    """That of the shop's newest run of an earlier day, by which prepare-items tells since when a text has stood. None: the shop has no
    earlier run."""
    encoders: dict[Literal["text", "vision"], NamedEncoder] = field(default_factory=dict)
    """The pretrained encoders that the settings name, as they were when the run began."""
    left_out: dict[dt.date, str] = field(default_factory=dict)
    """Days of the window that were not complete when the run began (`shop.complete_day`), and why: no stage reads them."""

    @property
    def window(self) -> list[dt.date]:
        """All its days, oldest day first."""
        return [self.date - timedelta(days=n) for n in reversed(range(self.settings.window.days))]

    @property
    def days(self) -> list[dt.date]:
        """Those of the window that are read."""
        return [day for day in self.window if day not in self.left_out]

    @property
    def training_days(self) -> list[dt.date]:
        return [day for day in self.days if day < self._first_evaluation_day]

    @property
    def evaluation_days(self) -> list[dt.date]:
        return [day for day in self.days if day >= self._first_evaluation_day]

    @property
    def cutoff(self) -> datetime:
        """First moment after training: nothing at or after it may be learned from (design, decision 10)."""
        first = self._first_evaluation_day
        return datetime(first.year, first.month, first.day, tzinfo=UTC)

    @property
    def _first_evaluation_day(self) -> dt.date:
        return self.date - timedelta(days=self.settings.window.evaluation_days - 1)

    def rivals(self) -> dict[str, EarlierModel]:
        """The models that this run's must not be worse than: `champion`, `best_release` and `cold_start`, where there are.

        None is twice among them, nor is the very model that this run trained.
        """
        mine = self.find_output("finetune")
        met = {mine.manifest["content"]["model"]} if mine else set()
        return distinct({"champion": self.champion, **self.anchors}, met=met)

    @property
    def folder(self) -> Path:
        return run_folder(self.name)

    def state(self, stage: str) -> StageState | None:
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
        write_state(self.name, stage, state, **more)

    def write_failure(self, stage: str, error: BaseException, *, seconds: float, **more: Any) -> None:
        write_failure(self.name, stage, error, seconds=seconds, **more)

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
        found = find_artifact(stage, self.base.keys[stage])
        if found is None:
            raise InputError(
                f"run {self.name}: builds on the pretraining of run {self.base.run}, whose output of {stage!r} is gone from "
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


def write_state(run: str, stage: str, state: str, **more: Any) -> None:
    content = {
        "stage": stage,
        "state": state,
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        **this_process(),
        **{name: mask_secrets(value) if isinstance(value, str) else value for name, value in more.items()},
    }
    replace_file(run_folder(run) / f"{stage}.json", json.dumps(content, indent=1, ensure_ascii=False))


def write_failure(run: str, stage: str, error: BaseException, *, seconds: float, **more: Any) -> None:
    """Record why a stage failed. Where that cannot be written either, for want of disk, it is said, and the error itself counts."""
    message = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    try:
        write_state(run, stage, "failed", message=message, seconds=round(seconds, 1), **more)
    except (OSError, UnicodeError, NoAnswer) as unwritten:
        print(f"[{run}] {stage}: its failure could not be recorded: {unwritten}", file=sys.stderr, flush=True)


def distinct(models: Mapping[str, EarlierModel | None], *, met: set[str]) -> dict[str, EarlierModel]:
    """Those that there are, by name, each model once and none of those that have been met, by their digests."""
    found: dict[str, EarlierModel] = {}
    for name, model in models.items():
        if model and model.model_digest not in met | {other.model_digest for other in found.values()}:
            found[name] = model
    return found


def _refuse_unknown(content: Any, info: ValidationInfo) -> Any:
    if isinstance(content, dict) and (unknown := sorted(content.keys() - Run.__dataclass_fields__.keys())):
        raise InputError(
            f"{info.context}: written by another version of SMAR, as {unknown[0]!r} is unknown to this one"
        )
    return content


_RUN: TypeAdapter[Run] = TypeAdapter(Annotated[Run, BeforeValidator(_refuse_unknown)])


def create_run(run: Run) -> Run:
    """Record a run, and return it as it is recorded. A name that exists already keeps its record, champion included, if it asks for the same.

    Raises:
        InputError: the name is taken by a run with another date or other settings.
    """
    text = json.dumps(_RUN.dump_python(run, mode="json"), indent=1, ensure_ascii=False)
    if create_if_absent(run.folder / "run.json", text):
        return _read_run(text.encode("utf-8"), source=run.folder / "run.json")
    old = load_run(run.name)
    if (old.date, old.settings) != (run.date, run.settings):
        raise InputError(f"run {run.name}: exists with another date or other settings; choose another name")
    return old


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
    run: Run = parse_record(record, _RUN, path=source, what_to_do=what_to_do)
    if run.name != name:
        raise DamagedRecord(source, f"it is that of run {run.name!r}", what_to_do)
    return run


def parse_state(content: bytes, path: Path) -> StageState:
    """What a run's file says of a stage.

    Raises:
        DamagedRecord: it cannot be read.
    """
    state: StageState = parse_record(content, _STATE, path=path, what_to_do=_run_again(path))
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
