"""Filters over the items of an index, as a client writes them; `item_filters.py` says which items match.

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
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from smar_model.errors import InputError

MAXIMUM_FILTERS, MAXIMUM_LENGTH = 32, 1_000
"""Of a question; characters of one."""
PRICE_SCALE = 10_000
"""Prices are compared as whole ten-thousandths, exactly."""
KNOWN = (
    "attributes.NAME:VALUE, department:VALUE, brand:VALUE, price with <, <=, >, >= or price:FROM..TO, available; "
    "`-` before one negates it"
)
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
