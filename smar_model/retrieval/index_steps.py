"""The steps of an index in parts as commands: `smar plan-index`, `fill-index-part`, `tune-index-part`, each wherever there is room for it."""

from __future__ import annotations

from collections.abc import Callable

import faiss

from smar_model.errors import InputError, NothingToDo
from smar_model.lake.artifacts import Artifact, find_artifact
from smar_model.lake.runs import Run
from smar_model.lake.stage import Stage, StageContext, mending, step_context
from smar_model.retrieval.index_parts import (
    EMBEDDINGS,
    PLAN,
    Plan,
    do_step,
    fill_part,
    filled,
    find_step,
    is_parted,
    tune_part,
    tuned,
)


def plan(stage: Stage, run: Run) -> int:
    """Plan the parts of the run's index; returns how many there are.

    Raises:
        NothingToDo: it is not cut; then the stage alone makes it.
    """

    def work() -> int:
        context = step_context(stage, run)
        if not is_parted(context):
            raise NothingToDo("the index is one file (index.parts), which the stage makes alone")
        if done := find_artifact(stage.name, context.key):
            return len([name for name in done.manifest["files"] if name.endswith(".faiss")])
        from smar_model.retrieval.index import plan_parts  # which needs PyTorch

        return int(do_step(context, PLAN, lambda folder: plan_parts(context, folder)).metrics["parts"])

    return mending(run, work)


def fill(stage: Stage, run: Run, part: int) -> str:
    """Fill a part that has been planned; returns what was done, in one line.

    Raises:
        InputError: the parts are not planned yet, or there is no such part.
    """

    def work(context: StageContext, planned: Artifact) -> Artifact:
        embed = context.input(EMBEDDINGS[stage.name])
        return do_step(context, filled(part), lambda folder: fill_part(folder, embed, planned, part))

    return _do(stage, run, part, work, lambda made: f"{int(made['items']):,} items")


def tune(stage: Stage, run: Run, part: int) -> str:
    """Tune a part once all are filled; returns what was done, in one line.

    Raises:
        InputError: a part is not filled yet, or there is no such part.
    """

    def work(context: StageContext, planned: Artifact) -> Artifact:
        embed = context.input(EMBEDDINGS[stage.name])
        fills = [
            _required(
                find_step(context, filled(n)),
                f"part {n} is not filled",
                f"smar fill-index-part --run {run.name} --part {n}",
            )
            for n in range(len(Plan.read(planned).cuts))
        ]
        return do_step(
            context,
            tuned(part),
            lambda folder: tune_part(folder, embed, planned, fills, part, floor=run.settings.index.minimum_recall),
        )

    return _do(stage, run, part, work, lambda made: made["search_parameters"] or "exact search")


def _do(
    stage: Stage,
    run: Run,
    part: int,
    work: Callable[[StageContext, Artifact], Artifact],
    describe: Callable[[dict[str, str]], str],
) -> str:
    faiss.omp_set_num_threads(run.settings.training.threads)

    def once() -> str:
        context = step_context(stage, run)
        if find_artifact(stage.name, context.key):
            return "the whole index is finished"
        planned = _required(find_step(context, PLAN), "the index is not planned", f"smar plan-index --run {run.name}")
        if not 0 <= part < (parts := len(Plan.read(planned).cuts)):
            raise InputError(f"{stage.name}: has {parts} parts, from 0, so no part {part}; see index.parts")
        return describe(work(context, planned).metrics)

    return f"part {part}: {mending(run, once)}"


def _required(step: Artifact | None, what: str, command: str) -> Artifact:
    if step is None:
        raise InputError(f"{what}; run `{command}` first")
    return step
