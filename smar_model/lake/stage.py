"""Running a stage: look for a finished output under its key, else do the work in private and publish it."""

from __future__ import annotations

import importlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar

from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact, DamagedOutput, find_whole_artifact, set_aside
from smar_model.lake.digests import digest_json
from smar_model.lake.encoder_store import EncoderKind, encoder_folder, recorded_encoder
from smar_model.lake.publishing import Attempt
from smar_model.lake.resource_use import recorded_resources
from smar_model.lake.runs import Run, find_runs, load_run, skip_record
from smar_model.lake.shared_files import share_files
from smar_model.lake.stage_key import KeyParts, digest_making, key_parts
from smar_model.lake.stage_lock import one_at_a_time
from smar_model.settings import Settings

TABLE_OF_STAGES = "smar_model.stages"
"""Imported only where a stage must be found by its name, as a stage's work is."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One box of the pipeline.

    Its key, under which a finished output is found again, is made of its code and the locked versions of what that imports
    (`stage_code.py`), the contents of its inputs, the settings and pretrained encoders it reads, and the run's days where `dated`.
    """

    name: str
    summary: str
    work: str
    """`module:function`, imported only when there is work; takes a StageContext, returns metrics."""
    inputs: tuple[str, ...] = ()
    """Stages of the same run whose outputs it reads."""
    optional_inputs: tuple[str, ...] = ()
    """Likewise, but the stage goes on without those that have not finished."""
    raw: tuple[str, ...] = ()
    """Files of the shop that it reads: items, pictures, click_log, judgments_and_truth."""
    settings: tuple[str, ...] = ()
    dated: bool = True
    mended: str | None = None
    """`module:function`, which takes a finished output and a run: whether it may lack something that could not be had when it was made
    and can be by now. Then another one is made, under the next key of its line."""
    offers: bool = False
    """Whether it reads prices and stock (table `offers` of prepare-items); a stage that does not has the same key whatever these are."""
    rivals: tuple[str, ...] = ()
    """Which of the models that the run's is compared with (`Run.rivals`) are inputs, where there are."""
    release: Literal["warm_start", "mined_from", "oracle", "release", "earlier_catalogue"] | None = None
    """Field of the run with the release, or the earlier run's output, that it reads, where there is one."""
    base: Literal["taken", "read"] | None = None
    """What a run that builds on an earlier one (`Run.base`) does with that one's output of this stage: it takes it for its own,
    or reads it, as the input `base`."""
    encoders: tuple[EncoderKind, ...] = ()
    """Which of the pretrained encoders that settings name it reads; `StageContext.encoder` gives no other."""
    shared: bool = False
    """Whether several processes can do its work together (`smar_model/training/launcher.py`)."""


