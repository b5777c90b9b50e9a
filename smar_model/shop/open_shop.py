"""Open a shop for a run: an own one is only checked; a simulated one is made or completed where something is missing.

`shop.json` in a simulated shop's root says what the shop was made from. It is removed before anything is rebuilt and written
last: a shop that was being made when the power went is made again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from smar_model.delivery.shop_check import check_structure
from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.errors import InputError
from smar_model.lake.digests import digest_files, digest_json, digest_raw_files
from smar_model.lake.object_paths import AnyPath
from smar_model.lake.shared_files import replace_file
from smar_model.settings import REPOSITORY, Settings, Simulation
from smar_model.shop.catalogue import Catalogue, add_catalogue, write_catalogue
from smar_model.shop.fashion_products import import_fashion_products
from smar_model.shop.faults import add_catalogue_faults
from smar_model.shop.grocery_store import import_grocery_store
from smar_model.shop.log_files import files_not_served, simulated_log
from smar_model.shop.masking import mask_products, take_out_words
from smar_model.shop.shop_writer import import_into, only_one
from smar_model.shop.synonyms import synonym_words
from smar_model.shop.wrong_pictures import show_wrong_pictures

REAL_DATA = "SMAR_REAL_DATA"
"""Environment variable: the folder that holds the published archives."""
_OWN_NAMES = ("items.parquet", "pictures", "click_log", "truth", ".writing")
"""What a simulated shop consists of, besides `shop.json`."""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedShop:
    root: AnyPath
    days: list[date]
    made: bool
    """Whether the catalogue was made now."""
    days_written: list[date]


def open_shop(settings: Settings, *, day: date, window_days: int | None = None, report: Report = print) -> OpenedShop:
    """See to it that the catalogue, the pictures and every day of the window are there; `day` is the last.

    Raises:
        InputError: an own shop lacks something, or a simulated one cannot be made.
    """
    count = window_days or settings.window.days
    days = [day - timedelta(days=n) for n in reversed(range(count))]
    if settings.shop.kind == "own":
        shop = ShopInputs.of(settings)
        _check_own_shop(shop, days, report)
        return OpenedShop(root=shop.root, days=days, made=False, days_written=[])
    root = settings.shop_folder
    simulation = _simulation(settings)
    with only_one(root):
        made = _make_if_changed(settings, simulation, report)
        missing = [d for d in days if not files_not_served(simulated_log(root, d).parent)]
        if missing:
            # numpy's and the ranker's import is not worth waiting for where all is there.
            from smar_model.shop.shoppers import Shoppers

            shoppers = Shoppers.load(root, simulation=simulation, visual_departments=settings.shop.visual_departments)
            for missing_day in missing:
                counts = shoppers.write_day(root, missing_day)
                report(f"click log of {missing_day}: {counts['requests']:,} requests, {counts['events']:,} events")
    return OpenedShop(root=root, days=days, made=made, days_written=missing)


def make_shop(settings: Settings, *, report: Report = print) -> bool:
    """Make the catalogue of a simulated shop, unless it is there and made from the same settings; whether it was made.

    Raises:
        InputError: the shop's kind is `own`, or its source is missing or bad.
    """
    if settings.shop.kind == "own":
        raise InputError(
            f"setting shop.kind is 'own': {settings.shop_root} is delivered, not made; "
            "use kind 'sample' or 'real_products', or `smar shop import`"
        )
    simulation = _simulation(settings)
    with only_one(settings.shop_folder):
        return _make_if_changed(settings, simulation, report)


def build_catalogue(settings: Settings) -> Catalogue:
    """Draw or import the catalogue, mask it, and plant the faults and wrong pictures that the settings ask for.

    Raises:
        InputError: SMAR_REAL_DATA is unset, a source in it is missing or bad, or a setting names what no item has.
    """
    simulation = _simulation(settings)
    if settings.shop.kind == "sample":
        from smar_model.shop.sample_shop import draw_sample_shop

        catalogue = draw_sample_shop(simulation)
    else:
        archive, grocery = _real_sources(simulation)
        catalogue = import_fashion_products(archive, items=simulation.items, seed=simulation.seed)
        groceries = import_grocery_store(grocery)
        catalogue.products += groceries.products
        catalogue.pictures |= groceries.pictures
    mask_products(catalogue.products, simulation.masked, seed=simulation.seed)
    if simulation.held_back_words:
        # No word is new that a seller uses.
        take_out_words(catalogue.products, synonym_words())
    spoilt = add_catalogue_faults(catalogue, share=simulation.faults, seed=simulation.seed) if simulation.faults else {}
    if simulation.wrong_pictures:
        show_wrong_pictures(
            catalogue, simulation.wrong_pictures, seed=simulation.seed, leave={i for of in spoilt.values() for i in of}
        )
    return catalogue


def log_day(settings: Settings, *, day: date) -> dict[str, int]:
    """Write one day of the click log of a shop with truth, again where shoppers wrote it before; returns counts.

    Raises:
        InputError: the shop has no truth, or the day's log comes from elsewhere.
    """
    from smar_model.shop.shoppers import Shoppers

    simulation = _simulation(settings)
    with only_one(settings.shop_folder):
        shoppers = Shoppers.load(
            settings.shop_folder, simulation=simulation, visual_departments=settings.shop.visual_departments
        )
        return shoppers.write_day(settings.shop_folder, day)


def add_import(root: Path, source: str, catalogue: Catalogue, *, masks: list[str], seed: int) -> str:
    """Write an imported catalogue into a shop in place of what this source had there; returns lines about it.

    Raises:
        InputError: a mask is not `attribute=share`, or the shop cannot be added to.
    """
    mask_products(catalogue.products, dict(_parse_mask(mask) for mask in masks), seed=seed)
    with import_into(root, source, replaces=["items"]) as writer:
        add_catalogue(writer, catalogue)
    return writer.summary()


def _parse_mask(text: str) -> tuple[str, float]:
    attribute, _, share = text.partition("=")
    try:
        value = float(share)
    except ValueError:
        value = -1
    if not attribute or not 0 <= value <= 1:
        raise InputError(f"--mask {text}: write ATTRIBUTE=SHARE with a share from 0 to 1, such as colour=0.7")
    return attribute, value


def _make_if_changed(settings: Settings, simulation: Simulation, report: Report) -> bool:
    root = settings.shop_folder
    record = root / "shop.json"
    wanted = _origin(settings, simulation)
    found = _read_record(record)
    # Where the sources cannot be asked, the shop that was made from them stays as it is.
    if found and all(found.get(key) == value for key, value in wanted.items()):
        return False
    strangers = [name for name in (*_OWN_NAMES, "items", "pictures.zip") if (root / name).exists()]
    if found is None and strangers:
        raise InputError(
            f"{root}: holds {', '.join(strangers)} that were not made by settings of kind {settings.shop.kind!r}; "
            "set shop.kind to 'own', or shop.root to another folder"
        )
    sources = _sources_digest(settings, simulation)
    report(f"making the shop in {root}")
    root.mkdir(parents=True, exist_ok=True)
    catalogue = build_catalogue(settings)
    for leftover in root.glob(".shop.json.*"):
        leftover.unlink()
    # From here on the folder is ours, but nothing in it counts until the record is complete.
    replace_file(record, json.dumps({"state": "being made"}))
    for name in _OWN_NAMES:
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    write_catalogue(root, catalogue)
    replace_file(record, json.dumps({**wanted, "sources": sources}, indent=1))
    report(f"catalogue: {len(catalogue.products):,} items, {len(catalogue.pictures):,} pictures")
    return True


def _origin(settings: Settings, simulation: Simulation) -> dict[str, str | None]:
    """What the shop's content depends on: changed, the shop is made again."""
    own_code = (REPOSITORY / "smar_model" / "shop").glob("*.py")
    origin: dict[str, str | None] = {
        "settings": digest_json(
            [settings.shop.kind, settings.shop.visual_departments, simulation.model_dump(mode="json")]
        ),
        "code": digest_files(own_code, root=REPOSITORY),
    }
    if settings.shop.kind == "real_products" and os.environ.get(REAL_DATA):
        origin["sources"] = _sources_digest(settings, simulation)
    return origin


