"""Filters: every operator and combination against a naive scan over the items, what is no filter, and search among what they leave."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.retrieval.filtered_search import BROAD, ENOUGH_ROWS
from smar_model.retrieval.item_filters import ItemFilters
from smar_model.retrieval.parted_index import PartedIndex, cut_rows
from smar_model.retrieval.stock_offers import with_stock

COLOURS = ["red", "Red", "blue", "dark blue", "red, blue"]
SIZES = ["S", "M", "S, M", "XL"]
PRICES = [None, Decimal("0"), Decimal("9.99"), Decimal("10"), Decimal("10.0001"), Decimal("50"), Decimal("1299.95")]

ITEMS = st.lists(
    st.fixed_dictionaries(
        {
            "department": st.sampled_from(["Books", "Clothing"]),
            "brand": st.sampled_from(["Acme", "Black, Decker", "", None]),
            "colour": st.sampled_from([None, *COLOURS]),
            "size": st.sampled_from([None, *SIZES]),
            "price": st.sampled_from(PRICES),
            "available": st.sampled_from([None, True, False]),
        }
    ),
    min_size=1,
    max_size=25,
)
AMOUNTS = st.sampled_from(["0", "9.99", "10", "10.0001", "49.9999", "50", "2000"])
FILTERS = st.one_of(
    st.builds(lambda v: f"attributes.colour:{'|'.join(v)}", st.lists(st.sampled_from(["RED", "blue", "Dark  blue", "green"]), min_size=1, max_size=3)),
    st.sampled_from(["attributes.size:m", "attributes.Size: XL ", 'attributes.size:"s"|xl']),
    st.sampled_from(["department:books", "department:Clothing|Books", "brand:acme", "brand:black, decker", "brand:decker"]),
    st.builds(lambda op, amount: f"price{op}{amount}", st.sampled_from(["<", "<=", ">", ">=", ":", "="]), AMOUNTS),
    st.builds(lambda a, b: f"price:{min(a, b, key=Decimal)}..{max(a, b, key=Decimal)}", AMOUNTS, AMOUNTS),
    st.sampled_from(["price:..10", "price:10..", "price >= 10 EUR", "available"]),
)  # fmt: skip
NEGATED = st.builds(lambda how, text: how + text, st.sampled_from(["", "-", "not "]), FILTERS)


def index_items(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Columns as an index has them, of which the first item makes sure that each field has a value."""
    full = {
        "department": "Books",
        "brand": "Acme",
        "colour": "red",
        "size": "S",
        "price": Decimal(1),
        "available": True,
    }
    made = [
        {
            "row": n,
            "item_id": str(n),
            "title": "",
            "department": row["department"],
            "images": [],
            "brand": row["brand"],
            "attributes": [(name, row[name]) for name in ("colour", "size") if row[name]] or None,
            "price": row["price"],
            "currency": row.get("currency", "EUR"),
            "available": row["available"],
        }
        for n, row in enumerate([full, *rows])
    ]
    table = pa.Table.from_pylist(made, load_contract("index_items").arrow_schema())
    return {name: table[name] for name in table.column_names}


def selected(filters: ItemFilters, *texts: str) -> list[int]:
    bits = np.unpackbits(filters.select(texts), bitorder="little")
    return np.flatnonzero(bits).tolist()


def _norm(text: str) -> str:
    return " ".join(text.split()).lower()


def naive(row: dict[str, Any], text: str) -> bool:
    """Whether an item matches, read off the rules one by one."""
    negated = text.startswith(("-", "not "))
    text = text.removeprefix("-").removeprefix("not ").strip()
    if text == "available":
        known, has = row["available"] is not None, row["available"] is True
    elif text.startswith("price"):
        rest = text.removeprefix("price").replace("EUR", "").replace(" ", "")
        price, known = row["price"], row["price"] is not None
        if ".." in rest:
            low, high = rest.lstrip(":").split("..")
            has = known and (not low or price >= Decimal(low)) and (not high or price <= Decimal(high))
        else:
            op = rest.rstrip("0123456789.")
            bound = Decimal(rest[len(op) :])
            has = (
                known
                and {"<": price < bound, "<=": price <= bound, ">": price > bound, ">=": price >= bound}.get(
                    op, price == bound
                )
                if known
                else False
            )
    else:
        field, _, values = text.partition(":")
        field = field.lower().removeprefix("attributes.")
        value = row[field]
        wanted = [_norm(part.strip().strip('"')) for part in values.split("|")]
        known = bool(value)
        have = [_norm(value)] if known else []
        if known and field in ("colour", "size"):
            have += [_norm(part) for part in value.split(",")]
        has = any(one in wanted for one in have)
    return known and not has if negated else has


