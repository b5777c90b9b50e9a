"""Filters over the items of an index: what a client writes, and which items match it.

    attributes.colour:red          equal, whatever the case; `attributes.size:m` matches an item with `S, M, L`, too
    attributes.colour:red|crimson  one of several; a value with `|` in it stands in double quotes
    department:Books  brand:Acme   likewise
    price<50  <=  >  >=            in the only currency that the items have, or in the one named: price<50EUR
    price:10..50  10..  ..50       both ends count
    available                      can be bought
    -FILTER  not FILTER            the items that say something about it and do not match

Several filters are a conjunction. An item that says nothing about a filter's field matches neither it nor its negation: what is not
known to be red is not known to be of another colour.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from threading import Lock
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smar_model.errors import InputError

MAXIMUM_FILTERS, MAXIMUM_LENGTH = 32, 1_000
"""Of a question; characters of one."""
KEPT_SELECTIONS = 32
"""Compositions whose bitmap is kept: shoppers ask for the same few again and again. An eighth of a byte an item each."""
PRICE_SCALE = 10_000
"""Prices are compared as whole ten-thousandths, exactly."""
KNOWN = (
    "attributes.NAME:VALUE, department:VALUE, brand:VALUE, price with <, <=, >, >= or price:FROM..TO, available; "
    "`-` before one negates it"
)
SHOWN_NAMES = 20
_PRICE = re.compile(r"price\s*(<=|>=|<|>|=|:)\s*(.*)", re.IGNORECASE | re.DOTALL)
_NUMBER = r"\d{1,14}(?:\.\d{1,4})?"
_AMOUNT = re.compile(rf"({_NUMBER})\s*([A-Za-z]{{3}})?")
_RANGE = re.compile(rf"({_NUMBER})?\s*\.\.\s*({_NUMBER})?\s*([A-Za-z]{{3}})?")
_VALUE = re.compile(r'\s*("(?:[^"]*)"|[^|"]+)\s*(\||$)')

Field = Literal["attributes", "department", "brand"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueFilter:
    """Items of which a field has one of some values."""

    field: Field
    name: str
    """Of the attribute, casefolded; empty of other fields."""
    values: tuple[str, ...]
    """Casefolded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceFilter:
    """Items whose price lies between two bounds, which count; in ten-thousandths."""

    lowest: int | None
    highest: int | None
    currency: str | None
    """None: the only one that there is."""