def _sources_digest(settings: Settings, simulation: Simulation) -> str | None:
    if settings.shop.kind != "real_products":
        return None
    archive, grocery = _real_sources(simulation)
    files = [archive, grocery / "products.parquet", grocery / "images.zip"]
    return digest_raw_files([f for f in files if f.is_file()], root=archive.parents[1])


def _real_sources(simulation: Simulation) -> tuple[Path, Path]:
    """The fashion archive and the grocery folder."""
    folder = os.environ.get(REAL_DATA)
    if not folder:
        raise InputError(
            f"{REAL_DATA} is not set: name the folder that holds {simulation.archive}/archive.zip and grocery-store/"
        )
    fashion, grocery = Path(folder) / simulation.archive, Path(folder) / "grocery-store"
    for path in (fashion, grocery):
        if not path.is_dir():
            raise InputError(f"{path}: no such folder; {REAL_DATA} must name the folder that holds it")
    archive = fashion / "archive.zip"
    return archive if archive.is_file() else fashion, grocery


def _read_record(path: Path) -> dict[str, str | None] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except json.JSONDecodeError:
        raise InputError(
            f"{path}: not valid JSON; remove the folder {path.parent}, and the shop is made again"
        ) from None


def _simulation(settings: Settings) -> Simulation:
    if settings.shop.simulation is None:
        raise InputError(f"setting shop.simulation is missing: a shop of kind {settings.shop.kind!r} needs it")
    return settings.shop.simulation


def _check_own_shop(shop: ShopInputs, days: list[date], report: Report) -> None:
    """Name all that is wrong with files and columns at once: deliveries are slow. Rows are left to `smar shop check` and the jobs."""
    left_out = shop.incomplete_days(days)
    for day, why in left_out.items():
        report(f"{shop.root / 'click_log' / f'dt={day}'}: is not complete, so it is not read: it {why}")
    faults, casts = check_structure(shop, [day for day in days if day not in left_out])
    for cast in casts:
        report(cast)
    if len(faults) == 1:
        raise InputError(str(faults[0]))
    if faults:
        raise InputError(
            f"{shop.root}: {len(faults)} inputs are missing or damaged:\n"
            + "\n".join(f"  {fault}" for fault in faults)
            + f"\n`smar shop check {shop.root}` looks at every row as well"
        )
