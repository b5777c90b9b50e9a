"""Filters over the items of an index, as a client writes them; `item_filters.py` says which items match.

    attributes.colour:red          equal, whatever the case; `attributes.size:m` matches an item with `S, M, L`, too
    attributes.colour:red|crimson  one of several
    attributes.size:"15"" wide"    a value with `|` or `"` in it stands in double quotes, and each `"` of it twice
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
# Every repetition is possessive: a client sends these texts, and one that goes back over them may take minutes for a thousand characters.
_PRICE = re.compile(r"price\s*+(<=|>=|<|>|=|:)\s*+(.*+)", re.IGNORECASE | re.DOTALL)
_DIGITS, _DECIMALS = 14, 4
_NUMBER = rf"\d{{1,{_DIGITS}}}+(?:\.\d{{1,{_DECIMALS}}}+)?+"
_AMOUNT = re.compile(rf"({_NUMBER})\s*+([A-Za-z]{{3}})?+")
_RANGE = re.compile(rf"({_NUMBER})?+\s*+\.\.\s*+({_NUMBER})?+\s*+([A-Za-z]{{3}})?+")
_ANY_NUMBER = re.compile(r"(\d++)(?:\.(\d++))?+")
_COMPARED = re.compile(r"([^<>=]++)[<>=]++(.*+)", re.DOTALL)
_BLANKS = re.compile(r"\s*+")
_QUOTED = re.compile(r'"((?:[^"]++|"")*+)"')
_PLAIN = re.compile(r'[^|"]*+')

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
    elif bare.casefold() == "not" or bare.casefold().startswith("not "):
        bare, negated = bare[3:].lstrip(), True
    if not bare:
        raise InputError(
            f"filter {text!r}: {'nothing follows the negation' if negated else 'is empty'}; leave it out, or write one of: {KNOWN}"
        )
    if bare.casefold() == "available":
        return ItemFilter(text=text, condition=AvailableFilter(), negated=negated)
    if price := _PRICE.fullmatch(bare):
        return ItemFilter(text=text, condition=_parse_price(text, price[1], price[2].strip()), negated=negated)
    field, colon, rest = bare.partition(":")
    field, name = field.strip().casefold(), ""
    if not colon:
        raise InputError(f"filter {text!r}: {_without_colon(bare)}")
    if field.startswith("attributes."):
        field, name = "attributes", " ".join(field.removeprefix("attributes.").split())
    if field not in ("attributes", "department", "brand"):
        raise InputError(f"filter {text!r}: there is no {field!r}; known: {KNOWN}")
    if field == "attributes" and not name:
        raise InputError(f"filter {text!r}: names no attribute; write attributes.NAME:VALUE")
    condition = ValueFilter(field=field, name=name, values=_parse_values(text, rest))  # type: ignore[arg-type]
    return ItemFilter(text=text, condition=condition, negated=negated)


def _without_colon(bare: str) -> str:
    """What is wrong with a filter that is none by price and has no `:`."""
    compared = _COMPARED.fullmatch(bare)
    named = (compared[1] if compared else bare).strip()
    field = named.casefold()
    if not (field in ("department", "brand") or field.startswith("attributes.")):
        first = field.split(maxsplit=1)[0] if field else bare
        return f"there is no {first!r}; known: {KNOWN}"
    if field == "attributes.":
        return "names no attribute; write attributes.NAME:VALUE"
    value = compared[2].strip() if compared else ""
    return f"has no `:` before its value; write {named}:{value or 'VALUE'}"


def _parse_values(text: str, rest: str) -> tuple[str, ...]:
    values, place = [], 0
    while True:
        place = _ahead(_BLANKS, rest, place).end()
        if rest.startswith('"', place):
            quoted = _QUOTED.match(rest, place)
            if not quoted:
                raise InputError(f'filter {text!r}: a value begins with `"` and does not end with one; add it')
            value, place = quoted[1].replace('""', '"'), _ahead(_BLANKS, rest, quoted.end()).end()
            if place < len(rest) and rest[place] != "|":
                raise InputError(
                    f"filter {text!r}: {rest[place : place + 40]!r} follows the quote; write `|` between values, "
                    'or each `"` of a quoted value twice'
                )
        else:
            plain = _ahead(_PLAIN, rest, place)
            value, place = plain[0], plain.end()
            if rest.startswith('"', place):
                raise InputError(
                    f'filter {text!r}: a value has `"` in it; write it in double quotes and each `"` of it twice, as "15"" screen"'
                )
        if not (value := folded(value)):
            raise InputError(f'filter {text!r}: a value is missing; write VALUE, VALUE|VALUE, or "a value with |"')
        values.append(value)
        if place == len(rest):
            return tuple(dict.fromkeys(values))
        place += 1


def _ahead(pattern: re.Pattern[str], text: str, place: int) -> re.Match[str]:
    """The match at a place, of a pattern that matches nothing, too."""
    found = pattern.match(text, place)
    assert found
    return found


def _parse_price(text: str, operator: str, rest: str) -> PriceFilter:
    if operator == ":" and ".." in rest:
        found = _RANGE.fullmatch(rest)
        if not found or not (found[1] or found[2]):
            _refuse_long_numbers(text, rest)
            raise InputError(f"filter {text!r}: {rest!r} is no range; write price:10..50, price:10.. or price:..50")
        lowest, highest = (_ten_thousandths(found[n]) if found[n] else None for n in (1, 2))
        if lowest is not None and highest is not None and lowest > highest:
            raise InputError(f"filter {text!r}: the range ends before it begins")
        return PriceFilter(lowest=lowest, highest=highest, currency=_currency(found[3]))
    amount = _AMOUNT.fullmatch(rest)
    if not amount:
        _refuse_long_numbers(text, rest)
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


def _refuse_long_numbers(text: str, rest: str) -> None:
    for number in _ANY_NUMBER.finditer(rest):
        for digits, where, most in ((number[1], "before", _DIGITS), (number[2] or "", "after", _DECIMALS)):
            if len(digits) > most:
                raise InputError(
                    f"filter {text!r}: {number[0][:40]!r} has {len(digits)} digits {where} the point; a price has at most {most}"
                )


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