@dataclass(frozen=True, slots=True)
class AvailableFilter:
    """Items that can be bought."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFilter:
    text: str
    """As it was written."""
    condition: ValueFilter | PriceFilter | AvailableFilter
    negated: bool


def parse_filter(text: str) -> ItemFilter:
    """Read one filter.

    Raises:
        InputError: it is none; names what is known.
    """
    bare, negated = text.strip(), False
    if len(text) > MAXIMUM_LENGTH:
        raise InputError(f"filter {text[:40]!r}…: has {len(text):,} characters, more than {MAXIMUM_LENGTH:,}")
    if bare.startswith("-"):
        bare, negated = bare[1:].lstrip(), True
    elif bare.casefold().startswith("not "):
        bare, negated = bare[4:].lstrip(), True
    if bare.casefold() == "available":
        return ItemFilter(text=text, condition=AvailableFilter(), negated=negated)
    if price := _PRICE.fullmatch(bare):
        return ItemFilter(text=text, condition=_parse_price(text, price[1], price[2].strip()), negated=negated)
    field, colon, rest = bare.partition(":")
    field, name = field.strip().casefold(), ""
    if field.startswith("attributes."):
        field, name = "attributes", " ".join(field.removeprefix("attributes.").split())
        if not name:
            raise InputError(f"filter {text!r}: names no attribute; write attributes.NAME:VALUE")
    if field not in ("attributes", "department", "brand"):
        named = field if colon else re.split(r"[<>=\s]", field, maxsplit=1)[0]
        if named.startswith(("attributes.", "department", "brand")):
            raise InputError(f"filter {text!r}: has no `:` before its value; write attributes.NAME:VALUE")
        raise InputError(f"filter {text!r}: there is no {named!r}; known: {KNOWN}")
    if not colon:
        where = f"attributes.{name}" if name else field
        raise InputError(f"filter {text!r}: has no `:` before its value; write {where}:VALUE")
    condition = ValueFilter(field=field, name=name, values=_parse_values(text, rest))  # type: ignore[arg-type]
    return ItemFilter(text=text, condition=condition, negated=negated)


def _parse_values(text: str, rest: str) -> tuple[str, ...]:
    values, place = [], 0
    while place <= len(rest):
        found = _VALUE.match(rest, place)
        value = folded(found[1].strip().strip('"')) if found else ""
        if not found or not value:
            raise InputError(f'filter {text!r}: a value is missing; write VALUE, VALUE|VALUE, or "a value with |"')
        values.append(value)
        place = found.end()
        if not found[2]:
            break
    return tuple(dict.fromkeys(values))


def _parse_price(text: str, operator: str, rest: str) -> PriceFilter:
    if operator == ":" and ".." in rest:
        found = _RANGE.fullmatch(rest)
        if not found or not (found[1] or found[2]):
            raise InputError(f"filter {text!r}: {rest!r} is no range; write price:10..50, price:10.. or price:..50")
        lowest, highest = (_ten_thousandths(found[n]) if found[n] else None for n in (1, 2))
        if lowest is not None and highest is not None and lowest > highest:
            raise InputError(f"filter {text!r}: the range ends before it begins")
        return PriceFilter(lowest=lowest, highest=highest, currency=_currency(found[3]))
    amount = _AMOUNT.fullmatch(rest)
    if not amount:
        raise InputError(
            f"filter {text!r}: {rest!r} is no price; write a number with at most 4 digits after the point, as 49.95 or 49.95EUR"
        )
    price, currency = _ten_thousandths(amount[1]), _currency(amount[2])
    bounds = {
        "<": (None, price - 1),
        "<=": (None, price),
        ">": (price + 1, None),
        ">=": (price, None),
        "=": (price, price),
        ":": (price, price),
    }
    lowest, highest = bounds[operator]
    return PriceFilter(lowest=lowest, highest=highest, currency=currency)


def _ten_thousandths(number: str) -> int:
    return int(Decimal(number) * PRICE_SCALE)


def _currency(code: str | None) -> str | None:
    return code.upper() if code else None


def folded(text: str) -> str:
    """A value as values are compared."""
    return " ".join(text.split()).casefold()


def parse_filters(texts: Sequence[str]) -> list[ItemFilter]:
    """Raises InputError where one is none, or there are more than MAXIMUM_FILTERS."""
    if len(texts) > MAXIMUM_FILTERS:
        raise InputError(f"{len(texts)} filters, more than {MAXIMUM_FILTERS}")
    return [parse_filter(text) for text in texts]


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
            currencies=codes.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int16),
            codes=tuple(codes.dictionary.to_pylist()),
            available=pc.cast(available, pa.int8()).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int8),
        )

    @classmethod
    def unknown(cls, items: int) -> Offers:
        nothing = np.full(items, -1)
        return cls(prices=nothing, currencies=nothing.astype(np.int16), codes=(), available=nothing.astype(np.int8))

    def priced_in(self) -> list[str]:
        """Currencies of the prices, sorted; an empty one where a price says none."""
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
    return np.where(price.is_valid().to_numpy(zero_copy_only=False), halves, -1)


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
        codes = encoded.indices.to_numpy(zero_copy_only=False)
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

    def _marked(self, rows: np.ndarray) -> np.ndarray:
        marked = np.zeros(self.items, dtype=bool)
        marked[rows] = True
        return marked


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

    def _matching(self, item_filter: ItemFilter) -> np.ndarray:
        condition = item_filter.condition
        if isinstance(condition, ValueFilter):
            postings = self._postings_of(item_filter.text, condition.field, condition.name)
            known, has = postings.known(), postings.having(condition.values)
        elif isinstance(condition, PriceFilter):
            known, has = self._priced(item_filter.text, condition)
        else:
            if not (self.offers.available >= 0).any():
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
        if condition.currency is None and len(currencies) > 1:
            named = ", ".join(code or "none" for code in currencies)
            raise InputError(
                f"filter {text!r}: prices are in several currencies ({named}); name one, as price<50{currencies[-1]}"
            )
        if condition.currency is not None:
            if condition.currency not in currencies:
                named = ", ".join(code or "none" for code in currencies)
                raise InputError(f"filter {text!r}: no price is in {condition.currency}; there are {named}")
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
        return np.flatnonzero(filled.to_numpy(zero_copy_only=False)), values.filter(filled)

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
        lengths = pc.fill_null(pc.list_value_length(column.cast(_PAIRS)), 0).to_numpy(zero_copy_only=False)
        pairs = column.cast(_PAIRS).flatten()
        keys = pairs.field("key").dictionary_encode()
        rows = np.repeat(np.arange(self._count, dtype=np.int32), lengths)
        codes = keys.indices.to_numpy(zero_copy_only=False)
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
