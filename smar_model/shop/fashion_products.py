"""Importer of "Fashion Product Images (small)": `styles.csv` and `images/<id>.jpg`, in a folder or zip."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import numpy as np

from smar_model.errors import InputError
from smar_model.shop.archives import SourceFiles
from smar_model.shop.catalogue import Catalogue, Product
from smar_model.shop.vocabulary import AMBIGUOUS, TYPED, masked_forms, phrase_pattern

SOURCE = "fashion"
"""Item ids are `fashion-<id>`; pictures lie under `pictures/fashion/`."""

_NEEDED = (
    "id", "gender", "masterCategory", "subCategory", "articleType", "baseColour", "season", "usage", "productDisplayName",
)  # fmt: skip
_GENDER_WORD = re.compile(r"(?:mens?|men's|womens?|women's|boys?|boy's|girls?|girl's|kids?|kid's|unisex|ladies)", re.I)
_UNSTATED = {"", "na", "n/a"}
_FREQUENT_BRAND = 5
_FREQUENT_FIRST_WORD = 20
_LONGEST_BRAND = 4


def import_fashion_products(archive: Path, *, items: int | None = None, seed: int = 0) -> Catalogue:
    """Read the archive; `items` draws that many products by `seed` (all, where it has fewer).

    A product whose picture is missing keeps no image. Brands are derived over the whole archive, so that a product is
    the same in every draw.

    Raises:
        InputError: the archive is cut off, or `styles.csv` is missing or has a bad row.
    """
    files = SourceFiles(archive, marker="styles.csv")
    rows = _read_styles(files, f"{archive}: styles.csv")
    brands = _derive_brands([row["productDisplayName"] for row in rows])
    chosen = list(range(len(rows)))
    if items is not None and items < len(rows):
        order = sorted(range(len(rows)), key=lambda n: rows[n]["id"])
        drawn = np.random.default_rng([seed, 0xFA5]).permutation(len(rows))[:items]
        chosen = sorted(order[n] for n in drawn)
    products, pictures = [], {}
    for index in chosen:
        row = rows[index]
        name, content = f"{SOURCE}/{row['id']}.jpg", files.read(f"images/{row['id']}.jpg")
        if content is not None:
            pictures[name] = content
        products.append(_product(row, brands[index], images=[name] if content is not None else []))
    return Catalogue(products=products, pictures=pictures)


def _read_styles(files: SourceFiles, source: str) -> list[dict[str, str]]:
    content = files.read("styles.csv")
    assert content is not None, "SourceFiles found it by this name"
    try:
        # Not splitlines(): it would also break at rarer signs, which a name may hold.
        lines = content.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        raise InputError(f"{source} row {number}: not UTF-8 text; save the file as UTF-8") from None
    header = next(csv.reader(lines[:1]), [])
    if missing := [name for name in _NEEDED if name not in header]:
        raise InputError(f"{source} row 1: no column {', '.join(missing)}; expected {', '.join(_NEEDED)}")
    if header[-1] != "productDisplayName":
        # Only in the last column can commas without quotes be told from separators.
        raise InputError(f"{source} row 1: productDisplayName must be the last column, as published")
    rows: list[dict[str, str]] = []
    seen: dict[str, int] = {}
    # Line by line: a stray quotation mark must not swallow the rows that follow.
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        fields = next(csv.reader([line]))
        if len(fields) < len(header):
            raise InputError(
                f"{source} row {number}: {len(fields)} fields, expected {len(header)}; the file may be cut off: correct or remove the row"
            )
        if len(fields) > len(header):
            fields = line.split(",", len(header) - 1)
        row = dict(zip(header, (f.strip() for f in fields), strict=True))
        for needed in ("id", "masterCategory", "subCategory", "articleType"):
            if row[needed].lower() in _UNSTATED:
                raise InputError(f"{source} row {number}: {needed} is empty; correct or remove the row")
        if row["id"] in seen:
            raise InputError(
                f"{source} row {number}: id {row['id']} is already in row {seen[row['id']]}; remove one of them"
            )
        seen[row["id"]] = number
        rows.append(row)
    if not rows:
        raise InputError(f"{source}: no products after the header; download or copy it again")
    return rows


def _product(row: dict[str, str], brand: str | None, *, images: list[str]) -> Product:
    def stated(column: str) -> str | None:
        return row[column] if row[column].lower() not in _UNSTATED else None

    written = {"colour": stated("baseColour"), "gender": stated("gender"), "usage": stated("usage")}
    truth = {"type": row["articleType"], **written, "brand": brand}
    product = Product(
        item_id=f"{SOURCE}-{row['id']}",
        title=" ".join(row["productDisplayName"].split()) or brand or "item",
        category=" > ".join((row["masterCategory"], row["subCategory"], row["articleType"])),
        brand=brand,
        attributes={k: v for k, v in {**written, "season": stated("season")}.items() if v},
        images=images,
        truth={k: v.lower() for k, v in truth.items() if v},
    )
    # Outside fashion a product goes by its name ("True Wear") rather than by its looks.
    if row["masterCategory"] == "Personal Care" and (name := _proper_name(product)):
        product.truth["name"] = name
    return product


def _proper_name(product: Product) -> str:
    """The first two words of a title that are neither brand nor attribute."""
    title = product.title[len(product.brand or "") :]
    phrases = (f for a, v in product.truth.items() if a != "brand" for f in masked_forms(a, v))
    words = re.findall(r"[^\W\d_]{2,}", phrase_pattern(frozenset(phrases)).sub(" ", title).lower())
    return " ".join(words[:2])


def _derive_brands(titles: list[str]) -> list[str | None]:
    """Brand of each title; published titles run "<brand> <gender> …".

    1. The words before a gender word are a candidate.
    2. A candidate seen rarely gives way to a frequent brand that it begins with ("Nike Green" → "Nike").
    3. A title without a gender word takes the longest candidate that it begins with, seen twice or more; else its
       first word, where many such titles share it; else none.
    """
    words = [title.split() for title in titles]
    candidates = [_words_before_gender(w) for w in words]
    colours = {c for c in TYPED["colour"] if c not in AMBIGUOUS["colour"]}
    counts = Counter(c.lower() for c in candidates if c and not colours & set(c.lower().split()[1:]))

    def longest_known(title: list[str], minimum: int) -> str | None:
        for length in range(min(_LONGEST_BRAND, len(title)), 0, -1):
            if counts[" ".join(title[:length]).lower()] >= minimum:
                return " ".join(title[:length])
        return None

    brands = [
        candidate if candidate and counts[candidate.lower()] >= _FREQUENT_BRAND
        else longest_known(title, _FREQUENT_BRAND) or candidate or longest_known(title, 2)
        for title, candidate in zip(words, candidates, strict=True)
    ]  # fmt: skip
    first_words = Counter(w[0].lower() for w, brand in zip(words, brands, strict=True) if w and not brand)
    return [
        brand or (w[0] if w and first_words[w[0].lower()] >= _FREQUENT_FIRST_WORD else None)
        for w, brand in zip(words, brands, strict=True)
    ]


def _words_before_gender(title: list[str]) -> str | None:
    for position, word in enumerate(title[: _LONGEST_BRAND + 1]):
        if _GENDER_WORD.fullmatch(word.replace("’", "'")):
            return " ".join(title[:position]) or None
    return None
