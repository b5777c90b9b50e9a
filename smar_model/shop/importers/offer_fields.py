"""What a feed says of price and stock."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Protocol

_PRICE = re.compile(r"(?:([A-Za-z]{3})\s*)?(\d{1,14}(?:\.\d{1,4})?)(?:\s*([A-Za-z]{3}))?")
_CURRENCY = re.compile(r"[A-Za-z]{3}")
_AVAILABILITY = {
    "in stock": True, "instock": True, "available": True, "preorder": True, "backorder": True, "limitedavailability": True,
    "out of stock": False, "outofstock": False, "soldout": False, "discontinued": False,
    "true": True, "yes": True, "1": True, "false": False, "no": False, "0": False,
}  # fmt: skip
"""As feeds write it; what can be ordered is available."""


class _Offered(Protocol):
    price: str
    currency: str
    available: bool | None


def price_of(text: str) -> tuple[str, str] | None:
    """`15.00 EUR` → the price as text and its currency, empty where it names none; None where it is no price."""
    found = _PRICE.fullmatch(text.strip())
    return (found[2], (found[1] or found[3] or "").upper()) if found else None


def is_currency(text: str) -> bool:
    """Whether it has the form of an ISO 4217 code."""
    return _CURRENCY.fullmatch(text.strip()) is not None


def availability_of(text: str) -> bool | None:
    """`in_stock`, `https://schema.org/InStock`, `true` …; None where it is none of those known."""
    word = " ".join(text.strip().rpartition("/")[2].replace("_", " ").lower().split())
    return _AVAILABILITY.get(word)


def lowest_offer(variants: Sequence[_Offered]) -> tuple[str, str, bool | None]:
    """Price, currency and availability of an item of several variants: the lowest price in the currency of the first that has one, of those that can
    be bought where there are; available where one of them is."""
    priced = [v for v in variants if v.price and v.available] or [v for v in variants if v.price]
    same = [v for v in priced if v.currency == priced[0].currency]
    cheapest = min(same, key=lambda v: Decimal(v.price)) if same else None
    said = [v.available for v in variants if v.available is not None]
    return (
        (cheapest.price, cheapest.currency, any(said) if said else None)
        if cheapest
        else ("", "", any(said) if said else None)
    )