@dataclass(slots=True, kw_only=True)
class StageContext:
    stage: Stage
    run: Run
    inputs: dict[str, Artifact]
    folder: Path
    key: str
    """Of the output that is being made."""
    made_by: str = ""
    """Digest of the code, the locked versions, the settings that it reads and the shop's place: an earlier output of the same
    stage with the same digest holds what this one would make of the same inputs."""
    report: Callable[[str], None] = field(default=lambda message: None)
    """Called with a line of progress for people."""
    attempt: Attempt | None = None
    """That publishes what is written; None: nothing of this process's is published."""

    @property
    def settings(self) -> Settings:
        return self.run.settings

    @property
    def shop(self) -> ShopInputs:
        return ShopInputs.of(self.settings)

    def input(self, stage: str) -> Artifact:
        return self.inputs[stage]

    def table(self, stage: str, table: str) -> list[Path]:
        """Parquet files of an input's table."""
        return self.inputs[stage].files(table)

    def encoder(self, kind: EncoderKind) -> Path | None:
        """Folder of the pretrained encoder that settings name for text or pictures (`encoder_store.py` says what lies in it), verified;
        None: they name none.

        Raises:
            InputError: it is gone, damaged, or another one than the run met when it began.
        """
        assert kind in self.stage.encoders, f"{self.stage.name} does not declare that it reads the {kind} encoder"
        recorded = recorded_encoder(self.run, kind)
        return encoder_folder(recorded, kind, run=self.run.name) if recorded else None

    def output(self, name: str) -> Path:
        """Folder for a table, or path of a file, in this attempt's private folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def run_stage(stage: Stage, run: Run, *, announce: Callable[[str | None], object] | None = None) -> Artifact:
    """Run a stage for a run, or take the finished output that has its key.

    Where another process is at it already (its scheduler was killed, not it), this one waits and takes what that one has made. An output
    that is damaged, its own or an input, is named, set aside and made again.

    Args:
        announce: told the key when the work begins, None where there is none to do; for processes that share it. They cannot begin anew
            together, so a damaged input ends them (`verify_inputs` before they start).

    Raises:
        InputError: an input is missing or bad, or is damaged and cannot be made again here; nothing has been published.
    """

    def once() -> Artifact:
        with one_at_a_time(stage.name, run):
            return _run_stage(stage, run, announce)

    return once() if announce else mending(run, once)


def verify_inputs(stage: Stage, run: Run) -> None:
    """Verify a stage's inputs, and make those again that are damaged.

    Raises:
        InputError: one is missing, or is damaged and cannot be made again here.
    """

    def once() -> None:
        for artifact in stage_inputs(stage, run).values():
            artifact.verify_files()

    mending(run, once)


def mending(run: Run, work: Callable[[], T]) -> T:
    """Do work of a run that reads outputs; where one is damaged, make that again and do the work anew.

    Raises:
        InputError: it cannot be made again here, or is damaged once more.
    """
    met: set[tuple[str, str]] = set()
    while True:
        try:
            return work()
        except DamagedOutput as damage:
            output = damage.artifact.stage, damage.artifact.key
            if output in met:
                raise
            met.add(output)
            _make_again(damage, run)


def _make_again(damage: DamagedOutput, run: Run) -> None:
    """Set a damaged output aside, and let a run that has it make it again, in a process of its own: under the interpreter of that stage.

    One that no stage makes, such as a checkpoint, is only set aside.
    """
    damaged = damage.artifact
    table = importlib.import_module(TABLE_OF_STAGES)
    stage: Stage | None = (table.STAGES | table.REFRESH_STAGES).get(damaged.stage)
    if stage is None and damaged.stage not in table.COMPARISON_STAGES:
        set_aside(damage, "the work begins again without it")
        return
    for maker in _runs_with(damaged, stage, run) if stage else ():
        command = ["smar", damaged.stage, "--run", maker.name]
        print(f"[{run.name}] an input is damaged: {' '.join(command)} makes it again", file=sys.stderr, flush=True)
        if subprocess.run([sys.executable, "-m", "smar_model.cli", *command[1:]], check=False).returncode:
            raise InputError(
                f"{damage.problem}, and it could not be made again here; do so with `{' '.join(command)}`, then do this step again"
            ) from None
        return
    set_aside(damage, "nothing here makes it again as it was")
    raise InputError(
        f"{damage.problem}, and no run makes it again as it was, as the code or what the shop delivered has changed since; "
        f"run `smar {damaged.stage} --run {run.name}` and the stages after it, or start a new run"
    ) from None


def _runs_with(damaged: Artifact, stage: Stage, run: Run) -> Iterator[Run]:
    """Runs for which the stage would make this very output, those at hand first."""
    at_hand = [run]
    with suppress(InputError):  # its record may be damaged
        at_hand += [load_run(run.base.run)] if run.base else []
    for maker in chain(at_hand, find_runs()):
        try:
            state = maker.state(stage.name)
        except InputError as damaged_state:
            skip_record(damaged_state)
            continue
        if not state or (state.get("key"), state.get("output_of", stage.name)) != (damaged.key, stage.name):
            continue
        if maker.base and stage.base == "taken":
            continue
        with suppress(InputError):  # what it was made of is gone
            if mending(maker, partial(_key, stage, maker)) == damaged.key:
                yield maker


def _key(stage: Stage, run: Run) -> str:
    return digest_json(key_parts(stage, run, stage_inputs(stage, run)))


def _run_stage(stage: Stage, run: Run, announce: Callable[[str | None], object] | None) -> Artifact:
    run.write_state(stage.name, "running", progress="looking for a finished output")
    started, parts = time.monotonic(), None
    try:
        artifact = run.base_output(stage.name) if stage.base == "taken" else None
        taken_from = run.base.run if run.base and artifact else None
        if artifact:
            key = artifact.key
            artifact.verify_files(fetch=False)
        else:
            inputs = stage_inputs(stage, run)
            parts = key_parts(stage, run, inputs)
            run.write_state(stage.name, "running", progress="looking for a finished output", made_of=parts)
            key = digest_json(parts)
            artifact = find_whole_artifact(stage.name, key)
            while artifact and stage.mended and _function(stage.mended)(artifact, run):
                key = digest_json([key, "mended"])
                artifact = find_whole_artifact(stage.name, key)
        reused = artifact is not None
        if announce:
            announce(None if reused else key)
        artifact = artifact or _make(stage, run, inputs, key, parts)
    except BaseException as error:
        run.write_failure(stage.name, error, seconds=time.monotonic() - started, made_of=parts)
        raise
    finally:
        share_files(run.folder.glob(f"{stage.name}.*.jsonl"))
    seconds = round(time.monotonic() - started, 1)
    run.write_state(
        stage.name,
        "finished",
        key=key,
        reused=reused,
        seconds=seconds,
        metrics=artifact.metrics | ({"taken_from": taken_from} if taken_from else {}),
        folder=str(artifact.place),
        made_of=parts,
    )
    how = f"taken from run {taken_from}" if taken_from else "reused" if reused else "finished"
    print(f"[{run.name}] {stage.name}: {how} in {seconds:.1f} s", flush=True)
    sys.stdout.flush()
    return artifact


def _make(stage: Stage, run: Run, inputs: dict[str, Artifact], key: str, made_of: KeyParts | None) -> Artifact:
    """Do the work in a folder of its own and publish it. A failure leaves nothing of that."""
    attempt = Attempt(stage.name, key)

    def report(message: str) -> None:
        print(f"[{run.name}] {stage.name}: {message}", flush=True)
        run.write_state(stage.name, "running", progress=message, made_of=made_of)

    try:
        context = StageContext(
            stage=stage,
            run=run,
            inputs=inputs,
            folder=attempt.folder,
            key=key,
            made_by=digest_making(stage, run),
            report=report,
            attempt=attempt,
        )
        report("working")
        with recorded_resources(resources_file(run, stage.name)):
            metrics = _work(context)
        return attempt.publish(
            metrics=metrics,
            inputs={name: i.digest for name, i in inputs.items()},
            settings={s: run.settings.section(s) for s in stage.settings},
            made_by=context.made_by,
        )
    except BaseException:
        attempt.discard()
        raise


def resources_file(run: Run, stage: str) -> Path:
    """What the stage took of the machine when this run did its work (`resource_use.py`); it is not there where it reused a result."""
    return run.folder / f"{stage}.resources.jsonl"


def share_stage(stage: Stage, run: Run, key: str) -> None:
    """Do a stage's work in a further process, beside the one that runs the stage and publishes: what this one writes is discarded.

    Raises:
        InputError: this process would make an output of another key.
    """
    inputs = stage_inputs(stage, run)
    if digest_json(key_parts(stage, run, inputs)) != key:
        raise InputError(
            f"{stage.name}: a process on {platform.node()} has other code, settings or inputs than the first process; give all "
            "of them the same checkout, and the same SMAR_HOME or SMAR_STORE"
        )
    attempt = Attempt(stage.name, key)
    try:
        made_by = digest_making(stage, run)
        _work(StageContext(stage=stage, run=run, inputs=inputs, folder=attempt.folder, key=key, made_by=made_by))
    finally:
        attempt.discard()


def step_context(stage: Stage, run: Run) -> StageContext:
    """For a step of a stage's work whose result is published beside the stage, before that itself runs: with its inputs and the key of the
    output that the step is for. Nothing is written into its folder; each step has one of its own.

    Raises:
        InputError: an input is missing.
    """
    inputs = stage_inputs(stage, run)
    key = digest_json(key_parts(stage, run, inputs))

    def report(message: str) -> None:
        print(f"[{run.name}] {stage.name}: {message}", flush=True)

    return StageContext(
        stage=stage,
        run=run,
        inputs=inputs,
        folder=run.folder,
        key=key,
        made_by=digest_making(stage, run),
        report=report,
    )


def stage_inputs(stage: Stage, run: Run) -> dict[str, Artifact]:
    """Outputs of the run that a stage reads.

    Raises:
        InputError: one that it needs has not finished, or is gone.
    """
    inputs = {name: run.output(name) for name in stage.inputs}
    inputs |= {name: found for name in stage.optional_inputs if (found := run.find_output(name))}
    base = run.base_output(stage.name) if stage.base == "read" else None
    return inputs | ({"base": base} if base else {})


def _work(context: StageContext) -> dict[str, Any]:
    return _function(context.stage.work)(context)


def _function(name: str) -> Callable[..., Any]:
    module, function = name.split(":")
    return getattr(importlib.import_module(module), function)
