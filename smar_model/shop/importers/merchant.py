"""Importer of product feeds by Google Merchant Center's specification: RSS 2.0, Atom, TSV, CSV."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from smar_model.errors import InputError
from smar_model.shop.importers.delivered_files import delivered_files, each_unpacked, first_letters, refuse_page
from smar_model.shop.importers.feed_tables import FeedRow, feed_rows
from smar_model.shop.importers.feed_xml import xml_entries
from smar_model.shop.importers.offer_fields import availability_of, price_of
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

SOURCE = "merchant"
ENDINGS = (".xml", ".rss", ".atom", ".tsv", ".csv", ".txt")
MOST_ADDITIONAL = 10
"""Further pictures that the specification allows."""
MOST_VARIANTS = 10_000
"""Of one product."""
ATTRIBUTES = {
    "color": "colour", "material": "material", "pattern": "pattern", "size": "size", "gender": "gender", "age_group": "age group",
}  # fmt: skip
"""Field of the feed → name of the item's attribute."""
READ = {
    "id", "title", "brand", "product_type", "google_product_category", "item_group_id", "image_link", "additional_image_link",
    "gtin", "price", "sale_price", "availability", *ATTRIBUTES,
}  # fmt: skip
_NEXT_ADDRESS = re.compile(r",\s*(?=https?:|//)", re.IGNORECASE)
_NEXT_NAME = re.compile(r",\s*")
_NUMBER_ALONE = re.compile(r"\d+")


def import_merchant(
    paths: Sequence[Path], writer: ShopWriter, *, variants: Variants = "together", pictures: Path | None = None
) -> None:
    """Add the products of feeds: all files together are the catalogue.

    Raises:
        InputError: a file is missing, damaged, hostile, or no product feed.
    """
    items = ItemsOfVariants(writer, pictures)
    feed = _Feed(writer, apart=variants == "apart")
    with SpooledRecords(writer.scratch) as spool:
        writer.files = delivered_files(paths, ENDINGS)
        for name, file in each_unpacked(writer.files, writer.scratch):
            feed.put_down(name, file, spool)
        for key, records in products_of(spool, writer, most=MOST_VARIANTS, of="variants"):
            unlike = _first_of_each_id([Variant.of(record) for record in records], writer)
            if variants == "apart":
                items.add_apart(unlike)
            else:
                items.add_together(key, unlike)
    items.close()
    feed.add_notes()


def _first_of_each_id(variants: Sequence[Variant], writer: ShopWriter) -> list[Variant]:
    first: dict[str, Variant] = {}
    for variant in variants:
        met = first.setdefault(variant.item_id, variant)
        if met is variant:
            continue
        if are_alike(met.title, variant.title):
            reason = "rows whose id an earlier row has, as for another currency or country"
        else:
            reason = "rows whose id an earlier row has under quite another title: another language, or two products with one id?"
        example = f"{variant.where}: {variant.item_id!r} {variant.title[:40]!r}, before {met.title[:40]!r}"
        writer.leave_out(reason, example)
    return list(first.values())


