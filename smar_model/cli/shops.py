"""`smar shop`: commands that make, check and fill shops."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from smar_model.cli import own_shops, shop_exports
from smar_model.cli.options import SeedOption, SettingsOption, parse_day
from smar_model.errors import InputError
from smar_model.settings import load_settings

if TYPE_CHECKING:
    from smar_model.shop.shop_writer import ShopWriter

ToOption = Annotated[Path, typer.Option("--to", help="Root of the shop, made where it is missing.")]
MaskOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--mask", help="ATTRIBUTE=SHARE: take it out of that share's text, as colour=0.7. May be repeated."),
]
FolderArgument = Annotated[Path, typer.Argument(help="Folder of the published files, unpacked.")]
PicturesOption = Annotated[Optional[Path], typer.Option(help="Folder with the pictures on this machine.")]  # noqa: UP045

app = typer.Typer(no_args_is_help=True, help="Make, import and fill shops.")


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


app.command("check")(own_shops.check_command)
app.command("adopt")(own_shops.adopt_command)


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


import_app = typer.Typer(
    no_args_is_help=True, help="Import a shop's own exports, or published products; what others imported stays."
)


def _fill(
    to: Path, source: str, add_rows: Callable[[ShopWriter], None], *, replaces: Collection[str] | None = None
) -> None:
    """Add a source's rows to a shop, in place of what it had there, and say what came of it."""
    from smar_model.shop.shop_writer import TABLES, import_into

    with import_into(to, source, replaces=TABLES if replaces is None else replaces) as writer:
        add_rows(writer)
    print(writer.summary())


@import_app.command("fashion-product-images-small")
def import_fashion_command(
    archive: Annotated[Path, typer.Argument(help="The published archive, zipped or unpacked.")],
    to: ToOption,
    items: Annotated[Optional[int], typer.Option(min=1, help="Products to draw; default: all.")] = None,  # noqa: UP045
    seed: SeedOption = 0,
    mask: MaskOption = None,
) -> None:
    """Fashion Product Images (small): styles.csv and images/."""
    from smar_model.shop import fashion_products, open_shop

    catalogue = fashion_products.import_fashion_products(archive, items=items, seed=seed)
    print(open_shop.add_import(to, fashion_products.SOURCE, catalogue, masks=mask or [], seed=seed))


@import_app.command("grocery-store")
def import_grocery_command(
    folder: Annotated[Path, typer.Argument(help="Folder with products.parquet and images.zip.")],
    to: ToOption,
    seed: SeedOption = 0,
    mask: MaskOption = None,
) -> None:
    """Grocery Store data set: 81 products with all their photos."""
    from smar_model.shop import grocery_store, open_shop

    catalogue = grocery_store.import_grocery_store(folder)
    print(open_shop.add_import(to, grocery_store.SOURCE, catalogue, masks=mask or [], seed=seed))


@import_app.command("esci")
def import_esci_command(
    folder: FolderArgument,
    to: ToOption,
    locale: Annotated[Optional[Literal["us", "es", "jp"]], typer.Option(help="Default: all.")] = None,  # noqa: UP045
    split: Annotated[Optional[Literal["train", "test"]], typer.Option(help="Default: both.")] = None,  # noqa: UP045
    small_version: Annotated[
        bool, typer.Option("--small-version", help="Only the pairs of the small version.")
    ] = False,
    image_urls: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="SQID's product_image_urls.csv; repeat it for the supplement."),
    ] = None,
    pictures: PicturesOption = None,
) -> None:
    """Amazon ESCI: judged queries and the products they name; with SQID's addresses of pictures."""
    from smar_model.shop.importers import esci

    _fill(
        to,
        esci.SOURCE,
        partial(
            esci.import_esci,
            folder,
            locale=locale,
            split=split,
            small_version=small_version,
            image_urls=image_urls or [],
            pictures=pictures,
        ),
    )


@import_app.command("wands")
def import_wands_command(folder: FolderArgument, to: ToOption) -> None:
    """WANDS: Wayfair's products and judged queries."""
    from smar_model.shop.importers import wands

    _fill(to, wands.SOURCE, partial(wands.import_wands, folder))


@import_app.command("marqo-gs")
def import_marqo_gs_command(
    folder: FolderArgument,
    to: ToOption,
    split: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Such as query_0_product_id_0; default: all that are there."),
    ] = None,
    ground_truth: Annotated[
        Optional[Literal["dev", "test"]],  # noqa: UP045
        typer.Option(help="Judgments from the split's ground truth; default: all its pairs."),
    ] = None,
    pictures: PicturesOption = None,
) -> None:
    """Marqo-GS-10M: products and their places in a shopping search."""
    from smar_model.shop.importers import marqo_gs

    _fill(
        to,
        marqo_gs.SOURCE,
        partial(marqo_gs.import_marqo_gs, folder, split=split, ground_truth=ground_truth, pictures=pictures),
    )


@import_app.command("muge")
def import_muge_command(
    folder: FolderArgument,
    to: ToOption,
    split: Annotated[
        Optional[Literal["train", "valid", "test"]],  # noqa: UP045
        typer.Option(help="Default: all that are there."),
    ] = None,
) -> None:
    """MUGE: Chinese queries and pictures of products, which have no titles."""
    from smar_model.shop.importers import muge

    _fill(to, muge.SOURCE, partial(muge.import_muge, folder, split=split))


@import_app.command("jdsearch")
def import_jdsearch_command(
    folder: FolderArgument,
    to: ToOption,
    day: Annotated[str, typer.Option("--date", help="Day to file all last searches under: the files name none.")],
    days: Annotated[int, typer.Option(min=1, help="Days of the log up to it.")] = 60,
) -> None:
    """JDsearch: products and what shoppers did, with a click log."""
    from smar_model.shop.importers import jdsearch

    _fill(to, jdsearch.SOURCE, partial(jdsearch.import_jdsearch, folder, last_day=parse_day(day), days=days))


@import_app.command("jd-pretrain")
def import_jd_pretrain_command(
    folder: FolderArgument,
    to: ToOption,
    evaluation: Annotated[
        Optional[Literal["overall", "tail"]],  # noqa: UP045
        typer.Option(help="Judgments from this evaluation set; default: from finetune_data_er.tsv."),
    ] = None,
    separator: Annotated[
        str, typer.Option(help="What stands between the titles of a row of the evaluation set.")
    ] = ",",
) -> None:
    """JD's pretraining data: titles, categories and queries as encoded ids."""
    from smar_model.shop.importers import jd_pretrain

    _fill(
        to,
        jd_pretrain.SOURCE,
        partial(jd_pretrain.import_jd_pretrain, folder, evaluation=evaluation, separator=separator),
    )


@import_app.command("table")
def import_table_command(
    folder: Annotated[Path, typer.Argument(help="Folder that the file names in the mapping start from.")],
    to: ToOption,
    columns: Annotated[Path, typer.Option(help="YAML file that says which column is which; see docs/importers.md.")],
    replace: shop_exports.ReplaceOption = False,
) -> None:
    """Any other tables (CSV, TSV, JSON lines, Parquet), by a YAML file of columns."""
    from smar_model.shop.importers import mapped_tables
    from smar_model.shop.shop_writer import import_into

    mapping = mapped_tables.load_mapping(columns)
    with import_into(to, mapping.source, replaces=mapping.replaces, replace_others=replace, may_shrink=False) as writer:
        mapped_tables.import_tables(folder, mapping, writer)
    print(writer.summary())


shop_exports.add_commands(import_app)
app.add_typer(import_app, name="import")
