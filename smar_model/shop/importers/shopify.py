"""Importer of Shopify's product export: CSV, a row a variant or a picture, joined by the product's handle.

Columns are known by their names before 2024 and since: `Handle` and `URL handle`, `Image Src` and `Product image URL` …
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from smar_model.shop.importers.delivered_files import delivered_files, each_unpacked
from smar_model.shop.importers.event_fields import place_of
from smar_model.shop.importers.feed_tables import FeedRow, feed_rows
from smar_model.shop.importers.offer_fields import price_of
from smar_model.shop.importers.product_variants import (
    FeedTexts,
    ItemsOfVariants,
    Variant,
    Variants,
    are_alike,
    products_of,
)
from smar_model.shop.importers.spooled_records import SpooledRecords
from smar_model.shop.shop_writer import ShopWriter

SOURCE = "shopify"
ENDINGS = (".csv",)
MOST_ROWS = 10_000
"""Of one product; Shopify allows 2,048 variants and 250 pictures."""
_COLUMNS = {
    "url handle": "handle",
    "vendor": "brand",
    "product category": "category",
    "standard product type": "category",
    "standardized product type": "category",
    "type": "type",
    "custom product type": "type",
    "published on online store": "published",
    "variant sku": "sku",
    "variant barcode": "barcode",
    "variant price": "price",
    "variant inventory tracker": "inventory tracker",
    "variant inventory qty": "inventory quantity",
    "variant inventory policy": "inventory policy",
    "continue selling when out of stock": "inventory policy",
    "image src": "image",
    "product image url": "image",
    "image position": "image position",
    "variant image": "variant image",
    "variant image url": "variant image",
    "google shopping / google product category": "google category",
    "google shopping / gender": "gender",
    "google shopping / age group": "age group",
    "id": "product id",
    "variant id": "variant id",
}
"""A column's name in lower case → field, where the two differ."""
_OPTIONS = tuple((f"option{n} name", f"option{n} value") for n in (1, 2, 3))
_READ = {
    "handle", "title", "brand", "category", "type", "status", "published", "sku", "barcode", "image", "image position",
    "variant image", "google category", "gender", "age group", "product id", "variant id",
    "price", "inventory tracker", "inventory quantity", "inventory policy",
    *(name for option in _OPTIONS for name in option),
}  # fmt: skip
_QUANTITY = re.compile(r"-?\d{1,15}(\.0*)?")
_METAFIELD = " (product.metafields.shopify."
"""In the name of a column with an attribute of Shopify's own taxonomy, such as the colour."""
_ATTRIBUTE_NAMES = {"color": "colour", "colors": "colour", "colours": "colour"}


def import_shopify(
    paths: Sequence[Path],
    writer: ShopWriter,
    *,
    variants: Variants = "together",
    all_products: bool = False,
    pictures: Path | None = None,
) -> None:
    """Add the products of an export; its files together are the catalogue.

    Args:
        all_products: also drafts, archived products and those that the online store does not show.

    Raises:
        InputError: a file is missing or damaged, or no product export.
    """
    items, reader = ItemsOfVariants(writer, pictures), _Products(writer)
    not_read: dict[str, None] = {}
    rows = products = 0
    with SpooledRecords(writer.scratch) as spool:
        writer.files = delivered_files(paths, ENDINGS)
        for name, file in each_unpacked(writer.files, writer.scratch):
            for where, row in feed_rows(name, file, writer, key_of=_field, known=_READ, needed=("title",)):
                rows += 1
                not_read |= dict.fromkeys(f for f in row if f not in _READ and _METAFIELD not in f and row[f])
                handle = reader.handle(where, row)
                if handle is None:
                    writer.leave_out("rows without a handle, which Shopify repeats in each row of a product", where)
                else:
                    spool.add(handle, 0, [where, row])
        for handle, records in products_of(spool, writer, most=MOST_ROWS, of="rows"):
            group = [(where, row) for where, row in records]
            products += 1
            if (reason := _hidden(group)) and not all_products:
                writer.leave_out(reason, repr(handle))
            elif variants == "apart":
                items.add_apart(reader.variants(handle, group, titled=True))
            else:
                items.add_together(handle, reader.variants(handle, group, titled=False))
    items.close()
    writer.note(f"read: {rows:,} rows of {products:,} products")
    if not_read:
        writer.note(f"columns that the model does not read: {', '.join(list(not_read)[:40])}")


def _field(column: str) -> str:
    name = " ".join(column.split()).lower()
    return _COLUMNS.get(name, name)


def _first(row: FeedRow, field: str) -> str:
    return next(iter(row.get(field, ())), "")


def _hidden(group: Sequence[tuple[str, FeedRow]]) -> str | None:
    """Why shoppers do not see a product."""
    status = next((_first(row, "status").lower() for _, row in group if row.get("status")), "active")
    if status != "active":
        return f"products of status {status[:30]} (--all-products takes them)"
    published = next((_first(row, "published").lower() for _, row in group if row.get("published")), "true")
    return (
        "products that are not published on the online store (--all-products takes them)"
        if published == "false"
        else None
    )


