"""Variants of a product as one item, or as an item each; and by which other names logs may call them."""

from __future__ import annotations

import html
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from difflib import SequenceMatcher
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from smar_model.delivery.picture_stores import is_url
from smar_model.errors import InputError
from smar_model.shop.importers.event_fields import id_of
from smar_model.shop.importers.html_texts import without_tags
from smar_model.shop.importers.item_ids import has_lost_digits, refuse_lost_digits, without_apostrophe
from smar_model.shop.importers.offer_fields import lowest_offer
from smar_model.shop.importers.spooled_records import SpooledRecords
from smar_model.shop.shop_writer import ShopWriter, is_inner_path, squeeze

Variants = Literal["together", "apart"]
LONGEST_ADDRESS = 2_000
"""Characters of a picture's address; feeds allow as many."""
MOST_VALUES = 20
"""Values of an attribute that an item keeps, as a shoe has sizes."""
LONGEST_NAME = 255
"""Bytes of a file's name."""
LARGEST_PICTURE = 50 * 2**20
"""Bytes of a picture in a zip."""
MOST_PICTURES = 30
"""Of an item; an embedding uses the first four usable ones."""
MOST_LETTERS = 0.6
"""Share of the letters, in their order, that titles of one product have in common; languages without spaces have no words."""
_SEPARATORS = re.compile(r"[-–—|/,:;()\[\]]+")


@dataclass(slots=True, kw_only=True)
class Variant:
    """A row of a feed that can be bought."""

    where: str
    item_id: str
    title: str
    category: str = ""
    """Path from department to leaf."""
    brand: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    """Addresses as they stand in the feed."""
    names: dict[str, str] = field(default_factory=dict)
    """Other names, such as a GTIN: name → kind, as in `schemas/item_aliases.yaml`."""
    price: str = ""
    currency: str = ""
    available: bool | None = None

    def record(self) -> list[Any]:
        return [asdict(self)]

    @classmethod
    def of(cls, record: list[Any]) -> Variant:
        return cls(**record[0])


def products_of(
    spool: SpooledRecords, writer: ShopWriter, *, most: int, of: str
) -> Iterator[tuple[str, list[list[Any]]]]:
    """Records of each product, by its key: the first `most`; those beyond, which are `of` a kind, are counted."""
    for key, records in spool.groups():
        first = list(islice(records, most))
        if rest := sum(1 for _ in records):
            writer.leave_out(f"{of} beyond the first {most:,} of a product", repr(key), count=rest)
        yield key, first


class FeedTexts:
    """Reads the texts of a feed's fields, and counts what it mends."""

    def __init__(self, writer: ShopWriter) -> None:
        self._writer = writer

    def clean(self, where: str, text: str | None) -> str:
        """White space as single spaces, HTML entities decoded (feeds write `&amp;` inside XML too), tags taken out."""
        if not text:
            return ""
        decoded = html.unescape(text)
        bare = without_tags(decoded)
        if bare != decoded:
            self._writer.change("texts with HTML tags, which were taken out", f"{where}: {text.strip()[:60]!r}")
        return squeeze(bare)

    def item_id(self, where: str, column: str, text: str | None) -> str | None:
        """An id, without the apostrophe by which a spreadsheet takes it for a text.

        Raises:
            InputError: a spreadsheet has dropped its last digits.
        """
        found = self._id(where, column, text)
        refuse_lost_digits(where, column, found)
        return found

    def other_name(self, where: str, column: str, text: str | None) -> str | None:
        """An id by which logs may call an item; None, and counted, where its last digits are gone."""
        found = self._id(where, column, text)
        if found and has_lost_digits(found):
            reason = "other names whose last digits a spreadsheet has dropped: export the column as text"
            self._writer.leave_out(reason, f"{where}: {column} {found!r}")
            return None
        return found

    def _id(self, where: str, column: str, text: str | None) -> str | None:
        found = id_of(text)
        bare = found and without_apostrophe(found)
        if bare != found:
            self._writer.change(
                "ids with an apostrophe before their digits, which was taken off", f"{where}: {column} {found!r}"
            )
        return bare


