"""Importer of the Grocery Store data set: `products.parquet` and `images.zip`, 81 products with all their photos."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from smar_model.errors import InputError
from smar_model.lake.contracts import read_parquet_schema
from smar_model.shop.archives import SourceFiles
from smar_model.shop.catalogue import Catalogue, Product

SOURCE = "grocery"
"""Item ids are `grocery-<fine class>`; pictures lie under `pictures/grocery/`."""

_NEEDED = ("title", "split", "fine_class", "coarse_class", "top_category", "image")


def import_grocery_store(folder: Path) -> Catalogue:
    """One product for each fine class, its iconic photo first; a photo that is missing is left out.

    Raises:
        InputError: a file is missing, damaged, or `products.parquet` lacks a column or a value.
    """
    path = folder / "products.parquet"
    schema = read_parquet_schema(path)
    if missing := [name for name in _NEEDED if name not in schema.names]:
        raise InputError(f"{path}: no column {', '.join(missing)}; expected {', '.join(_NEEDED)}")
    try:
        rows = pq.read_table(path, columns=list(_NEEDED)).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: damaged ({error}); download or copy it again") from None
    for number, row in enumerate(rows, start=1):
        if empty := [name for name in _NEEDED if not row[name]]:
            raise InputError(f"{path} row {number}: {', '.join(empty)} is empty; correct or remove the row")
    if not rows:
        raise InputError(f"{path}: no products; download or copy it again")

    unpacked = folder / "images"
    photos = SourceFiles(unpacked if unpacked.is_dir() else folder / "images.zip")
    products: dict[str, Product] = {}
    pictures = {}
    for row in sorted(rows, key=lambda r: (r["fine_class"], r["split"] != "iconic", r["image"])):
        product = products.setdefault(row["fine_class"], _product(row))
        content = photos.read(row["image"])
        if content is not None:
            name = f"{SOURCE}/{row['image']}"
            pictures[name] = content
            product.images.append(name)
    return Catalogue(products=list(products.values()), pictures=pictures)


def _product(row: dict[str, str]) -> Product:
    kind = row["coarse_class"].replace("-", " ")
    return Product(
        item_id=f"{SOURCE}-{row['fine_class'].lower()}",
        title=" ".join(row["title"].split()),
        category=" > ".join(("Grocery", row["top_category"], kind)),
        truth={
            "type": kind.lower(),
            "name": row["fine_class"].replace("-", " ").lower(),
            "shelf": row["top_category"].lower(),
        },
    )