class _Feed:
    def __init__(self, writer: ShopWriter, *, apart: bool) -> None:
        self._writer, self._apart = writer, apart
        self._texts = FeedTexts(writer)
        self._rows = 0
        self._not_read: dict[str, None] = {}

    def put_down(self, name: str, file: Path, spool: SpooledRecords) -> None:
        for where, fields in _rows(name, file, self._writer):
            self._rows += 1
            self._look_at(fields)
            ids = [found for text in fields.get("id", ()) if (found := self._texts.item_id(where, "id", text))]
            item_id = next(iter(ids), None)
            if item_id is None:
                self._writer.leave_out("products without an id", where)
                continue
            group = self._texts.item_id(where, "item_group_id", next(iter(fields.get("item_group_id", ())), None))
            variant = self._variant(where, item_id, fields)
            for further in dict.fromkeys(ids[1:]):
                if further != item_id:
                    self._writer.change("further ids of a product, kept as other names of it", f"{where}: {further!r}")
                    variant.names[further] = "variant"
            spool.add(item_id if self._apart or group is None else group, 0, variant.record())

    def add_notes(self) -> None:
        self._writer.note(f"products read: {self._rows:,} (each variant is one)")
        if self._not_read:
            self._writer.note(f"fields that the model does not read: {', '.join(list(self._not_read)[:40])}")

    def _look_at(self, fields: FeedRow) -> None:
        if len(self._not_read) < 100:
            self._not_read |= dict.fromkeys(name for name in fields if name not in READ)

    def _variant(self, where: str, item_id: str, fields: FeedRow) -> Variant:
        def first(name: str) -> str:
            texts = fields.get(name, [])
            if more := len(set(texts)) - 1 if len(texts) > 1 else 0:
                self._writer.leave_out(f"further values of {name} after the first of a product", where, count=more)
            return self._texts.clean(where, next(iter(texts), None))

        images = [part for text in fields.get("image_link", ()) for part in self._addresses(where, text)]
        additional = [part for text in fields.get("additional_image_link", ()) for part in _NEXT_ADDRESS.split(text)]
        if len(additional) > MOST_ADDITIONAL:
            reason = f"additional_image_link beyond the {MOST_ADDITIONAL} that the specification allows"
            self._writer.leave_out(reason, where, count=len(additional) - MOST_ADDITIONAL)
        gtin = self._texts.other_name(where, "gtin", first("gtin"))
        price, currency = self._price(where, first("sale_price")) or self._price(where, first("price")) or ("", "")
        availability = first("availability")
        available = availability_of(availability)
        if availability and available is None:
            self._writer.leave_out(
                "availability that is none of the specification's", f"{where}: {availability[:60]!r}"
            )
        return Variant(
            where=where,
            item_id=item_id,
            price=price,
            currency=currency,
            available=available,
            title=first("title"),
            category=self._category(where, fields),
            brand=first("brand"),
            attributes={name: text for field, name in ATTRIBUTES.items() if (text := first(field))},
            images=images + additional[:MOST_ADDITIONAL],
            names={gtin: "gtin"} if gtin else {},
        )

    def _price(self, where: str, text: str) -> tuple[str, str] | None:
        found = price_of(text) if text else None
        if text and found is None:
            self._writer.leave_out("prices that are none, as 15.00 EUR is one", f"{where}: {text[:60]!r}")
        return found

    def _addresses(self, where: str, text: str) -> list[str]:
        """One, or those that commas part."""
        found = (_NEXT_ADDRESS if "//" in text else _NEXT_NAME).split(text)
        if len(found) > 1:
            self._writer.change(
                "addresses of pictures that stood in one field, parted at its commas", where, count=len(found)
            )
        return found

    def _category(self, where: str, fields: FeedRow) -> str:
        """The shop's own path, the first where there are several; else Google's, where it is not a number alone."""
        for name in ("product_type", "google_product_category"):
            paths = [path for text in fields.get(name, ()) for path in _paths(self._texts.clean(where, text))]
            if name == "google_product_category" and paths and _NUMBER_ALONE.fullmatch(paths[0]):
                self._writer.leave_out("google_product_category that is a number alone: its words are needed", where)
                return ""
            if len(paths) > 1:
                self._writer.leave_out(f"{name}s beside the first of a product", where, count=len(paths) - 1)
            if paths:
                return " > ".join(level for part in paths[0].split(">") if (level := part.strip()))
        return ""


def _paths(text: str) -> list[str]:
    """Paths that commas part; a comma inside a level's name parts none."""
    parts = [part.strip() for part in text.split(",")]
    return parts if len(parts) > 1 and all(">" in part for part in parts) else [text] if text else []


def _rows(name: str, file: Path, writer: ShopWriter) -> Iterator[tuple[str, FeedRow]]:
    with file.open("rb") as raw:
        start = raw.read(512)
    if not start:
        raise InputError(f"{name}: empty; export it again")
    if first_letters(start).startswith(b"<"):
        refuse_page(name, start)
        yield from xml_entries(name, file, writer.note)
    else:
        yield from feed_rows(name, file, writer, key_of=_field, known=READ, needed=("id", "title"))


def _field(column: str) -> str:
    """`image_link`, for `g:image link` as well."""
    return "_".join(column.strip().lower().removeprefix("g:").replace("_", " ").replace("-", " ").split())
