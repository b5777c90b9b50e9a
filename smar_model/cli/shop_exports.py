"""`smar shop import ubi | ga4 | merchant | shopify`: what a shop's own systems export."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

if TYPE_CHECKING:
    from smar_model.shop.shop_writer import ShopWriter

FilesArgument = Annotated[list[Path], typer.Argument(help="Exported files, packed or not, or folders of them.")]
ToOption = Annotated[Path, typer.Option("--to", help="Root of the shop, made where it is missing.")]
ReplaceOption = Annotated[
    bool,
    typer.Option(
        "--replace", help="Replace even what another source brought, and days or a catalogue by far fewer rows."
    ),
]
PatternOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Regular expression with one group: what of the tracker's item id is the shop's."),
]


def _fill(
    to: Path, source: str, add_rows: Callable[[ShopWriter], None], *, replaces: Collection[str], replace: bool
) -> None:
    from smar_model.shop.shop_writer import import_into

    with import_into(to, source, replaces=replaces, own=True, replace_others=replace, may_shrink=False) as writer:
        add_rows(writer)
    print(writer.summary())


def import_ubi_command(
    files: FilesArgument,
    to: ToOption,
    actions: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="YAML file of further actions, each a line such as `pdp_open: click`."),
    ] = None,
    positions_from: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=0, max=1, help="The place that is the top; default: found for each application."),
    ] = None,
    shown: Annotated[
        Literal["auto", "events", "hits"],
        typer.Option(help="What was shown: impressions, else the queries' lists (auto); or one of the two alone."),
    ] = "auto",
    id_field: Annotated[
        Literal["object_id", "internal_id"], typer.Option(help="Which of an event's ids is the item's.")
    ] = "object_id",
    item_id_pattern: PatternOption = None,
    replace: ReplaceOption = False,
) -> None:
    """User Behavior Insights (UBI): queries and events as JSON lines, plain or in bulk form."""
    from smar_model.shop.importers import ubi
    from smar_model.shop.importers.event_fields import ItemIdPattern
    from smar_model.shop.importers.ubi_records import load_actions

    options = ubi.UbiOptions(
        actions=load_actions(actions),
        item_ids=ItemIdPattern(item_id_pattern),
        id_field=id_field,
        positions_from=positions_from,
        shown=shown,
    )
    _fill(to, ubi.SOURCE, lambda writer: ubi.import_ubi(files, writer, options), replaces=(), replace=replace)


def import_ga4_command(
    files: FilesArgument,
    to: ToOption,
    positions_from: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=0, max=1, help="The `item_list_index` of the top; default: found, by the lowest there is."),
    ] = None,
    search_lists: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Regular expression of the item_list_name (or …_id) of search results; default: 'search' if any has it."
        ),
    ] = None,
    view_item: Annotated[
        Literal["leave-out", "click"],
        typer.Option(help="Whether a look at the page of a product that a search has shown is a click."),
    ] = "leave-out",
    item_id_pattern: PatternOption = None,
    replace: ReplaceOption = False,
) -> None:
    """GA4's BigQuery export: the events_… tables as Parquet or JSON lines; whole days."""
    from smar_model.shop.importers import ga4
    from smar_model.shop.importers.event_fields import ItemIdPattern

    options = ga4.Ga4Options(
        item_ids=ItemIdPattern(item_id_pattern),
        search_lists=ga4.search_list_pattern(search_lists),
        positions_from=positions_from,
        views_are_clicks=view_item == "click",
    )
    _fill(to, ga4.SOURCE, lambda writer: ga4.import_ga4(files, writer, options), replaces=(), replace=replace)


VariantsOption = Annotated[
    Literal["together", "apart"], typer.Option(help="Variants of a product as one item, or as an item each.")
]
PicturesOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="Folder or zip on this machine: a picture is taken from there by its file name, if it is there."),
]


def import_merchant_command(
    files: FilesArgument,
    to: ToOption,
    variants: VariantsOption = "together",
    pictures: PicturesOption = None,
    replace: ReplaceOption = False,
) -> None:
    """Google Merchant feeds: RSS 2.0, Atom, TSV or CSV; all files together are the catalogue."""
    from smar_model.shop.importers import merchant

    add_rows = partial(merchant.import_merchant, files, variants=variants, pictures=pictures)
    _fill(to, merchant.SOURCE, add_rows, replaces=["items"], replace=replace)


def import_shopify_command(
    files: FilesArgument,
    to: ToOption,
    variants: VariantsOption = "together",
    all_products: Annotated[
        bool, typer.Option("--all-products", help="Also drafts, archived and unpublished products.")
    ] = False,
    pictures: PicturesOption = None,
    replace: ReplaceOption = False,
) -> None:
    """Shopify's product export (CSV): all files together are the catalogue."""
    from smar_model.shop.importers import shopify

    add_rows = partial(shopify.import_shopify, files, variants=variants, all_products=all_products, pictures=pictures)
    _fill(to, shopify.SOURCE, add_rows, replaces=["items"], replace=replace)


def add_commands(app: typer.Typer) -> None:
    app.command("ubi")(import_ubi_command)
    app.command("ga4")(import_ga4_command)
    app.command("merchant")(import_merchant_command)
    app.command("shopify")(import_shopify_command)
