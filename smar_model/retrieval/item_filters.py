"""Which items of an index match filters (`filter_language.py`), by postings of each field, prices and stock as arrays."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smar_model.errors import InputError
from smar_model.retrieval.arrow_numbers import numbers
from smar_model.retrieval.filter_language import (
    PRICE_SCALE,
    Field,
    ItemFilter,
    PriceFilter,
    ValueFilter,
    folded,
    parse_filters,
)

KEPT_SELECTIONS = 32
"""Compositions whose bitmap is kept: shoppers ask for the same few again and again. An eighth of a byte an item each."""
SHOWN_NAMES = 20
EXAMPLE_ITEMS = 10_000
"""Items, from the first on, of which examples of attributes are taken."""
EXAMPLE_ATTRIBUTES = 3
NEAREST_VALUES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """Price and stock of N items, in the order of the index."""

    prices: np.ndarray
    """(N,) int64, in ten-thousandths; −1: unknown."""
    currencies: np.ndarray
    """(N,) int16, places in `codes`; −1: unknown."""
    codes: tuple[str, ...]
    available: np.ndarray
    """(N,) int8: 1, 0, or −1 where nobody says."""
    named: frozenset[str] = frozenset()
    """Currencies of prices that are of the index, but not of these items: of its other parts."""

    @classmethod
    def of(cls, price: pa.Array, currency: pa.Array, available: pa.Array) -> Offers:
        """Of the columns of a table."""
        codes = pc.cast(currency, pa.string()).dictionary_encode()
        return cls(
            prices=ten_thousandths(price),
            currencies=numbers(codes.indices.fill_null(-1)).astype(np.int16),
            codes=tuple(codes.dictionary.to_pylist()),
            available=numbers(pc.cast(available, pa.int8()).fill_null(-1)).astype(np.int8),
        )

    @classmethod
    def unknown(cls, items: int) -> Offers:
        nothing = np.full(items, -1)
        return cls(prices=nothing, currencies=nothing.astype(np.int16), codes=(), available=nothing.astype(np.int8))

    def priced_in(self) -> list[str]:
        """Currencies of the prices, sorted; an empty one where a price says none: beside a single one it is taken to be in that."""
        used = np.unique(self.currencies[self.prices >= 0])
        return sorted({self.codes[n] if n >= 0 else "" for n in used.tolist()} | self.named)


def ten_thousandths(price: pa.Array) -> np.ndarray:
    """Prices (N,) of decimal(18,4) as int64; −1 where there is none."""
    price = price.combine_chunks() if isinstance(price, pa.ChunkedArray) else price
    price = price.cast(pa.decimal128(18, 4))
    # The lower half of 128 bits holds all 18 digits.
    data = price.buffers()[1]
    if data is None or not len(price):
        return np.full(len(price), -1, dtype=np.int64)
    halves = np.frombuffer(data, dtype=np.int64)[2 * price.offset : 2 * (price.offset + len(price)) : 2]
    return np.where(numbers(price.is_valid()) == 1, halves, -1)


class _Postings:
    """Value → rows that have it, of one field: 4 bytes for each value of each item."""

    def __init__(self, items: int, rows: np.ndarray, values: pa.Array, *, are_lists: bool) -> None:
        """
        Args:
            rows: (V,) row of each value; a row may have several.
            values: (V,) texts.
            are_lists: whether a text may be several values that commas part, as `S, M, L`; the whole is one as well.
        """
        self.items = items
        encoded = values.dictionary_encode()
        codes = numbers(encoded.indices)
        order = np.argsort(codes, kind="stable")
        self._rows = rows[order].astype(np.int32)
        self._starts = np.searchsorted(codes[order], np.arange(len(encoded.dictionary) + 1))
        self._codes: dict[str, list[int]] = {}
        for code, text in enumerate(encoded.dictionary.to_pylist()):
            for value in dict.fromkeys([folded(text), *(map(folded, text.split(",")) if are_lists else ())]):
                if value:
                    self._codes.setdefault(value, []).append(code)

    def known(self) -> np.ndarray:
        """(N,) bool: rows that have any value."""
        return self._marked(self._rows)

    def having(self, values: Sequence[str]) -> np.ndarray:
        """(N,) bool: rows that have one of the values."""
        codes = dict.fromkeys(code for value in values for code in self._codes.get(value, ()))
        parts = [self._rows[self._starts[code] : self._starts[code + 1]] for code in codes]
        return self._marked(np.concatenate(parts) if parts else np.zeros(0, np.int32))

    def nearest(self, value: str) -> list[str]:
        """Values that are written nearly alike; else the commonest."""
        near = get_close_matches(value, self._codes, n=NEAREST_VALUES)
        return near or sorted(self._codes, key=lambda each: (-self._size(each), each))[:NEAREST_VALUES]

    def _size(self, value: str) -> int:
        return sum(int(self._starts[code + 1] - self._starts[code]) for code in self._codes[value])

    def _marked(self, rows: np.ndarray) -> np.ndarray:
        marked = np.zeros(self.items, dtype=bool)
        marked[rows] = True
        return marked


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemOffer:
    """Price and stock of one item, as filters go by them."""

    price: float | None
    currency: str | None
    available: bool | None


class ItemFilters:
    """Which rows of an index match filters. Any number of threads may ask; a field is looked through when it is first asked for."""

    def __init__(
        self, items: Mapping[str, Any], offers: Offers | None = None, *, currencies: Collection[str] = ()
    ) -> None:
        """
        Args:
            items: columns of `index_items`, as Arrow arrays or sequences; those of an older index may lack some.
            offers: price and stock in the place of those of `items`.
            currencies: of prices of the whole index, of which these items may be a part.
        """
        self._items = items
        self._count = len(items["item_id"])
        self.offers = offers or self._own_offers(frozenset(currencies))
        self._postings: dict[tuple[Field, str], _Postings] = {}
        self._attributes: tuple[list[str], np.ndarray, np.ndarray, pa.Array] | None = None
        self._kept: OrderedDict[tuple[str, ...], np.ndarray] = OrderedDict()
        self._lock = Lock()

    def with_offers(self, offers: Offers) -> ItemFilters:
        """The same items with other prices and stock; what was looked through of the other fields is shared."""
        other = ItemFilters(self._items, offers)
        other._postings, other._attributes = self._postings, self._attributes
        return other

    def offer(self, row: int) -> ItemOffer:
        """Of one row; a currency of a price alone."""
        offers = self.offers
        price, place, available = int(offers.prices[row]), int(offers.currencies[row]), int(offers.available[row])
        return ItemOffer(
            price=price / PRICE_SCALE if price >= 0 else None,
            currency=offers.codes[place] if price >= 0 and place >= 0 else None,
            available=None if available < 0 else available == 1,
        )

    @cached_property
    def has_prices(self) -> bool:
        return bool(self.offers.named) or bool((self.offers.prices >= 0).any())

    @cached_property
    def has_stock(self) -> bool:
        return bool((self.offers.available >= 0).any())

    @cached_property
    def attribute_examples(self) -> dict[str, str]:
        """The attributes that most of the first items have → the commonest value of each; none of an index that kept no attributes."""
        column = _array(self._items.get("attributes"), pa.map_(pa.string(), pa.string()))
        if column is None:
            return {}
        pairs = column.slice(0, EXAMPLE_ITEMS).cast(_PAIRS).flatten().to_pylist()
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for pair in pairs:
            if pair["value"] and not set('|";') & set(pair["value"]):
                counts[folded(pair["key"])][folded(pair["value"])] += 1
        commonest = sorted(counts, key=lambda name: (-counts[name].total(), name))[:EXAMPLE_ATTRIBUTES]
        return {name: min(counts[name], key=lambda value: (-counts[name][value], value)) for name in commonest}

    def select(self, texts: Sequence[str]) -> np.ndarray:
        """A bitmap of the rows that match all filters, (⌈N / 8⌉,) uint8, the first row in the lowest bit.

        Raises:
            InputError: one is no filter, or asks for what no item has: an attribute, a price in one currency of several.
        """
        key = tuple(sorted(set(texts)))
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return kept
        filters = parse_filters(list(dict.fromkeys(texts)))
        matching = np.ones(self._count, dtype=bool)
        for each in filters:
            matching &= self._matching(each)
        bitmap = np.packbits(matching, bitorder="little")
        with self._lock:
            self._kept[key] = bitmap
            while len(self._kept) > KEPT_SELECTIONS:
                self._kept.popitem(last=False)
        return bitmap

    def why_none(self, texts: Sequence[str]) -> list[str]:
        """One line for each filter that no item matches, with values that there are; else that none matches all of them.

        Raises:
            InputError: as `select`.
        """
        told = []
        for each in parse_filters(list(dict.fromkeys(texts))):
            if self._matching(each).any():
                continue
            line, condition = f"no item matches {each.text!r}", each.condition
            if isinstance(condition, ValueFilter) and not each.negated:
                postings = self._postings_of(each.text, condition.field, condition.name)
                there = dict.fromkeys(near for value in condition.values for near in postings.nearest(value))
                line += f"; there are {', '.join(there) or 'no values'}"
            told.append(line)
        return told or [f"no item matches all of {', '.join(map(repr, texts))}"]

    def _matching(self, item_filter: ItemFilter) -> np.ndarray:
        condition = item_filter.condition
        if isinstance(condition, ValueFilter):
            postings = self._postings_of(item_filter.text, condition.field, condition.name)
            known, has = postings.known(), postings.having(condition.values)
        elif isinstance(condition, PriceFilter):
            known, has = self._priced(item_filter.text, condition)
        else:
            if not self.has_stock:
                raise InputError(
                    f"filter {item_filter.text!r}: no item says whether it is available; deliver `available`"
                )
            known, has = self.offers.available >= 0, self.offers.available == 1
        return known & ~has if item_filter.negated else has

    def _priced(self, text: str, condition: PriceFilter) -> tuple[np.ndarray, np.ndarray]:
        offers = self.offers
        currencies = offers.priced_in()
        if not currencies:
            raise InputError(
                f"filter {text!r}: no item has a price; deliver `price`, or refresh an index of before there were prices"
            )
        known = offers.prices >= 0
        named = [code for code in currencies if code]
        there = f"{', '.join(named)}{', and prices that name none' if len(named) < len(currencies) else ''}"
        if condition.currency is None and len(named) > 1:
            raise InputError(
                f"filter {text!r}: prices are in several currencies ({there}); name one, as price<50{named[-1]}"
            )
        if condition.currency is not None:
            if not named:
                raise InputError(
                    f"filter {text!r}: no price names its currency; write the filter without one, as price<50"
                )
            if condition.currency not in named:
                raise InputError(f"filter {text!r}: no price is in {condition.currency}; there are {there}")
            if len(named) > 1:
                place = offers.codes.index(condition.currency) if condition.currency in offers.codes else -2
                known = known & (offers.currencies == place)
        has = known.copy()
        if condition.lowest is not None:
            has &= offers.prices >= condition.lowest
        if condition.highest is not None:
            has &= offers.prices <= condition.highest
        return known, has

    def _postings_of(self, text: str, field: Field, name: str) -> _Postings:
        with self._lock:
            found = self._postings.get((field, name))
            if found is None:
                rows, values = self._attribute(text, name) if field == "attributes" else self._column(text, field)
                found = self._postings[field, name] = _Postings(
                    self._count, rows, values, are_lists=field == "attributes"
                )
        return found

    def _column(self, text: str, field: str) -> tuple[np.ndarray, pa.Array]:
        values = _array(self._items.get(field))
        if values is None:
            raise InputError(f"filter {text!r}: this index was made before it kept {field}; refresh it")
        filled = pc.fill_null(pc.not_equal(values, ""), False)
        return np.flatnonzero(numbers(filled)), values.filter(filled)

    def _attribute(self, text: str, name: str) -> tuple[np.ndarray, pa.Array]:
        if self._attributes is None:
            self._attributes = self._read_attributes(text)
        names, codes, rows, values = self._attributes
        wanted = [code for code, each in enumerate(names) if folded(each) == name]
        if not wanted:
            there = sorted({folded(each) for each in names})
            more = f" and {len(there) - SHOWN_NAMES} more" if len(there) > SHOWN_NAMES else ""
            raise InputError(
                f"filter {text!r}: no item has an attribute {name!r}; there are {', '.join(there[:SHOWN_NAMES]) or 'none'}{more}"
            )
        chosen = np.flatnonzero(np.isin(codes, wanted))
        return rows[chosen], values.take(pa.array(chosen))

    def _read_attributes(self, text: str) -> tuple[list[str], np.ndarray, np.ndarray, pa.Array]:
        """Names of attributes, and of each attribute of each item the place of its name, its row and its value."""
        column = _array(self._items.get("attributes"), pa.map_(pa.string(), pa.string()))
        if column is None:
            raise InputError(f"filter {text!r}: this index was made before it kept attributes; refresh it")
        lengths = numbers(pc.fill_null(pc.list_value_length(column.cast(_PAIRS)), 0))
        pairs = column.cast(_PAIRS).flatten()
        keys = pairs.field("key").dictionary_encode()
        rows = np.repeat(np.arange(self._count, dtype=np.int32), lengths)
        codes = numbers(keys.indices)
        return keys.dictionary.to_pylist(), codes, rows, pc.fill_null(pairs.field("value"), "")

    def _own_offers(self, named: frozenset[str]) -> Offers:
        columns = [_array(self._items.get(name)) for name in ("price", "currency", "available")]
        if any(column is None for column in columns):
            return Offers.unknown(self._count)
        return replace(Offers.of(*columns), named=named)


_PAIRS = pa.list_(pa.struct([pa.field("key", pa.string(), nullable=False), pa.field("value", pa.string())]))


def _array(column: Any, kind: pa.DataType | None = None) -> pa.Array | None:
    if column is None:
        return None
    column = getattr(column, "values", column) if not isinstance(column, pa.Array | pa.ChunkedArray | list) else column
    if isinstance(column, pa.ChunkedArray):
        return column.combine_chunks()
    return column if isinstance(column, pa.Array) else pa.array(list(column), kind)