@settings(max_examples=300, deadline=None)
@given(ITEMS, st.lists(NEGATED, min_size=1, max_size=4))
def test_each_operator_and_combination_is_what_a_naive_scan_finds(rows: list[dict[str, Any]], texts: list[str]) -> None:
    filters = ItemFilters(index_items(rows))
    wanted = [n for n, row in enumerate(rows, start=1) if all(naive(row, text) for text in texts)]
    for _ in range(2):  # the second time from what was kept
        assert [n for n in selected(filters, *texts) if n] == wanted


ONE = {"department": "Books", "brand": "Acme", "colour": "red", "size": "M", "price": Decimal("5"), "available": True}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour:red", r"filter 'colour:red': there is no 'colour'; known: attributes.NAME:VALUE, department:VALUE, brand:VALUE, price with"),
        ("attributes.color:red", r"no item has an attribute 'color'; there are colour, size"),
        ("attributes.colour", r"has no `:` before its value; write attributes.colour:VALUE"),
        ("attributes.colour>red", r"has no `:` before its value"),
        ("attributes.:red", r"names no attribute"),
        ("attributes.", r"names no attribute; write attributes.NAME:VALUE"),
        ("brand", r"has no `:` before its value; write brand:VALUE"),
        ("brand:", r"a value is missing"),
        ("brand:a|", r"a value is missing"),
        ("price<", r"'' is no price; write a number"),
        ("price<5,50", r"'5,50' is no price"),
        ("price<-5", r"'-5' is no price"),
        ("price~5", r"there is no 'price~5'; known"),
        ("price:50..10", r"the range ends before it begins"),
        ("price:..", r"is no range; write price:10..50"),
        ("price<50USD", r"no price is in USD; there are EUR"),
        ("", r"filter '': is empty; leave it out, or write one of: attributes"),
        ("  ", r"is empty; leave it out"),
        ("-", r"nothing follows the negation; leave it out"),
        ("not ", r"nothing follows the negation"),
        ("attributes.colour=red", r"has no `:` before its value; write attributes.colour:red"),
        ("-Brand = Acme Inc", r"has no `:` before its value; write Brand:Acme Inc"),
        ('attributes.colour:"red"x', r"'x' follows the quote; write `|` between values"),
        ('attributes.colour:"red', r'a value begins with `"` and does not end with one'),
        ('attributes.size:15" wide', r'a value has `"` in it; write it in double quotes'),
        ('brand:""', r"a value is missing"),
        ("price<1234567890123456789", r"'1234567890123456789' has 19 digits before the point; a price has at most 14"),
        ("price:1..123456789012345EUR", r"has 15 digits before the point"),
        ("price<1.00001", r"'1.00001' has 5 digits after the point; a price has at most 4"),
        ("x" * 1_001, r"has 1,001 characters, more than 1,000"),
    ],
)  # fmt: skip
def test_what_is_no_filter_is_named_with_what_is_known(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ItemFilters(index_items([ONE])).select([text])


def test_prices_in_several_currencies_want_one_named() -> None:
    filters = ItemFilters(index_items([ONE, ONE | {"currency": "USD", "price": Decimal(2)}]))
    with pytest.raises(InputError, match=r"prices are in several currencies \(EUR, USD\); name one, as price<50USD"):
        filters.select(["price<50"])
    assert selected(filters, "price<50USD") == [2]
    assert selected(filters, "-price<3usd") == []
    assert selected(filters, "price<50EUR") == [0, 1]
    part = ItemFilters(index_items([ONE]), currencies=("EUR", "USD"))
    with pytest.raises(InputError, match=r"several currencies"):
        part.select(["price<50"])
    assert selected(part, "price<50USD") == []


def test_a_price_without_a_currency_is_in_the_only_one_that_there_is() -> None:
    none, dear = ONE | {"currency": None}, ONE | {"price": Decimal(90)}
    filters = ItemFilters(index_items([none, dear]))
    assert selected(filters, "price<50") == selected(filters, "price<50EUR") == [0, 1]
    assert selected(filters, "-price<50eur") == [2]
    part = ItemFilters(index_items([none]), currencies=("", "EUR"))
    assert selected(part, "price<50") == [0, 1]
    several = ItemFilters(index_items([none, ONE | {"currency": "USD"}]))
    with pytest.raises(InputError, match=r"several currencies \(EUR, USD, and prices that name none\); name one"):
        several.select(["price<50"])
    assert selected(several, "price<50EUR") == [0]
    table = pa.Table.from_pylist(
        [{"item_id": "1", "price": Decimal(7)}, {"item_id": "2", "price": Decimal(8)}],
        pa.schema([field.with_nullable(True) for field in load_contract("stock").arrow_schema()]),
    )
    stocked, told = with_stock(filters, filters.offers, pa.array(["0", "1", "2"]), table)
    assert told == 2 and selected(stocked, "price:7..8") == [1, 2]


def test_where_no_price_names_a_currency_a_filter_names_none() -> None:
    items = index_items([ONE]) | {"currency": pa.array([None, None], pa.string())}
    filters = ItemFilters(items)
    assert selected(filters, "price<50") == [0, 1]
    with pytest.raises(InputError, match=r"no price names its currency; write the filter without one"):
        filters.select(["price<50EUR"])


def test_an_index_of_before_there_were_prices_says_so() -> None:
    items = {name: column for name, column in index_items([ONE]).items() if name in ("item_id", "title", "department")}
    filters = ItemFilters(items)
    assert selected(filters, "department:books") == [0, 1]
    for text, message in (("price<5", "no item has a price"), ("available", "no item says"), ("attributes.a:b", "before it kept attributes"), ("brand:a", "before it kept brand")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            filters.select([text])


@pytest.mark.parametrize("factory", ["Flat", "IVF64,Flat", "IVF64,PQ16x4fs,Refine(SQfp16)", "HNSW16,Flat", "IVF64,SQ8"])
@pytest.mark.parametrize("parts", [1, 3])
def test_search_among_selected_rows_finds_what_exact_search_does(factory: str, parts: int) -> None:
    random = np.random.default_rng(0)
    count = 4 * ENOUGH_ROWS * parts if factory.startswith("IVF64,PQ") else 3_000
    centres = random.normal(size=(64, 32))
    vectors = (centres[random.integers(0, 64, count)] + 0.5 * random.normal(size=(count, 32))).astype(np.float32)
    asked = vectors[random.integers(0, count, 20)]
    empty = faiss.index_factory(32, factory, faiss.METRIC_INNER_PRODUCT)
    empty.train(vectors[:20_000])
    pieces = []
    for start, stop in cut_rows(count, parts):
        piece = faiss.clone_index(empty)
        piece.add(vectors[start:stop])
        faiss.ParameterSpace().set_index_parameters(
            piece, {"IVF64,PQ16x4fs,Refine(SQfp16)": "nprobe=24,k_factor_rf=16"}.get(factory, "")
        )
        pieces.append(piece)
    index = PartedIndex(pieces)
    for share in (0.001, 0.01, BROAD, 0.5, 0.9, 1.0):
        mask = random.random(count) < share
        scores, rows = index.search(asked, 50, np.packbits(mask, bitorder="little"))
        found = [
            set(r[r >= 0][np.argsort(-s[r >= 0], kind="stable")][:50].tolist())
            for s, r in zip(scores, rows, strict=True)
        ]
        exact = np.where(mask, asked @ vectors.T, -np.inf)
        wanted = [set(np.argsort(-each, kind="stable")[: min(50, int(mask.sum()))].tolist()) for each in exact]
        assert all(mask[list(f)].all() for f in found)
        recall = np.mean([len(f & w) / max(1, len(w)) for f, w in zip(found, wanted, strict=True)])
        assert recall >= (0.95 if "PQ" in factory or "SQ8" in factory else 1.0), (share, recall)


def test_no_row_left_is_no_result() -> None:
    index = faiss.IndexFlatIP(8)
    index.add(np.eye(8, dtype=np.float32))
    scores, rows = PartedIndex([index]).search(np.eye(8, dtype=np.float32)[:2], 3, np.zeros(1, np.uint8))
    assert (rows == -1).all() and np.isneginf(scores).all()
