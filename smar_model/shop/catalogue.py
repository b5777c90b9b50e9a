"""The catalogue of a shop while it is made: products with their pictures' bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from smar_model.lake.contracts import load_contract
from smar_model.shop.shop_writer import ShopWriter, write_parquet


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


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongPicture:
    """A row of `truth_pictures`: an item whose pictures are not its own."""

    item_id: str
    shows: Literal["another_item", "placeholder"]
    of_item: str | None = None
    """Whose pictures they are."""


@dataclass(slots=True, kw_only=True)
class Catalogue:
    products: list[Product]
    pictures: dict[str, bytes]
    """File name under `pictures/` → content. A product may name a picture that is not here: a missing file."""
    wrong_pictures: list[WrongPicture] = field(default_factory=list)
    """In any order."""


def write_catalogue(root: Path, catalogue: Catalogue) -> None:
    """Write products into a shop, in place of all that it had.

    Raises:
        InputError: the shop cannot be added to, or two products share an id.
    """
    if catalogue.wrong_pictures:
        rows = [asdict(wrong) for wrong in sorted(catalogue.wrong_pictures, key=lambda wrong: wrong.item_id)]
        table = pa.Table.from_pylist(rows, schema=load_contract("truth_pictures").arrow_schema())
        write_parquet(root / "truth" / "pictures.parquet", table)
    with ShopWriter(root, "", replaces=["items"]) as writer:
        add_catalogue(writer, catalogue)


def add_catalogue(writer: ShopWriter, catalogue: Catalogue) -> None:
    """Add the products in the order of their ids.

    Raises:
        InputError: two products share an id.
    """
    for name, content in catalogue.pictures.items():
        writer.add_picture(name, content)
    for product in sorted(catalogue.products, key=lambda p: p.item_id):
        writer.add_item(
            product.item_id,
            item_id=product.item_id,
            title=product.title,
            category=product.category,
            brand=product.brand,
            attributes=product.attributes,
            images=product.images,
            truth=product.truth,
        )


def read_truth(files: Iterable[Path]) -> dict[str, dict[str, str]]:
    """Item → true attributes."""
    truth = {}
    for file in files:
        table = pq.read_table(file)
        truth.update(
            {i: dict(a) for i, a in zip(table["item_id"].to_pylist(), table["attributes"].to_pylist(), strict=True)}
        )
    return truth
