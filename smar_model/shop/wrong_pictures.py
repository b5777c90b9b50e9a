"""Pictures that lie: a share of the items show another item's pictures, or the placeholder of their supplier.

Which items, and what they show, is a hash of the seed and of their ids: another share leaves the others as they are. Truth keeps a
row for each (`truth/pictures.parquet`), for judges alone.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping

import numpy as np

from smar_model.errors import InputError
from smar_model.shop.catalogue import Catalogue, Product, WrongPicture
from smar_model.shop.drawing import draw_placeholder

PLACEHOLDERS = 0.25
"""Share of the items with a wrong picture that show a placeholder. A supplier is a brand; items without one share the department's.
prepare-items takes a picture for one where more than settings.pictures.shared_by_items show it, so those of small suppliers stay."""


def show_wrong_pictures(
    catalogue: Catalogue, shares: float | Mapping[str, float], *, seed: int, leave: Collection[str] = ()
) -> None:
    """Change what a share of the items with pictures show, in place, and note it in `catalogue.wrong_pictures`.

    The other item is one of the same department and of another true type; where there is none, the placeholder is shown.

    Args:
        shares: of all items, or by department; a department that is not named has none.
        leave: ids of items that neither change nor lend their pictures.

    Raises:
        InputError: no item is of a department of that name.
    """
    departments: dict[str, list[Product]] = defaultdict(list)
    for product in sorted(catalogue.products, key=lambda p: p.item_id):
        departments[product.department].append(product)
    if isinstance(shares, Mapping) and (unknown := sorted(shares.keys() - departments.keys())):
        raise InputError(
            f"setting shop.simulation.wrong_pictures: no item is of department {unknown[0]!r}; the departments are "
            f"{', '.join(sorted(departments))}"
        )
    before = {name for product in catalogue.products for name in product.images}
    for department, products in departments.items():
        share = shares.get(department, 0.0) if isinstance(shares, Mapping) else shares
        pictured = [p for p in products if p.images and p.item_id not in leave]
        own = {p.item_id: p.images for p in pictured}
        for product in pictured:
            if _chance(seed, "wrong", product.item_id) >= share:
                continue
            others = [p for p in pictured if p.truth.get("type") != product.truth.get("type")]
            if others and _chance(seed, "placeholder", product.item_id) >= PLACEHOLDERS:
                other = others[int(_chance(seed, "other", product.item_id) * len(others))]
                product.images = list(own[other.item_id])
                wrong = WrongPicture(item_id=product.item_id, shows="another_item", of_item=other.item_id)
            else:
                product.images = [_placeholder(catalogue, product.brand or department, seed)]
                wrong = WrongPicture(item_id=product.item_id, shows="placeholder")
            catalogue.wrong_pictures.append(wrong)
    # What nobody shows any more is not delivered either.
    for name in before - {name for product in catalogue.products for name in product.images}:
        catalogue.pictures.pop(name, None)


def _placeholder(catalogue: Catalogue, supplier: str, seed: int) -> str:
    """Name of a supplier's placeholder, drawn where it is asked for first."""
    number = int(_chance(seed, "supplier", supplier.lower()) * 2**32)
    name = f"suppliers/{number:08x}.jpg"
    if name not in catalogue.pictures:
        catalogue.pictures[name] = draw_placeholder(np.random.default_rng([seed, number]))
    return name


def _chance(seed: int, purpose: str, key: str) -> float:
    """A number from 0 up to 1. Not by CRC-32: those of two purposes would differ by the same bits for all ids of one length."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{purpose}:{key}".encode()).digest()[:8]) / 2**64
