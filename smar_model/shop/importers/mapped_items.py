"""Items of a mapped table, wherever in the file the rows of one item stand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from smar_model.shop.importers.category_paths import has_comma_in_doubt, path_levels
from smar_model.shop.importers.cells import Cells, decoded, ignore
from smar_model.shop.importers.delimited_text import Row
from smar_model.shop.importers.gathered_items import GatheredItem, Group, WaitingGroups
from smar_model.shop.importers.mapped_files import MappedFile
from smar_model.shop.importers.offer_fields import availability_of, is_currency, price_of
from smar_model.shop.importers.pictures import NamedPictures
from smar_model.shop.importers.row_groups import RowGroups
from smar_model.shop.importers.table_mapping import Items
from smar_model.shop.shop_writer import LISTED_AT, ShopWriter


def add_items(folder: Path, table: Items, writer: ShopWriter) -> None:
    """Add the items of a table's rows.

    Two readings: the first one counts the rows of each item, or product, so that only those that wait for a further
    row are in memory.

    Raises:
        InputError: the file is missing or damaged, lacks a column, or has a row that cannot be read.
    """
    rules = [*table.columns.rules, *([table.product] if table.product else [])]
    file = MappedFile(folder, table, rules, writer)
    keys = [table.columns.item_id, *([table.product] if table.product else [])]
    unheard = Cells(ignore, table.null_markers)
    ids = (
        (where, row, unheard.item_id(where, table.columns.item_id, row))
        for where, row in file.rows(keys, counted=False)
    )
    groups = RowGroups(key for where, row, item_id in ids if (key := _group(unheard, table, where, row, item_id)))
    pictures = NamedPictures(folder / table.pictures if table.pictures else None, writer)
    reader = _ItemReader(table, writer, pictures)
    waiting = WaitingGroups()
    for where, row in file.rows(rules):
        item = reader.read(where, row)
        key = _group(unheard, table, where, row, item.item_id)
        if key is None:
            writer.leave_out("rows without an item_id", where)
            continue
        group = waiting.take(key)
        reader.gather(group, item, is_of_product=key.startswith(_PRODUCT))
        if groups.is_last(key):
            reader.add(group)
        else:
            waiting.keep(key, group)
    for group in waiting.rest():
        reader.add(group)


_PRODUCT = "product "


def _group(cells: Cells, table: Items, where: str, row: Row, item_id: str | None) -> str | None:
    """What rows that belong together have in common; None for a row that belongs to nothing."""
    if table.product and (product := cells.text(where, table.product, row)):
        return _PRODUCT + product
    return item_id and f"item {item_id}"


class _ItemReader:
    def __init__(self, table: Items, writer: ShopWriter, pictures: NamedPictures) -> None:
        self._table, self._writer, self._pictures = table, writer, pictures
        self._cells = Cells(writer.change, table.null_markers)

    def read(self, where: str, row: Row) -> GatheredItem:
        """What one row says."""
        columns, cells = self._table.columns, self._cells
        item_id = cells.item_id(where, columns.item_id, row)
        attributes = {}
        for name, rule in columns.attributes.items():
            if values := list(dict.fromkeys(map(decoded, cells.parts(where, rule, row)))):
                attributes[name] = values
        price, currency, available = self._offer(where, row)
        item = GatheredItem(
            where,
            item_id,
            title=cells.written(where, columns.title, row),
            category=self._category(where, row),
            brand=cells.written(where, columns.brand, row) if columns.brand else None,
            attributes=attributes,
            images=list(dict.fromkeys(self._images(where, row, item_id))),
            updated_at=cells.time(where, columns.updated_at, row) if columns.updated_at else None,
            price=price,
            currency=currency,
            available=available,
        )
        item.limit(where, self._writer.leave_out)
        return item

    def gather(self, group: Group, item: GatheredItem, *, is_of_product: bool) -> None:
        """Put a row to those of its item and product."""
        if is_of_product:
            if group.product is None:
                group.product = GatheredItem(item.where)
            group.product.join(item, ignore)  # what differs between variants is no loss
        if item.item_id is None:
            return
        if (same := group.items.get(item.item_id)) is None:
            group.items[item.item_id] = item
        elif self._table.rows == "apart":
            self.add(group)
            self._add(item)  # which is refused
        else:
            what = "rows joined with the one above that has the same item_id"
            self._writer.change(what, f"{item.where}: {item.item_id}")
            same.join(item, self._writer.leave_out)

    def add(self, group: Group) -> None:
        """Add the items of a group whose rows have all been read."""
        if not group.items and group.product:
            self._writer.leave_out("products of which no row has an item_id", group.product.where)
        for item in group.items.values():
            if group.product:
                item.complete_from(group.product)
            self._add(item)

    def _add(self, item: GatheredItem) -> None:
        writer = self._writer
        if self._table.columns.updated_at and item.updated_at is None:
            writer.change(f"items without a time, taken for listed on {LISTED_AT.date()}", item.where)
        writer.add_item(
            item.where,
            item_id=f"{writer.source}-{item.item_id}",
            title=item.title,
            category=item.category,
            brand=item.brand,
            attributes={name: ", ".join(values) for name, values in item.attributes.items()},
            images=self._pictures.add(item.where, item.images),
            updated_at=item.updated_at or LISTED_AT,
            price=item.price,
            currency=item.currency,
            available=item.available,
        )

    def _offer(self, where: str, row: Row) -> tuple[str, str, bool | None]:
        """Price, its currency, and whether the item can be bought; what is none is left out and counted."""
        columns, cells = self._table.columns, self._cells
        text = (cells.text(where, columns.price, row) if columns.price else None) or ""
        found = price_of(text)
        if text and found is None:
            self._writer.leave_out("prices that are none, as 15.00 or 15.00 EUR is one", f"{where}: {text[:60]!r}")
        price, currency = found or ("", "")
        if code := cells.text(where, columns.currency, row) if columns.currency else None:
            if not is_currency(code):
                reason = "currencies that are no ISO 4217 code, as EUR is one"
                self._writer.leave_out(reason, f"{where}: {code[:60]!r}")
            elif price:
                currency = code.upper()
        word = (cells.choice(where, columns.available, row) if columns.available else None) or ""
        available = availability_of(word)
        if word and available is None:
            reason = "words for `available` that are neither true nor false; `values` says what they mean"
            self._writer.leave_out(reason, f"{where}: {word[:60]!r}")
        return price, currency, available

    def _category(self, where: str, row: Row) -> str | None:
        levels: list[str] = []
        for rule in self._table.columns.category:
            texts, is_list = self._cells.list_or_text(where, rule, row)
            path = path_levels(where, rule, texts, is_list=is_list, leave_out=self._leave_out)
            if has_comma_in_doubt(rule, path):
                what = 'categories with a comma, taken for a part of the name; `between_paths: ","` takes it for the end of a path'
                self._writer.change(what, f"{where}: {' > '.join(path)}")
            levels += path
        return " > ".join(levels) or None

    def _images(self, where: str, row: Row, item_id: str | None) -> Iterator[str]:
        for rule in self._table.columns.images:
            if rule.pattern is None:
                yield from self._cells.parts(where, rule, row)
            elif item_id is not None:
                yield rule.name_for(item_id)

    def _leave_out(self, reason: str, example: str, count: int) -> None:
        self._writer.leave_out(reason, example, count=count)
