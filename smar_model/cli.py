"""`smar`: every stage and every tool by hand. Parsing only; the work is imported when it is called for."""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path
from typing import Annotated, Optional

import typer

from smar_model.errors import InputError
from smar_model.lake.stage import Stage, run_stage
from smar_model.stages import STAGES

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__.split(":")[0]
)
shop_app = typer.Typer(no_args_is_help=True, help="Make, import and fill shops.")
app.add_typer(shop_app, name="shop")

RunOption = Annotated[str, typer.Option("--run", help="Name of a run begun with `smar start`.")]
SettingsOption = Annotated[Path, typer.Option("--settings", help="Settings file, such as configs/sample_shop.yaml.")]


def parse_day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InputError(f"date {text!r}: write it as YYYY-MM-DD") from None


@app.command()
def start(
    settings: SettingsOption,
    run: RunOption,
    day: Annotated[str, typer.Option("--date", help="Last day of the click log to read, YYYY-MM-DD.")],
    window_days: Annotated[Optional[int], typer.Option(help="Days of the log; default: the settings'.")] = None,  # noqa: UP045
    promote: Annotated[bool, typer.Option(help="Whether the run may promote.")] = True,
) -> None:
    """Begin a run: check the settings, resolve the champion, record both."""
    from smar_model.release.start import start_run

    start_run(settings_path=settings, name=run, day=parse_day(day), window_days=window_days, promote=promote)


def _add_stage_command(stage: Stage) -> None:
    def command(run: RunOption) -> None:
        from smar_model.lake.runs import load_run

        run_stage(stage, load_run(run))

    app.command(name=stage.name, help=stage.summary)(command)


for _stage in STAGES.values():
    _add_stage_command(_stage)


def main() -> None:
    """Entry point: bad input is one message on standard error and exit code 2."""
    try:
        app()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
