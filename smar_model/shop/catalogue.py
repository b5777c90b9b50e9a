"""The catalogue of a shop while it is made: products with their pictures' bytes, and how they are written.

Everything is written beside its place and renamed; `items.parquet` comes last, so that an interrupted writing leaves
the former catalogue, or none. The same products give the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract

LISTED_AT = datetime(2020, 1, 1, tzinfo=UTC)
"""`updated_at` of every row: imported and drawn products are older than any log."""


@dataclass(slots=True, kw_only=True)
class Product:
    """One item of the catalogue with what is true of it."""

    item_id: str
    title: str
    category: str
    """Path from department to leaf, such as `Apparel > Topwear > Tshirts`."""
    brand: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    """What the seller wrote besides; the model may read it."""
    images: list[str] = field(default_factory=list)
    """File names under `pictures/`, the main one first."""
    truth: dict[str, str] = field(default_factory=dict)
    """Attribute → true value in lower case; for shoppers and judges alone."""

    @property
    def department(self) -> str:
        return self.category.split(" > ")[0]


@dataclass(slots=True, kw_only=True)
class Catalogue:
    products: list[Product]
    pictures: dict[str, bytes]
    """File name under `pictures/` → content. A product may name a picture that is not here: a missing file."""


def write_catalogue(root: Path, catalogue: Catalogue, *, replaces: str = "") -> None:
    """Write products into a shop, in place of those whose item id begins with `replaces` (the empty default: of all).

    Raises:
        InputError: the shop keeps its catalogue in several files or its pictures in a zip, which cannot be added to.
    """
    if (root / "pictures.zip").is_file():
        raise InputError(
            f"{root / 'pictures.zip'}: pictures in a zip cannot be added to; unpack it into {root / 'pictures'}"
        )
    if (root / "items").is_dir():
        raise InputError(
            f"{root / 'items'}: a catalogue in several files; merge them into {root / 'items.parquet'} first"
        )
    items, truth = root / "items.parquet", root / "truth" / "items.parquet"
    products = sorted(catalogue.products, key=lambda p: p.item_id)
    kept = _other_rows(items, "items", replaces)
    old_pictures = _pictures_of(items)
    new_items = pa.concat_tables([kept, _items_table(products)]).sort_by("item_id")
    new_truth = pa.concat_tables([_other_rows(truth, "truth_items", replaces), _truth_table(products)]).sort_by(
        "item_id"
    )

    (root / "pictures").mkdir(parents=True, exist_ok=True)
    _write_pictures(root / "pictures", catalogue.pictures)
    write_parquet(truth, new_truth)
    write_parquet(items, new_items)
    for name in old_pictures - _pictures_of(items):
        (root / "pictures" / name).unlink(missing_ok=True)


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write one Parquet file whole or not at all; its bytes depend on the table alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing")
    pq.write_table(table, temporary, version="2.6", data_page_version="1.0", compression="zstd", compression_level=3)
    temporary.replace(path)


def _items_table(products: list[Product]) -> pa.Table:
    columns = {
        "item_id": [p.item_id for p in products],
        "title": [p.title for p in products],
        "category": [p.category for p in products],
        "brand": [p.brand for p in products],
        "attributes": [sorted(p.attributes.items()) for p in products],
        "images": [p.images for p in products],
        "updated_at": [LISTED_AT] * len(products),
    }
    return pa.Table.from_pydict(columns, schema=load_contract("items").arrow_schema())


def _truth_table(products: list[Product]) -> pa.Table:
    known = [p for p in products if p.truth]
    columns = {"item_id": [p.item_id for p in known], "attributes": [sorted(p.truth.items()) for p in known]}
    return pa.Table.from_pydict(columns, schema=load_contract("truth_items").arrow_schema())


def _other_rows(path: Path, contract: str, prefix: str) -> pa.Table:
    """Rows of a table that an import leaves alone."""
    schema = load_contract(contract).arrow_schema()
    if not prefix or not path.is_file():
        return schema.empty_table()
    load_contract(contract).verify_files([path])
    table = pq.read_table(path).select(schema.names)
    return table.filter(pc.invert(pc.starts_with(table["item_id"], prefix))).cast(schema)


def _pictures_of(items: Path) -> set[str]:
    if not items.is_file():
        return set()
    return {name for names in pq.read_table(items, columns=["images"])["images"].to_pylist() for name in names or ()}


def _write_pictures(folder: Path, pictures: Mapping[str, bytes]) -> None:
    for parent in {(folder / name).parent for name in pictures}:
        parent.mkdir(parents=True, exist_ok=True)
    for name, content in pictures.items():
        path = folder / name
        # Renamed into place: a picture that another catalogue's rows name is never seen half-written.
        temporary = f"{path}.writing"
        with open(temporary, "wb") as file:
            file.write(content)
        os.replace(temporary, path)


def read_truth(files: Iterable[Path]) -> dict[str, dict[str, str]]:
    """Item → true attributes."""
    truth = {}
    for file in files:
        table = pq.read_table(file)
        truth.update(
            {i: dict(a) for i, a in zip(table["item_id"].to_pylist(), table["attributes"].to_pylist(), strict=True)}
        )
    return truth
