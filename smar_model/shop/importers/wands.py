"""Importer of WANDS, Wayfair's annotated data set (Chen et al., ECIR 2022): tab-separated product, query and label.csv."""

from __future__ import annotations

from pathlib import Path

from smar_model.errors import InputError
from smar_model.shop.importers.grades import SCALES, grade_of_label
from smar_model.shop.importers.published_rows import require, separated_rows
from smar_model.shop.shop_writer import ShopWriter, squeeze

SOURCE = "wands"
_PRODUCT_COLUMNS = ("product_id", "product_name", "product_class", "category hierarchy", "product_features")


def import_wands(folder: Path, writer: ShopWriter) -> None:
    """Add all products, with their features as attributes, and all judged pairs.

    Raises:
        InputError: a file is missing or damaged, or a row lacks a value, or a label is unknown or names no query.
    """
    if (folder / "dataset").is_dir():
        folder = folder / "dataset"
    for where, row in separated_rows(folder / "product.csv", _PRODUCT_COLUMNS, delimiter="\t"):
        require(where, row, "product_id")
        path = row["category hierarchy"] or row["product_class"]
        writer.add_item(
            where,
            item_id=f"{SOURCE}-{row['product_id']}",
            title=row["product_name"],
            category=" > ".join(filter(None, map(squeeze, path.split("/")))),
            attributes=_features(row["product_features"]),
        )
    queries: dict[str, str] = {}
    for where, row in separated_rows(folder / "query.csv", ("query_id", "query"), delimiter="\t"):
        require(where, row, "query_id", "query")
        queries[row["query_id"]] = row["query"]
    for where, row in separated_rows(folder / "label.csv", ("query_id", "product_id", "label"), delimiter="\t"):
        require(where, row, "product_id", "label")
        if row["query_id"] not in queries:
            raise InputError(f"{where}: query_id {row['query_id']!r} is not in {folder / 'query.csv'}")
        grade = grade_of_label(where, row["label"], SCALES["wands"])
        writer.add_judgment(query=queries[row["query_id"]], item_id=f"{SOURCE}-{row['product_id']}", grade=grade)


def _features(text: str) -> dict[str, str]:
    """`colour : red|seats:2|seats:3` → {colour: red, seats: 2, 3}; a feature without a name or value is no feature."""
    features: dict[str, list[str]] = {}
    for part in text.split("|"):
        name, _, value = part.partition(":")
        name, value = squeeze(name), squeeze(value)
        if name and value and value not in features.setdefault(name, []):
            features[name].append(value)
    return {name: ", ".join(values) for name, values in features.items() if values}
