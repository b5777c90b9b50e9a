"""Commands that describe this machine, the tables and the variants."""

from __future__ import annotations

import sys

import typer

from smar_model.cli.options import DEFAULT_SETTINGS, DeploymentOption
from smar_model.settings import REPOSITORY, load_settings

app = typer.Typer()


@app.command()
def doctor() -> None:
    """Say what this machine lacks (Java, disk, memory, packages, ports …) and how to get it."""
    from smar_model.doctor import examine, report

    sys.exit(report(examine()))


@app.command()
def tables() -> None:
    """Describe every table by its contract, as Markdown; `docs/tables.md` is this text."""
    from smar_model.lake.tables_page import describe_tables

    print(describe_tables(), end="")


@app.command()
def variants(settings: DeploymentOption = DEFAULT_SETTINGS) -> None:
    """Show every variant of the network with its parameters and training FLOPs, as Markdown; `docs/variants.md` is this text."""
    from smar_model.training.variant_costs import variants_page

    source = settings.resolve()
    name = source.relative_to(REPOSITORY) if source.is_relative_to(REPOSITORY) else source
    print(variants_page(load_settings(settings), source=str(name)), end="")
