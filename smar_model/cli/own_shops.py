"""`smar shop check` and `smar shop adopt`: a shop of one's own, from its files to its settings."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from smar_model.errors import BAD_INPUT
from smar_model.settings import REPOSITORY, load_settings

if TYPE_CHECKING:
    from smar_model.delivery.check_records import ShopCheck
    from smar_model.settings import Settings

FolderArgument = Annotated[
    str,
    typer.Argument(
        help="The shop's folder, or its URL in an object store, as the README's 'Your own shop' lays it out."
    ),
]
CheckSettingsOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--settings", help="Settings whose bounds, window, time zone and pictures hold; default: none are written yet."
    ),
]
FetchOption = Annotated[bool, typer.Option("--fetch", help="Fetch a sample of the pictures that are named by URL.")]


def check_command(folder: FolderArgument, settings: CheckSettingsOption = None, fetch: FetchOption = False) -> None:
    """Tell all that is wrong with a shop's files at once, then figures and what will end in quarantine; exit code 2 if there are faults."""
    from smar_model.delivery.check_report import render

    check = run_check(folder, settings=load_settings(settings) if settings else None, fetch=fetch)
    print(render(check))
    if not check.passed:
        raise typer.Exit(BAD_INPUT)


def adopt_command(
    folder: FolderArgument,
    name: Annotated[
        str, typer.Option("--name", help="Of the settings file, configs/NAME.yaml, and of the model in the registry.")
    ],
    configs: Annotated[Path, typer.Option(help="Folder of the settings file.")] = REPOSITORY / "configs",
) -> None:
    """Check a shop and write its settings, with a comment on each line that says why; a shop with faults is refused."""
    from smar_model.shop.adoption import adopt, warn_of_scripts

    check = run_check(folder, settings=None)
    path = adopt(check, name=name, folder=folder, configs=configs)
    print(path.read_text(encoding="utf-8"))
    shown = path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path
    unread = warn_of_scripts(check, load_settings(path))
    for warning in [*check.warnings, *([unread] if unread else [])]:
        print(f"To look at: {warning}")
    print(
        f"{shown}: written. Go over visual_departments, then:\n\n    make retrain SETTINGS={shown} DATE={check.window[-1]}"
    )


def run_check(folder: str, *, settings: Settings | None, fetch: bool = False) -> ShopCheck:
    """The check of a folder, its progress on standard error."""
    from smar_model.data.query_text import normalise_query, visible_text
    from smar_model.delivery.check_records import CheckBounds
    from smar_model.delivery.shop_check import check_shop
    from smar_model.delivery.shop_figures import TextForms
    from smar_model.delivery.shop_inputs import ShopInputs
    from smar_model.lake.object_paths import place_of

    root, bounds = place_of(folder), CheckBounds(fetch=fetch, today=datetime.now(UTC).date())
    shop = ShopInputs(root)
    if settings:
        shop = ShopInputs(root, settings.shop.pictures, settings.shop.time_zone, settings.shop.complete_day)
        bounds = CheckBounds(
            clicks=settings.clicks,
            checks=settings.checks,
            pictures=settings.pictures,
            window_days=settings.window.days,
            evaluation_days=settings.window.evaluation_days,
            fetch=fetch,
            today=bounds.today,
        )
    forms = TextForms(normalise=normalise_query, visible=visible_text)
    return check_shop(shop, bounds, forms, report=lambda line: print(line, file=sys.stderr, flush=True))