class _Products:
    """Makes variants of the rows that share a handle."""

    def __init__(self, writer: ShopWriter) -> None:
        self._writer, self._texts = writer, FeedTexts(writer)

    def handle(self, where: str, row: FeedRow) -> str | None:
        """Raises InputError where a spreadsheet has dropped digits of it."""
        return self._texts.item_id(where, "Handle", _first(row, "handle"))

    def variants(self, handle: str, group: Sequence[tuple[str, FeedRow]], *, titled: bool) -> list[Variant]:
        """The product's variants in their order; `titled`: each with its options in its title, and its own picture first."""
        product = self._product(handle, group)
        clean = self._texts.clean
        option_names = [
            next((clean(where, _first(row, name)) for where, row in group if row.get(name)), "") for name, _ in _OPTIONS
        ]
        found: list[Variant] = []
        for where, row in group:
            values = [clean(where, _first(row, value)) for _, value in _OPTIONS]
            sku = (self._texts.item_id if titled else self._texts.other_name)(where, "SKU", _first(row, "sku"))
            if not any(values) and not sku:
                continue  # of a picture
            options = {
                _attribute_name(name): value
                for name, value in zip(option_names, values, strict=True)
                if name and value and (name, value) != ("Title", "Default Title")
            }
            own_picture = row.get("variant image", [])[:1]
            names = {sku: "sku"} if sku else {}
            for field, kind in (("barcode", "gtin"), ("variant id", "variant"), ("product id", "product")):
                if name := self._texts.other_name(where, field, _first(row, field)):
                    names.setdefault(name, kind)
            ending = " / ".join(options.values())
            price, currency = self._price(where, row)
            found.append(
                replace(
                    product,
                    where=where,
                    item_id=sku if titled and sku else f"{handle}-{len(found) + 1}" if titled else handle,
                    title=f"{product.title} - {ending}" if titled and ending and product.title else product.title,
                    attributes=product.attributes | options,
                    images=own_picture + product.images if titled else product.images + own_picture,
                    names=names,
                    price=price,
                    currency=currency,
                    available=self._available(where, row),
                )
            )
        return found or [product]

    def _price(self, where: str, row: FeedRow) -> tuple[str, str]:
        """The export says no currency: it is the store's own."""
        text = _first(row, "price").strip()
        found = price_of(text) if text else ("", "")
        if found is None:
            self._writer.leave_out("prices that are none, as 15.00 is one", f"{where}: {text[:60]!r}")
        return found or ("", "")

    def _available(self, where: str, row: FeedRow) -> bool | None:
        """Whether a variant can be bought: what nobody counts, what is sold beyond what is there, or what is there. None: the export does
        not say, as that of a store with several locations."""
        if _first(row, "inventory policy").strip().lower() in ("continue", "true"):
            return True
        text = _first(row, "inventory quantity").strip()
        if "inventory tracker" in row and not _first(row, "inventory tracker").strip():
            return True
        if not text:
            return None
        if not _QUANTITY.fullmatch(text):
            self._writer.leave_out("inventory quantities that are no whole number", f"{where}: {text[:60]!r}")
            return None
        return int(text.partition(".")[0]) > 0

    def _product(self, handle: str, group: Sequence[tuple[str, FeedRow]]) -> Variant:
        """What all variants share."""

        def first(field: str) -> str:
            return next((self._texts.clean(where, _first(row, field)) for where, row in group if row.get(field)), "")

        images = [
            (place_of(_first(row, "image position")), image) for _, row in group for image in row.get("image", ())
        ]
        images.sort(key=lambda pair: pair[0] if pair[0] is not None else MOST_ROWS)
        path = first("category") or first("google category")
        attributes = {name: text for name in ("gender", "age group") if (text := first(name))}
        for field in dict.fromkeys(field for _, row in group for field in row if _METAFIELD in field):
            if text := first(field):
                name = _attribute_name(field.partition(_METAFIELD)[0])
                attributes[name] = ", ".join(part.strip() for part in text.split(";") if part.strip())
        kind = first("type")
        category = " > ".join(level for part in (path or kind).split(">") if (level := part.strip()))
        if kind and path and kind.casefold() not in category.casefold():
            attributes["type"] = kind
        title = first("title")
        for where, row in group:
            if not are_alike(title, _first(row, "title")):
                reason = "titles of rows whose handle an earlier row has under quite another title: two products with one handle?"
                self._writer.leave_out(reason, f"{where}: {_first(row, 'title')[:60]!r}")
        return Variant(
            where=group[0][0],
            item_id=handle,
            title=title,
            category="" if path.isdecimal() else category,
            brand=first("brand"),
            attributes=attributes,
            images=[image for _, image in images],
        )


def _attribute_name(name: str) -> str:
    name = name.strip().lower()
    return _ATTRIBUTE_NAMES.get(name, name)
