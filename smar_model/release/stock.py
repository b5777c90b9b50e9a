"""Prices and stock that change by the hour: a small table beside the index, which a running server takes up without touching vectors
(`stock_tables.py`).
"""

from __future__ import annotations

import hashlib
import io
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from babel.numbers import list_currencies

from smar_model.delivery.column_casts import unknown_columns
from smar_model.delivery.delivered_tables import DeliveredFile
from smar_model.delivery.shop_inputs import SUFFIXES, ShopInputs
from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.lake.durable_files import replace_plain_file
from smar_model.lake.object_paths import AnyPath
from smar_model.lake.shared_files import files_in, is_file, remove_file, replace_file, share_files
from smar_model.release.stock_tables import StockPointer, current_stock, stock_folder
from smar_model.release.written_prices import WrittenPrices, written_prices
from smar_model.settings import Settings

KEPT = 3
"""Tables, the newest first: a server may still be reading the one before."""
HIGHEST_PRICE = 99_999_999_999_999
SHOWN_NAMES = 5
PROGRESS = 1_000_000
"""Rows after which it is said how many have been read."""
_BAD_PRICE = f"prices that are negative or more than {HIGHEST_PRICE:,}, left empty"
_CURRENCIES = pa.array(sorted(list_currencies()), pa.string())
"""Codes of ISO 4217, also of currencies that are no more. One letter beside would make a currency of its own, which no filter means."""


def refresh_stock(
    settings: Settings, source: AnyPath | None, known_items: Callable[[], pa.Array | None], say: Callable[[str], None]
) -> StockPointer:
    """Publish a table of prices and stock, whole or not at all.

    Args:
        source: a Parquet file or JSON lines; None: the shop's own, `stock.parquet` or `stock.jsonl`.
        known_items: ids of the champion's index; None where there is no champion.
        say: told what was left out and why.

    Raises:
        InputError: there is no such file, it is damaged or empty, or a value is none of its column's type.
    """
    file = source or _shops_own(settings)
    shop = ShopInputs.of(settings)
    contract = load_contract("stock")
    judge = _Judge(say)
    delivered = DeliveredFile(file, contract, shop.zone)
    batches = [judge.usable(batch) for batch in delivered.batches()]
    _judge_columns(delivered, say)
    nullable = pa.schema([field.with_nullable(True) for field in contract.arrow_schema()])
    rows = judge.newest(pa.Table.from_batches(batches, nullable))
    judge.tell(written_prices(file, HIGHEST_PRICE))
    _tell_without_currency(rows, say)
    if not rows.num_rows:
        raise InputError(f"{file}: no row with an item_id; what counts until now stays")
    if all(rows[name].null_count == rows.num_rows for name in ("price", "currency", "available")):
        raise InputError(
            f"{file}: none of its {rows.num_rows:,} rows says a price, a currency or whether the item is available; "
            "deliver it as schemas/stock.yaml says; what counts until now stays"
        )
    known = known_items()
    if known is not None:
        unknown = rows.filter(pc.invert(pc.is_in(rows["item_id"], known)))
        if unknown.num_rows == rows.num_rows:
            raise InputError(
                f"{file}: none of its {rows.num_rows:,} items is in the champion's index, as {unknown['item_id'][0].as_py()!r}; "
                "write ids as items.parquet does"
            )
        if unknown.num_rows:
            say(
                f"unknown: {unknown.num_rows:,} {'item' if unknown.num_rows == 1 else 'items'} that the index does not have, such as {unknown['item_id'][0].as_py()!r}"
            )
    return _publish(settings, file, rows.cast(contract.arrow_schema()))


def _judge_columns(delivered: DeliveredFile, say: Callable[[str], None]) -> None:
    """Raises InputError: a column's name is nearly one of the table's that the file lacks."""
    known = ", ".join(column.name for column in delivered.contract.columns)
    unknown = unknown_columns(delivered.names, delivered.contract)
    for name, meant in unknown.items():
        if meant:
            raise InputError(
                f"{delivered.file}: there is no column {name!r}; did you mean {meant!r}? Rename it (schemas/stock.yaml has {known})"
            )
    if unknown:
        shown = ", ".join(repr(name[:40]) for name in list(unknown)[:SHOWN_NAMES])
        say(f"columns that are not read: {len(unknown):,}, such as {shown}; schemas/stock.yaml has {known}")


def _tell_without_currency(rows: pa.Table, say: Callable[[str], None]) -> None:
    without = rows.filter(pc.and_(pc.is_valid(rows["price"]), pc.is_null(rows["currency"])))
    if without.num_rows:
        say(
            f"prices without a currency: {without.num_rows:,}, such as {without['item_id'][0].as_py()!r}; each is in the currency that "
            "the index has for the item, else in the only one that there is; where there are several no filter by price finds it"
        )


def _shops_own(settings: Settings) -> AnyPath:
    root = ShopInputs.of(settings).root
    there = [path for suffix in SUFFIXES if (path := root / f"stock{suffix}").is_file()]
    if len(there) == 1:
        return there[0]
    if there:
        raise InputError(f"{root}: has {' and '.join(p.name for p in there)}; deliver one, or name it with --from")
    raise InputError(f"{root / 'stock.parquet'}: no such file, nor stock.jsonl; deliver it, or name one with --from")


