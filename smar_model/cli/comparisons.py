"""Commands that train and judge many models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from smar_model.cli.options import MinutesOption, parse_day
from smar_model.stages import COMPARISON_STAGES

app = typer.Typer()


@app.command()
def compare(
    settings: Annotated[Path, typer.Option(help="Comparison, such as configs/compare_real_products.yaml.")],
    only: Annotated[Optional[list[str]], typer.Option(help="Name of a row; may be repeated.")] = None,  # noqa: UP045
    seeds: Annotated[Optional[list[int]], typer.Option(help="One of its seeds; may be repeated.")] = None,  # noqa: UP045
    minutes: MinutesOption = None,
    page_only: Annotated[bool, typer.Option("--page-only", help="Measure nothing.")] = False,
    day: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--date", help="Last day of the click log, YYYY-MM-DD; default: the comparison's."),
    ] = None,
    list_only: Annotated[
        bool, typer.Option("--list", help="Print row and seed of what is missing as JSON, and do nothing else.")
    ] = False,
) -> None:
    """Train and judge the rows of a comparison that are not measured yet; write its page from all that are."""
    from smar_model.evaluation.compare import measure_missing, missing_rows
    from smar_model.evaluation.comparison import load_bench
    from smar_model.evaluation.quality_page import write_page

    bench = load_bench(settings, COMPARISON_STAGES, day=parse_day(day) if day else None)
    if list_only:
        print(json.dumps(missing_rows(bench, only=only or (), seeds=seeds or ())))
        return
    try:
        if not page_only:
            measure_missing(bench, only=only or (), seeds=seeds or (), minutes=minutes)
    finally:
        print(
            f"Page: {write_page(bench, command=f'smar compare --settings {settings}' + (f' --date {day}' if day else ''))}"
        )


@app.command()
def sweep(
    settings: Annotated[Path, typer.Option(help="Sweep, such as configs/sweep_real_products.yaml.")],
    minutes: MinutesOption = None,
) -> None:
    """Grid of pretraining's α, β, γ: measure the points that are missing, draw those that are there."""
    from smar_model.evaluation.sweep import sweep as run_sweep

    print(f"Drawing: {run_sweep(settings, stages=COMPARISON_STAGES, minutes=minutes)}")
