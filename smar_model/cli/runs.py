"""Commands of one run: its start, its stages, and what is done with what they made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from smar_model.cli.options import (
    DEFAULT_SETTINGS,
    ByOption,
    DeploymentOption,
    RunOption,
    SettingsOption,
    begun_run,
    parse_day,
    this_user,
)
from smar_model.errors import InputError
from smar_model.lake.runs import Run
from smar_model.lake.stage import Stage, mending, run_stage
from smar_model.settings import load_settings
from smar_model.stages import COMPARISON_STAGES, REFRESH_STAGES, STAGES

TORCHRUN = "TORCHELASTIC_RUN_ID"
"""Variable of the environment that torchrun sets for each process it starts."""

app = typer.Typer()


@app.command()
def start(
    settings: SettingsOption,
    run: RunOption,
    day: Annotated[str, typer.Option("--date", help="Last day of the click log to read, YYYY-MM-DD.")],
    window_days: Annotated[Optional[int], typer.Option(help="Days of the log; default: the settings'.")] = None,  # noqa: UP045
    promotion: Annotated[
        Literal["automatic", "ask", "never"],
        typer.Option(
            help="Who lets a version that passed the gate become the champion: nobody else, a person, or nobody."
        ),
    ] = "automatic",
    changes: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", help="NAME=VALUE: a setting of this run alone, as training.seed=1. May be repeated."),
    ] = None,
    note: Annotated[str, typer.Option(help="Why it is started, for the record.")] = "",
    release: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="For a refresh or a rollback, which reads the catalogue and no log: the release that it works on, `champion`, `previous` "
            "(the champion's predecessor), `challenger` (who is being interleaved) or a version's number. Exit code 99 where there is none."
        ),
    ] = None,
) -> None:
    """Begin a run: check the settings, repair what a killed process left, resolve the champion, record it all."""
    from smar_model.release.start import start_run

    start_run(
        settings_path=settings,
        name=run,
        day=parse_day(day),
        window_days=window_days,
        promotion=promotion,
        changes=changes or (),
        note=note,
        release=release,
        steps=[*STAGES, *REFRESH_STAGES, "publish-index", "register", "promote", "rollback", "track"],
    )


def _add_stage_command(stage: Stage) -> None:
    def command(run: RunOption) -> None:
        record = begun_run(run, stage.name)
        if stage.shared and (TORCHRUN in os.environ or stage.name in record.settings.stages.torchrun):
            from smar_model.training.launcher import launch, run_together

            run_together(stage, record) if TORCHRUN in os.environ else launch(stage, record)
        elif TORCHRUN in os.environ:
            raise InputError(f"{stage.name}: runs in one process; begin it without torchrun")
        else:
            run_stage(stage, record)

    app.command(name=stage.name, help=stage.summary)(command)


for _stage in (*STAGES.values(), *REFRESH_STAGES.values()):
    _add_stage_command(_stage)


PartOption = Annotated[int, typer.Option("--part", min=0, help="Number of the part, from 0.")]


def _index_of(run: str) -> tuple[Stage, Run]:
    """The stage that makes the run's index: of its own model, or of the release that it refreshes. Every run knows a release; a refresh has
    embedded its catalogue under it."""
    record = begun_run(run, "index")
    return (REFRESH_STAGES["refresh-index"] if record.find_output("embed-release") else STAGES["index"]), record


@app.command("plan-index")
def plan_index_command(run: RunOption) -> None:
    """Train what all parts of the run's index have in common (index.parts), before they are filled; prints their numbers. Exit code 99 where it
    has no parts."""
    stage, record = _index_of(run)
    from smar_model.retrieval.index_steps import plan

    print(json.dumps(list(range(plan(stage, record)))))


@app.command("fill-index-part")
def fill_index_part_command(run: RunOption, part: PartOption) -> None:
    """Fill one part of the run's index, with its own items alone; any number of parts at a time, on as many machines."""
    stage, record = _index_of(run)
    from smar_model.retrieval.index_steps import fill

    print(f"[{run}] {stage.name}: filled {fill(stage, record, part)}")


@app.command("tune-index-part")
def tune_index_part_command(run: RunOption, part: PartOption) -> None:
    """Find the search parameters of one part, once all are filled. `smar index` then publishes all as one index."""
    stage, record = _index_of(run)
    from smar_model.retrieval.index_steps import tune

    print(f"[{run}] {stage.name}: tuned {tune(stage, record, part)}")


