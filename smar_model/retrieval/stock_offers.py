"""Prices and stock of a table (schemas/stock.yaml) in the place of those that an index was made with."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smar_model.retrieval.item_filters import ItemFilters, Offers


def with_stock(filters: ItemFilters, own: Offers, item_ids: pa.Array, rows: pa.Table) -> tuple[ItemFilters, int]:
    """Filters by a stock table, and how many of the N items it says something about.

    Args:
        own: what the index was made with, which stays where the table says nothing.
        item_ids: (N,) of the index.
        rows: the table, one row an item.
    """
    places = pc.index_in(item_ids, rows["item_id"])
    new = Offers.of(*(rows[name].combine_chunks().take(places) for name in ("price", "currency", "available")))
    codes = tuple(dict.fromkeys([*own.codes, *new.codes]))
    # The last one stands for −1, no currency.
    renumbered = np.array([*(codes.index(code) for code in new.codes), -1], dtype=np.int16)
    currencies = renumbered[new.currencies]
    priced = rows.filter(pc.is_valid(rows["price"]))
    named = {code for code in priced["currency"].unique().to_pylist() if code}
    offers = Offers(
        prices=np.where(new.prices >= 0, new.prices, own.prices),
        currencies=np.where(currencies >= 0, currencies, own.currencies),
        codes=codes,
        available=np.where(new.available >= 0, new.available, own.available),
        named=own.named | named,
    )
    return filters.with_offers(offers), len(places) - places.null_count
