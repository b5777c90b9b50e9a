"""Masking: for a share of the items, an attribute is taken out of everything that the model reads.

Title, category and seller's attributes lose it alike; truth and pictures keep it. It makes the sparse listings in
which pictures must tell what the text does not.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from smar_model.errors import InputError
from smar_model.shop.catalogue import Product
from smar_model.shop.vocabulary import AMBIGUOUS, is_listed, masked_forms, phrase_pattern


def mask_products(products: list[Product], shares: Mapping[str, float], *, seed: int) -> dict[str, list[str]]:
    """Mask products in place; returns attribute → ids of the items that lost it, sorted.

    A share counts the items that truly have the attribute; it is met exactly, up to rounding. Which items depends on
    the seed and on the ids alone, for each attribute on its own.

    Raises:
        InputError: no product has an attribute of that name.
    """
    known = sorted({attribute for product in products for attribute in product.truth})
    if unknown := sorted(shares.keys() - set(known)):
        raise InputError(
            f"masked attribute {unknown[0]!r}: no product has it; the products' attributes are {', '.join(known)}"
        )
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for product in products:
        for attribute, value in product.truth.items():
            values[product.department, attribute].add(value)
    masked = {}
    for attribute, share in sorted(shares.items()):
        having = sorted((p for p in products if attribute in p.truth), key=lambda p: p.item_id)
        rng = np.random.default_rng([seed, zlib.crc32(attribute.encode())])
        chosen = sorted(rng.permutation(len(having))[: round(share * len(having))])
        for index in chosen:
            product = having[index]
            _mask(
                product, attribute, _phrases(attribute, product.truth[attribute], values[product.department, attribute])
            )
        masked[attribute] = [having[index].item_id for index in chosen]
    return masked


def take_out_words(products: list[Product], words: frozenset[str]) -> int:
    """Take words out of titles, categories and sellers' attributes, in place, as masking does, and out of products' own names,
    which shoppers type; brands stay. Returns how many products had one."""
    pattern = phrase_pattern(words)
    having = [
        product
        for product in products
        if any(
            map(
                pattern.search, (product.title, product.category, *product.attributes.values(), *product.truth.values())
            )
        )
    ]
    for product in having:
        product.attributes = {name: text for name, text in product.attributes.items() if not pattern.search(text)}
        if name := _tidy(pattern.sub(" ", product.truth.pop("name", ""))):
            product.truth["name"] = name
        _take_out(product, pattern)
    return len(having)


def _phrases(attribute: str, value: str, department_values: set[str]) -> frozenset[str]:
    """The item's own words, and the plain words for other values: "Navy Check Shirt" tells that a blue shirt is bluish."""
    own = masked_forms(attribute, value)
    others = (
        form
        for other in department_values
        if is_listed(attribute, other) and other not in AMBIGUOUS.get(attribute, ())
        for form in masked_forms(attribute, other)
    )
    return frozenset((*own, *others))


def _mask(product: Product, attribute: str, phrases: frozenset[str]) -> None:
    pattern = phrase_pattern(phrases)
    product.attributes.pop(attribute, None)
    if attribute == "brand":
        product.brand = None
    _take_out(product, pattern)


def _take_out(product: Product, pattern: re.Pattern[str]) -> None:
    brand = product.brand or ""
    # A brand such as "Red Tape" is a name: it stands before products of all colours and tells of none.
    begins_with_brand = bool(brand) and product.title.lower().startswith(brand.lower())
    head, tail = (
        (product.title[: len(brand)], product.title[len(brand) :]) if begins_with_brand else ("", product.title)
    )
    product.title = _tidy(f"{head} {pattern.sub(' ', tail)}") or brand or "item"
    # Levels above the leaf often repeat it ("Watches > Watches"): cut at the first that tells; the department stays.
    department, *levels = product.category.split(" > ")
    silent = itertools.takewhile(lambda level: not pattern.search(level), levels)
    product.category = " > ".join((department, *silent))


def _tidy(text: str) -> str:
    """White space collapsed; joining words and signs that have lost a neighbour dropped at both ends."""
    return re.sub(
        r"^(?:[&/,+\-\s]|(?:and|with|for|in)\b)+|(?:[&/,+\-\s]|\b(?:and|with|for|in))+$", "", " ".join(text.split())
    )
