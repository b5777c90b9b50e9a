"""Importer of Amazon's Shopping Queries Data Set (ESCI, arXiv 2206.06588), with SQID's pictures (arXiv 2405.15190).

Products of several locales share ids: an item is `esci-<locale>-<product_id>`. Descriptions and bullet points are left
out: the model reads titles, brands and short attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smar_model.shop.importers.grades import SCALES, grade_of_label
from smar_model.shop.importers.pictures import SUFFIXES, PictureFolder
from smar_model.shop.importers.published_rows import Row, parquet_rows, require, separated_rows
from smar_model.shop.shop_writer import ShopWriter, squeeze

SOURCE = "esci"
PRODUCTS, EXAMPLES = "shopping_queries_dataset_products.parquet", "shopping_queries_dataset_examples.parquet"
_EXAMPLE_COLUMNS = {
    "query": "text", "product_id": "text", "product_locale": "text", "esci_label": "text", "small_version": "integer", "split": "text",
}  # fmt: skip
_PRODUCT_COLUMNS = dict.fromkeys(
    ("product_id", "product_title", "product_brand", "product_color", "product_locale"), "text"
)
_NO_PICTURE = "/Default_Background_Art"
"""In the address of the picture that stands for products without one (SQID's README)."""


def import_esci(
    folder: Path,
    writer: ShopWriter,
    *,
    locale: str | None = None,
    split: str | None = None,
    small_version: bool = False,
    image_urls: Sequence[Path] = (),
    pictures: Path | None = None,
) -> None:
    """Add the judged pairs of a locale, a split and the small version (default: of all), and the products they name.

    Args:
        image_urls: SQID's `product_image_urls.csv` and its supplement; US products get the address as their picture.
        pictures: folder with `<product_id>.jpg`; such a file is taken rather than an address.

    Raises:
        InputError: a file is missing or damaged, or a row lacks a value or has an unknown label.
    """
    lacking: set[str] = set()
    """Items judged but not yet met among the products."""
    for where, row in parquet_rows(folder / EXAMPLES, _EXAMPLE_COLUMNS):
        require(where, row, *_EXAMPLE_COLUMNS)
        grade = grade_of_label(where, row["esci_label"], SCALES["esci"])
        if (
            (locale is None or row["product_locale"] == locale)
            and (split is None or row["split"] == split)
            and (row["small_version"] == 1 or not small_version)
        ):
            item_id = _item_id(row)
            lacking.add(item_id)
            writer.add_judgment(query=row["query"], item_id=item_id, grade=grade)
    addresses = {
        row["product_id"]: row["image_url"]
        for file in image_urls
        for _, row in separated_rows(file, ["product_id", "image_url"])
        if row["image_url"] and _NO_PICTURE not in row["image_url"]
    }
    files = PictureFolder(pictures, writer)
    for where, row in parquet_rows(folder / PRODUCTS, _PRODUCT_COLUMNS):
        require(where, row, "product_id", "product_locale")
        item_id = _item_id(row)
        if item_id not in lacking and not writer.has(item_id):
            continue
        lacking.discard(item_id)
        images = files.add(*(row["product_id"] + suffix for suffix in SUFFIXES))
        if not images and row["product_locale"] == "us" and row["product_id"] in addresses:
            images = [addresses[row["product_id"]]]
        colour = squeeze(row["product_color"])
        writer.add_item(
            where,
            item_id=item_id,
            title=row["product_title"],
            brand=squeeze(row["product_brand"]),
            attributes={"colour": colour} if colour else {},
            images=images,
        )
    if lacking:
        writer.leave_out(f"judged products that {PRODUCTS} lacks", min(lacking), count=len(lacking))


def _item_id(row: Row) -> str:
    return f"{SOURCE}-{row['product_locale']}-{row['product_id']}"