class _Judge:
    """Leaves empty what is no price or currency, batch by batch, and counts it."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._left_out, self._examples = Counter[str](), dict[str, str]()
        self._is_cut = False
        """Whether the example of a bad price is beyond what its type holds, so that the file alone says what it was."""
        self.rows = 0
        """Read until now."""

    def usable(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of a batch with an item."""
        items = pc.fill_null(pc.utf8_trim_whitespace(batch["item_id"]), "")
        named = pc.not_equal(items, "")
        self._count("rows without an item_id", pc.invert(named), lambda n: f"row {self.rows + n}")
        prices, codes = batch["price"], pc.utf8_upper(pc.utf8_trim_whitespace(batch["currency"]))
        lowest, highest = (pa.scalar(Decimal(bound), prices.type) for bound in (0, HIGHEST_PRICE))
        bad = pc.fill_null(pc.or_(pc.less(prices, lowest), pc.greater(prices, highest)), False)
        if _BAD_PRICE not in self._examples and (place := pc.index(pc.and_(bad, named), True).as_py()) >= 0:
            self._is_cut = abs(prices[place].as_py()) > HIGHEST_PRICE
        self._count(_BAD_PRICE, pc.and_(bad, named), lambda n: f"{items[n]}: {prices[n]}")
        is_code = pc.is_in(codes, _CURRENCIES)
        odd = pc.and_(pc.fill_null(pc.not_equal(codes, ""), False), pc.invert(is_code))
        what = "currencies that are no ISO 4217 code, left empty"
        self._count(what, pc.and_(odd, named), lambda n: f"{items[n]}: {codes[n].as_py()[:40]!r}")
        columns = {
            "item_id": items,
            "price": pc.if_else(bad, pa.scalar(None, prices.type), prices),
            "currency": pc.if_else(is_code, codes, pa.scalar(None, codes.type)),
        }
        before, self.rows = self.rows, self.rows + batch.num_rows
        if self.rows // PROGRESS > before // PROGRESS:
            self._say(f"read: {self.rows:,} rows")
        arrays = [columns.get(name, batch[name]) for name in batch.schema.names]
        return pa.RecordBatch.from_arrays(arrays, schema=batch.schema).filter(named)

    def newest(self, rows: pa.Table) -> pa.Table:
        """One row an item, by item: the newest, of those of one time the last. A row without a time is older than any."""
        times = pc.fill_null(pc.cast(rows["updated_at"], pa.int64()), np.iinfo(np.int64).min)
        numbers = pa.array(np.arange(rows.num_rows))
        ordered = pa.table({"item_id": rows["item_id"], "time": times, "number": numbers})
        order = pc.sort_indices(ordered, sort_keys=[(name, "ascending") for name in ordered.column_names])
        rows = rows.take(order).combine_chunks()
        items = rows["item_id"]
        if len(items) < 2:
            return rows
        is_last = pc.not_equal(items.slice(0, len(items) - 1), items.slice(1))
        again = pc.invert(is_last)
        what = "rows of an item that has several, of which the newest by updated_at counts, of one time or without one the last in the file, left out"
        self._count(what, again, lambda n: items[n].as_py())
        return rows.filter(pa.chunked_array([*is_last.chunks, pa.array([True])]))

    def tell(self, written: WrittenPrices) -> None:
        if self._is_cut and written.beyond:
            self._examples[_BAD_PRICE] = written.beyond
        if written.not_numbers:
            what = "prices that are NaN, taken for empty"
            self._left_out[what], self._examples[what] = written.not_numbers, written.not_number
        for reason, rows in sorted(self._left_out.items()):
            self._say(f"{reason}: {rows:,}, such as {self._examples[reason]}")

    def _count(self, reason: str, which: pa.Array, example: Callable[[int], str]) -> None:
        if rows := pc.sum(which).as_py():
            self._left_out[reason] += rows
            if reason not in self._examples:
                self._examples[reason] = example(pc.index(which, True).as_py())


def _publish(settings: Settings, source: AnyPath, rows: pa.Table) -> StockPointer:
    folder = stock_folder(settings)
    sink = io.BytesIO()
    pq.write_table(rows, sink, compression="zstd")
    digest = hashlib.sha256(sink.getvalue()).hexdigest()
    path = folder / f"{digest}.parquet"
    replace_plain_file(path, sink.getvalue())
    share_files([path])
    try:
        before = current_stock(settings)
    except InputError:  # damaged: replaced now
        before = None
    tables = tuple(dict.fromkeys([digest, *(before.tables if before else ())]))[:KEPT]
    pointer = StockPointer(
        digest=digest, items=rows.num_rows, published_at=time.time(), source=str(source), tables=tables
    )
    replace_file(folder / "current.json", pointer.model_dump_json(indent=1))
    for old in files_in(folder, ".parquet"):
        if old.stem not in tables and is_file(old):
            remove_file(old)
    return pointer