@app.command()
def register(run: RunOption) -> None:
    """Put the run's model, index and report into the registry as one model version."""
    record = begun_run(run, "register")
    from smar_model.release.register import register_run

    mending(record, lambda: register_run(record))


MaybeRunOption = Annotated[Optional[str], typer.Option("--run", help="Name of a run begun with `smar start`.")]  # noqa: UP045
ChallengerOption = Annotated[
    bool,
    typer.Option(
        "--challenger",
        help="In the place of --run: the run of the version that is being interleaved (gate.interleaving). Exit code 99 where none is.",
    ),
]


def _run_or_challenger(run: str | None, challenger: bool, settings: Path) -> str:
    """Name of the run that a command is about."""
    if challenger == (run is not None):
        raise InputError("--run NAME or --challenger: state one of them")
    if run is not None:
        return run
    from smar_model.release.experiment import version_in_experiment

    return version_in_experiment(load_settings(settings))[1]


@app.command()
def promote(
    run: MaybeRunOption = None,
    challenger: ChallengerOption = False,
    settings: DeploymentOption = DEFAULT_SETTINGS,
    approved_by: Annotated[
        str, typer.Option(help="Person who approved it; a run started with --promotion ask waits for one.")
    ] = "",
    rejected_by: Annotated[str, typer.Option(help="Person who rejected it.")] = "",
    comment: Annotated[str, typer.Option(help="Why, in that person's words.")] = "",
) -> None:
    """Make the run's version the champion, if the gate, the run and shoppers who are asked allow it; a rejection is a normal end."""
    record = begun_run(_run_or_challenger(run, challenger, settings), "promote")
    from smar_model.release.promote import promote_run

    mending(record, lambda: promote_run(record, approved_by=approved_by, rejected_by=rejected_by, comment=comment))


@app.command("describe-decision")
def describe_decision_command(
    run: MaybeRunOption = None,
    challenger: ChallengerOption = False,
    settings: DeploymentOption = DEFAULT_SETTINGS,
    if_asked: Annotated[
        bool, typer.Option("--if-asked", help="Exit code 99 where no person's word would change anything.")
    ] = False,
) -> None:
    """Say as Markdown what a person needs who is asked whether the run's version becomes the champion."""
    record = begun_run(_run_or_challenger(run, challenger, settings), "promote")
    from smar_model.release.describe_decision import describe_decision, refuse_idle_question

    if if_asked:
        refuse_idle_question(record)
    print(mending(record, lambda: describe_decision(record)))


@app.command("publish-index")
def publish_index_command(run: RunOption) -> None:
    """Point the release that the run works on at its refreshed index, once that has answered."""
    record = begun_run(run, "publish-index")
    from smar_model.release.publish_index import publish_index

    mending(record, lambda: publish_index(record))


@app.command()
def rollback(
    run: RunOption,
    reason: Annotated[str, typer.Option(help="Why, for the history.")],
    by: ByOption = None,
) -> None:
    """Make the release that the run works on the champion again, after `smar publish-index`."""
    record = begun_run(run, "rollback")
    from smar_model.release.rollback import roll_back

    roll_back(record, reason=reason, by=by or this_user())


@app.command()
def track(run: RunOption) -> None:
    """Show the run and its stages in MLflow; may be repeated at any time."""
    record = begun_run(run, "track")
    from smar_model.release.tracking import track_run

    mending(record, lambda: track_run(record))


@app.command("probe-vision")
def probe_vision_command(
    run: RunOption,
    generic: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of a timm model (config.json, model.safetensors) to compare with."),
    ] = None,
) -> None:
    """Judge the adapted vision encoder by a linear probe for true colour and type; needs a shop with `truth`."""
    record = begun_run(run, "probe-vision")
    from smar_model.evaluation.vision_probe import format_probe, probe_vision

    print(format_probe(probe_vision(record, generic=generic)))
    print(f"Figures: {record.folder / 'vision_probe.json'}")


@app.command("train-oracle")
def train_oracle_command(
    run: RunOption,
    truth: Annotated[str, typer.Option(help="What it is told: `visible` (colour and type) or `all`.")] = "visible",
) -> None:
    """Train a text-only model that is told true attributes, on a run's tables; later runs are judged beside it."""
    record = begun_run(run, "train-oracle")
    from smar_model.evaluation.oracle import train_oracle

    print(f"Oracle: run {train_oracle(record, truth, COMPARISON_STAGES).name}")
