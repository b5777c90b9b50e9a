"""What several commands take or need: their options, days, a run that has begun, who runs it."""

from __future__ import annotations

import getpass
from datetime import date
from pathlib import Path
from typing import Annotated, Optional

import typer

from smar_model.errors import InputError
from smar_model.lake.interpreter import hand_over
from smar_model.lake.runs import Run, load_run
from smar_model.settings import REPOSITORY

RunOption = Annotated[str, typer.Option("--run", help="Name of a run begun with `smar start`.")]
SettingsOption = Annotated[Path, typer.Option("--settings", help="Settings file, such as configs/sample_shop.yaml.")]
DeploymentOption = Annotated[
    Path, typer.Option("--settings", envvar="SMAR_SETTINGS", help="Settings that name the registry and the model.")
]
DEFAULT_SETTINGS = REPOSITORY / "configs" / "sample_shop.yaml"
SeedOption = Annotated[int, typer.Option(help="Seed of every draw.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ByOption = Annotated[Optional[str], typer.Option(help="Who; default: this machine's user.")]  # noqa: UP045
MinutesOption = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(help="Begin no run that would probably end later; the same command goes on."),
]
FIRST_DAY, LAST_DAY = date(1990, 1, 1), date(2999, 12, 31)


def parse_day(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise InputError(f"date {text!r}: write it as YYYY-MM-DD") from None
    if not FIRST_DAY <= day <= LAST_DAY:
        raise InputError(f"date {text!r}: no day of a click log; take one from {FIRST_DAY} to {LAST_DAY}")
    return day


def begun_run(name: str, step: str) -> Run:
    """The run's record; the process goes on under the interpreter that its settings name for this step."""
    run = load_run(name)
    hand_over(step, run.settings)
    return run


def this_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"
