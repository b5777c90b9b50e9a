"""`smar shop`: commands that make, check and fill shops."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from smar_model.cli import imports
from smar_model.cli.options import SeedOption, SettingsOption, parse_day
from smar_model.errors import InputError
from smar_model.settings import load_settings

app = typer.Typer(no_args_is_help=True, help="Make, import and fill shops.")
app.add_typer(imports.app, name="import")


@app.command("open")
def open_shop_command(
    settings: SettingsOption,
    day: Annotated[str, typer.Option("--date", help="Last day of the window, YYYY-MM-DD.")],
    window_days: Annotated[Optional[int], typer.Option(min=1, help="Days; default: the settings'.")] = None,  # noqa: UP045
) -> None:
    """Check an own shop; make or complete a simulated one, so that a run up to this day finds all it needs."""
    from smar_model.shop.open_shop import open_shop

    opened = open_shop(load_settings(settings), day=parse_day(day), window_days=window_days)
    print(f"{opened.root}: open, {opened.days[0]} to {opened.days[-1]}")


@app.command("make")
def make_shop_command(
    settings: SettingsOption,
    to: Annotated[Optional[Path], typer.Option(help="Root of a shop of any size, made on Spark.")] = None,  # noqa: UP045
    items: Annotated[Optional[int], typer.Option(min=12, help="With --to: size of its catalogue.")] = None,  # noqa: UP045
    days: Annotated[Optional[int], typer.Option(min=1, help="With --to: days of its click log.")] = None,  # noqa: UP045
    requests_per_day: Annotated[int, typer.Option(min=1, help="With --to: searches, about 13 events each.")] = 25_000,
    day: Annotated[Optional[str], typer.Option("--date", help="With --to: last day of its log, YYYY-MM-DD.")] = None,  # noqa: UP045
    seed: SeedOption = 0,
    pictures: Annotated[bool, typer.Option(help="With --to: draw a picture for each item; slow.")] = False,
) -> None:
    """Make the catalogue of the settings' simulated shop; or, with --to, a shop of any size for measuring and rehearsals."""
    loaded = load_settings(settings)
    if to is None and items is None and days is None and day is None:
        from smar_model.shop.open_shop import make_shop

        made = make_shop(loaded)
        print(f"{loaded.shop_root}: {'made' if made else 'there already, made from these settings'}")
        return
    if to is None or items is None or days is None or day is None:
        raise InputError("--to, --items, --days and --date go together: a shop of any size needs all four")
    from jobs.make_shop import Size
    from jobs.make_shop import make_shop as make_large_shop

    size = Size(items=items, days=days, requests_per_day=requests_per_day, seed=seed, pictures=pictures)
    counts = make_large_shop(to, size, last_day=parse_day(day), spark=loaded.spark)
    print(f"{to}: {counts['items']:,} items, {counts['requests']:,} requests, {counts['events']:,} events up to {day}")


@app.command("log")
def log_day_command(
    settings: SettingsOption, day: Annotated[str, typer.Option("--date", help="Day to write, YYYY-MM-DD.")]
) -> None:
    """Let simulated shoppers write one day of the click log of a shop whose true attributes are known."""
    from smar_model.shop.open_shop import log_day

    counts = log_day(load_settings(settings), day=parse_day(day))
    print(f"{day}: {counts['requests']:,} requests, {counts['events']:,} events")
