"""`smar`: every stage and every tool by hand. Parsing only; the work is imported when it is called for."""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn

import typer

from smar_model.cli import comparisons, descriptions, encoders, releases, runs, shops
from smar_model.cli.command_span import command_span
from smar_model.cli.mlflow_failures import mlflow_failure
from smar_model.errors import BAD_INPUT, NOTHING_TO_DO, InputError, NoAnswer, NothingToDo, machine_failure
from smar_model.settings import home
from smar_model.small_start import start_small
from smar_model.url_secrets import mask_secrets

ASKS_THE_REGISTRY = ("champion", "export", "search", "serve")
"""Commands that ask the registry or an index and change neither."""

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__.split(":")[0])
for _group in (runs, releases, comparisons, descriptions):
    app.add_typer(_group.app)
app.add_typer(shops.app, name="shop")
app.add_typer(encoders.app, name="encoder")


def main() -> None:
    """Entry point: bad input is one message on standard error and exit code 2; nothing to do is one, too, and 99; a service that does
    not answer, or a machine that refuses (a full disk), is one and 1, which Airflow tries again."""
    # Read when torch is first imported. Threads that spin while they wait make two busy processes many times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if len(sys.argv) > 1 and sys.argv[1] in ASKS_THE_REGISTRY:
        start_small()
    with command_span(sys.argv[1:]):
        _run()


def _run() -> None:
    try:
        app()
    except NothingToDo as nothing:
        _end(f"nothing to do: {nothing}", NOTHING_TO_DO)
    except InputError as error:
        _end(f"error: {error}", BAD_INPUT)
    except NoAnswer as error:
        _end(f"error: {error}", 1)
    except Exception as error:
        if line := machine_failure(error, default_place=str(home())):
            _end(f"error: {line}", 1)
        if found := mlflow_failure(error):
            _end(f"error: {found[0]}", found[1])
        _end(mask_secrets(traceback.format_exc()).rstrip("\n"), 1)


def _end(said: str, code: int) -> NoReturn:
    print(said, file=sys.stderr)
    ended = SystemExit(code)
    ended.add_note(said)
    raise ended
