"""Items from rows of which several may tell of one: of variants, pictures, languages."""

from __future__ import annotations

import marshal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from smar_model.shop.importers.offer_fields import lowest_offer

MOST_PICTURES = 1_000
MOST_VALUES = 1_000
"""Of one attribute of an item."""
LeaveOut = Callable[[str, str], None]
_TEXTS = ("title", "category", "brand")


@dataclass(slots=True)
class GatheredItem:
    """What the rows of an item, or of a product, say until now."""

    where: str
    """The first row."""
    item_id: str | None = None
    title: str | None = None
    category: str | None = None
    brand: str | None = None
    attributes: dict[str, list[str]] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    """As the rows name them."""
    price: str = ""
    currency: str = ""
    available: bool | None = None
    updated_at: datetime | None = None

    def plain(self) -> tuple[Any, ...]:
        """The fields, as `GatheredItem.of` takes them, of types that `marshal` knows."""
        time = self.updated_at and self.updated_at.isoformat()
        texts = (self.where, self.item_id, self.title, self.category, self.brand)
        return (*texts, self.attributes, self.images, self.price, self.currency, self.available, time)

    @staticmethod
    def of(plain: tuple[Any, ...]) -> GatheredItem:
        """The item of which `plain` are the fields."""
        item = GatheredItem(*plain)
        item.updated_at = plain[-1] and datetime.fromisoformat(plain[-1])
        return item

    def join(self, other: GatheredItem, leave_out: LeaveOut) -> None:
        """Take in a further row: its pictures, other values of attributes, a later time, texts that are missing, a lower price.

        Args:
            leave_out: is told of texts that differ from the first row's, and of what is too much.
        """
        for name in _TEXTS:
            first, further = getattr(self, name), getattr(other, name)
            if not first:
                setattr(self, name, further)
            elif further and further != first:
                reason = f"values of {name} that differ from those of the same item's first row"
                leave_out(reason, f"{other.where}: {further[:60]!r}")
        for name, values in other.attributes.items():
            mine = self.attributes.setdefault(name, [])
            mine += [value for value in values if value not in mine]
        self.images += [image for image in other.images if image not in self.images]
        self.limit(other.where, leave_out)
        self.price, self.currency, self.available = lowest_offer([self, other])
        if other.updated_at and (self.updated_at is None or other.updated_at > self.updated_at):
            self.updated_at = other.updated_at

    def limit(self, where: str, leave_out: LeaveOut) -> None:
        """Keep as much as an item may have; row `where` brought what is more."""
        for name, values in self.attributes.items():
            if len(values) > MOST_VALUES:
                leave_out(f"values of an item's attribute after the first {MOST_VALUES:,}", f"{where}: {name}")
                del values[MOST_VALUES:]
        if len(self.images) > MOST_PICTURES:
            leave_out(f"pictures of an item after the first {MOST_PICTURES:,}", where)
            del self.images[MOST_PICTURES:]

    def complete_from(self, product: GatheredItem) -> None:
        """Take from the rows of the whole product what this variant's own leave empty; of attributes those on which all agree."""
        for name in _TEXTS:
            setattr(self, name, getattr(self, name) or getattr(product, name))
        agreed = {name: values for name, values in product.attributes.items() if len(values) == 1}
        self.attributes = agreed | self.attributes
        self.images = list(dict.fromkeys(self.images + product.images))[:MOST_PICTURES]
        self.updated_at = self.updated_at or product.updated_at
        if not self.price:
            self.price, self.currency = product.price, product.currency
        if self.available is None:
            self.available = product.available


@dataclass(slots=True)
class Group:
    """Rows that belong together: of one item, or of one product with its variants."""

    product: GatheredItem | None = None
    """What they all say; None where they are of one item."""
    items: dict[str, GatheredItem] = field(default_factory=dict)
    """By item id, in the order of the file."""


class WaitingGroups:
    """Groups that wait for further rows, which stand beside each other as a rule: all but the latest group are packed.

    Two million items of which each waits for a row at the end of the file take about 1.2 GB.
    """

    def __init__(self) -> None:
        self._latest: tuple[str, Group] | None = None
        self._packed: dict[str, bytes] = {}

    def take(self, key: str) -> Group:
        """The rows of a group until now; they no longer wait."""
        if self._latest and self._latest[0] == key:
            group, self._latest = self._latest[1], None
            return group
        packed = self._packed.pop(key, None)
        if packed is None:
            return Group()
        product, items = marshal.loads(packed)
        gathered = map(GatheredItem.of, items)
        return Group(product and GatheredItem.of(product), {str(item.item_id): item for item in gathered})

    def keep(self, key: str, group: Group) -> None:
        """Let a group wait."""
        if self._latest:
            self._pack(*self._latest)
        self._latest = key, group

    def rest(self) -> Iterator[Group]:
        """All that still wait."""
        if self._latest:
            self._pack(*self._latest)
        for key in list(self._packed):
            yield self.take(key)

    def _pack(self, key: str, group: Group) -> None:
        product = group.product.plain() if group.product else None
        self._packed[key] = marshal.dumps((product, [item.plain() for item in group.items.values()]))
        self._latest = None