class ItemsOfVariants:
    """Adds items made of variants; `close` adds their other names."""

    def __init__(self, writer: ShopWriter, pictures: Path | None) -> None:
        """Take pictures from a folder or zip where it has them, by the file name that ends their address.

        Raises:
            InputError: there is no such folder or zip.
        """
        self._writer = writer
        self._pictures = DeliveredPictures(pictures) if pictures else None
        self._names: dict[str, tuple[str, str] | None] = {}
        """Name → item and kind; None for one that several items have."""
        self._items: set[str] = set()

    def add_together(self, item_id: str, variants: Sequence[Variant]) -> None:
        """One item of all variants: values and pictures of all, the rest from the first that says something."""
        first = variants[0]
        title = _common_title(variants)
        if title != first.title and len(variants) > 1:
            self._writer.change("titles of variants without what their attributes say", f"{first.where}: {title!r}")
        attributes: dict[str, str] = {}
        for name in dict.fromkeys(name for variant in variants for name in variant.attributes):
            values = list(dict.fromkeys(v.attributes[name] for v in variants if v.attributes.get(name)))
            if len(values) > MOST_VALUES:
                reason = f"values of an attribute beyond the first {MOST_VALUES} of an item"
                self._writer.leave_out(reason, f"{name} of {item_id!r}", count=len(values) - MOST_VALUES)
            attributes[name] = ", ".join(values[:MOST_VALUES])
        # The main picture of each variant before further views of the first.
        price, currency, available = lowest_offer(variants)
        mains = [variant.images[0] for variant in variants if variant.images]
        self._add(
            item_id,
            Variant(
                where=first.where,
                item_id=item_id,
                title=title,
                category=next((v.category for v in variants if v.category), ""),
                brand=next((v.brand for v in variants if v.brand), ""),
                attributes=attributes,
                images=mains + [image for variant in variants for image in variant.images],
                price=price,
                currency=currency,
                available=available,
            ),
        )
        for variant in variants:
            self._name(variant.item_id, item_id, "variant")
            for name, kind in variant.names.items():
                self._name(name, item_id, kind)

    def add_apart(self, variants: Sequence[Variant]) -> None:
        """An item of each variant."""
        for variant in variants:
            self._add(variant.item_id, variant)
            for name, kind in variant.names.items():
                self._name(name, variant.item_id, kind)

    def close(self) -> None:
        for name, meant in sorted(self._names.items()):
            if meant is None:
                self._writer.leave_out("other names that several items have", repr(name))
            elif name not in self._items:
                self._writer.add_alias(name, *meant)
            elif name != meant[0]:
                self._writer.leave_out("other names that are another item's id", repr(name))

    def _name(self, name: str, item_id: str, kind: str) -> None:
        if name == item_id:
            return
        met = self._names.setdefault(name, (item_id, kind))
        if met is not None and met[0] != item_id:
            self._names[name] = None

    def _add(self, item_id: str, variant: Variant) -> None:
        if not variant.title:
            self._writer.leave_out("items without a title", variant.where)
            return
        if item_id in self._items:
            self._writer.leave_out("items whose id an earlier item has", f"{variant.where}: {item_id!r}")
            return
        self._items.add(item_id)
        images = list(
            dict.fromkeys(name for image in dict.fromkeys(variant.images) if (name := self._picture(variant, image)))
        )
        if len(images) > MOST_PICTURES:
            reason = f"pictures beyond the first {MOST_PICTURES} of an item"
            self._writer.leave_out(reason, variant.where, count=len(images) - MOST_PICTURES)
        self._writer.add_item(
            variant.where,
            item_id=item_id,
            title=variant.title,
            category=variant.category,
            brand=variant.brand,
            attributes=variant.attributes,
            images=images[:MOST_PICTURES],
            price=variant.price,
            currency=variant.currency,
            available=variant.available,
        )

    def _picture(self, variant: Variant, text: str) -> str | None:
        """Name of a picture in the shop, or its address; None, and counted, where it is neither."""
        address = html.unescape(text.strip())
        if address.startswith("//"):
            self._writer.change("addresses of pictures without a scheme, read as https", variant.where)
            address = f"https:{address}"
        if self._pictures is not None:
            name = PurePosixPath(unquote(_path_of(address))).name if is_url(address) else address
            if (content := self._pictures.find(name)) is not None:
                return self._writer.add_picture(f"{self._writer.source}/{name}", content)
        if not is_url(address) or len(address) > LONGEST_ADDRESS or any(c.isspace() and c != " " for c in address):
            self._writer.leave_out("pictures that are no address (http, https)", f"{variant.where}: {address[:80]!r}")
            return None
        return address


class DeliveredPictures:
    """Files of pictures on this machine, in a folder or a zip, with or without folders inside."""

    def __init__(self, place: Path) -> None:
        """Raises InputError where there is no such folder or zip."""
        self._place = place
        self._archive: zipfile.ZipFile | None = None
        if place.is_dir():
            return
        try:
            self._archive = zipfile.ZipFile(place)
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(f"{place}: neither a folder of pictures nor a zip of them ({error})") from None
        self._entries = {PurePosixPath(entry.filename).name: entry for entry in self._archive.infolist()}

    def find(self, name: str) -> bytes | Path | None:
        """The file of a name; None where there is none, or a name that leads elsewhere."""
        if not is_inner_path(name) or "\0" in name or len(name.encode()) > LONGEST_NAME:
            return None
        if self._archive is None:
            path = self._place / name
            inside = path.is_file() and path.resolve().is_relative_to(self._place.resolve())
            return path if inside else None
        entry = self._entries.get(PurePosixPath(name).name)
        if entry is None or entry.file_size > LARGEST_PICTURE:
            return None
        try:
            return self._archive.read(entry)
        except (zipfile.BadZipFile, OSError, EOFError, zlib.error, RuntimeError, NotImplementedError) as error:
            raise InputError(f"{self._place}: damaged at {name} ({error}); pack it again") from None


def _path_of(address: str) -> str:
    try:
        return urlsplit(address).path
    except ValueError:  # half of an IPv6 address
        return ""


def _common_title(variants: Sequence[Variant]) -> str:
    """The title; where variants have titles of their own, what these have in common once their last words that only say
    an attribute are gone, else the first.
    """
    if len({variant.title for variant in variants}) > 1:
        bare = {_without_attributes(variant) for variant in variants}
        if len(bare) == 1:
            return bare.pop()
    return variants[0].title


def _without_attributes(variant: Variant) -> str:
    said = {word for value in variant.attributes.values() for word in _words(value)}
    words = variant.title.split()
    while len(words) > 1 and all(word in said for word in _words(words[-1])):
        words.pop()
    return " ".join(words)


def are_alike(title: str, other: str) -> bool:
    """Whether two titles may be of one product: they share a word, or most letters; or one is empty."""
    if not title or not other or not set(_words(title)).isdisjoint(_words(other)):
        return True
    return SequenceMatcher(None, title.casefold()[:200], other.casefold()[:200]).ratio() > MOST_LETTERS


def _words(text: str) -> list[str]:
    return _SEPARATORS.sub(" ", text.casefold()).split()
