"""The form of a query: what is masked, what stays, and that it takes no longer for hostile texts."""

from __future__ import annotations

import re

import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smar_model.data import query_text
from smar_model.data.query_text import maskable_numbers, normalise_query
from smar_model.settings import REPOSITORY
from tests.data.numbers_in_queries import CARDS, EITHER, PHONES, PRODUCTS

MASKED = {
    "Send to Anna.Meier+shop@Example.co.uk please": "send to <email> please",
    "a@b.com,c@d.org": "<email>,<email>",
    "4111 1111 1111 1111": "<card>",
    "shoes size 5 4111111111111111": "shoes size 5 <card>",
    "3782-822463-10005 gift": "<card> gift",
    "civic 2016 4111 1111 1111 1111": "civic 2016 <card>",
    "4111111111111111 or 5500000000000004": "<card> or <card>",
    "anna+meier@example.de. 612 345 678": "<email>. <phone>",
    "почта@пример.рф": "<email>",
    "+49 (0)30 1234-5678": "<phone>",
    "0049 30 123456 red dress": "<phone> red dress",
    "(555) 123-4567": "<phone>",
    "call 555.123.4567": "call <phone>",
    "06 12 34 56 78": "<phone>",
    "030/1234567": "<phone>",
    "１３９１２３４５６７８": "<phone>",
}
TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cn"])
    | st.sampled_from("aÉſ0123456789 +-()./@.com\u0345\u0301٣\u2013\u200b\u200cमक\u094d\u200dم\u3164")
)


KEPT = ["0986494524", "4111111111111111", "620315485"]
"""Numbers that the catalogue holds."""
WRITTEN = [number for of_region in PHONES.values() for number in of_region] + [*CARDS, *PRODUCTS, *EITHER]
NUMBERS = st.lists(
    st.sampled_from(WRITTEN) | st.text(st.sampled_from("0123456789 +-()./x#٣\u2013\u200b"), max_size=20), max_size=4
)
JOINED = st.tuples(NUMBERS, st.sampled_from(["", " ", "-", ",", " x "])).map(lambda drawn: drawn[1].join(drawn[0]))


def test_both_have_the_same_patterns() -> None:
    sql = (REPOSITORY / "sql" / "functions.sql").read_text(encoding="utf-8")
    patterns = [value.pattern for value in vars(query_text).values() if isinstance(value, re.Pattern)]
    assert len(patterns) == 12
    in_java = {r"\d\D": r"\p{Nd}\P{Nd}", r"\U000e0000-\U000e0fff": r"\x{e0000}-\x{e0fff}"}
    for here, there in in_java.items():
        patterns = [pattern.replace(here, there) for pattern in patterns]
    assert not [pattern for pattern in patterns if pattern not in sql]
    assert [sql.count(pattern) for pattern in patterns[:2]] == [2, 2], "of texts, and of a map's values"


@settings(max_examples=1000, deadline=None)
@given(TEXT | JOINED)
def test_the_form_of_a_form_is_itself(text: str) -> None:
    query = normalise_query(text)
    assert normalise_query(query) == query
    assert normalise_query(f" {text.upper()}\t") == normalise_query(text.upper())


@pytest.mark.parametrize(("text", "query"), MASKED.items())
def test_personal_data_is_masked(text: str, query: str) -> None:
    assert normalise_query(text) == query


@pytest.mark.parametrize(("region", "number"), [(r, n) for r, numbers in PHONES.items() for n in numbers])
def test_telephone_numbers_are_masked(region: str, number: str) -> None:
    assert phonenumbers.is_possible_number(phonenumbers.parse(number, region))
    assert normalise_query(number) == "<phone>"
    assert normalise_query(f"call {number} please") == "call <phone> please"


@pytest.mark.parametrize("number", CARDS)
def test_card_numbers_are_masked(number: str) -> None:
    assert normalise_query(number) == "<card>"
    assert normalise_query(f"pay by {number}, size 5") == "pay by <card>, size 5"


@pytest.mark.parametrize("text", PRODUCTS)
def test_numbers_that_shoppers_search_for_stay(text: str) -> None:
    assert normalise_query(text) == text


def test_no_mask_takes_a_number_that_the_catalogue_holds() -> None:
    catalogue = [
        "Bosch brake pads 0 986 494 524",
        "Fiat mat 620.315.485 grey",
        "acme-4111111111111111",
        "ＯＥＭ １２３４５",
    ]
    numbers = maskable_numbers(catalogue)
    assert set(KEPT) <= numbers
    for text in ("bosch 0986494524", "0986-494-524", "(0986) 494524", "620 315 485", "4111 1111 1111 1111"):
        assert normalise_query(text) != text or "0986-" in text
        assert normalise_query(text, numbers) == text
    assert normalise_query("620 315 486 or +49 30 123456", numbers) == "<phone> or <phone>"
    assert maskable_numbers(["iphone 15", "4006381333931", "size 38 40 42"]) == set()


@pytest.mark.parametrize(
    "piece", ["1", "1 ", "4111 ", "@", "a@", "+1", "(0", "0612345678 ", "4111111111111111 ", "٣-", "1" + " " * 9]
)
def test_no_text_takes_for_ever(piece: str) -> None:
    """A pattern whose time grows with the square of the length would take hours here, and the test would be stopped."""
    text = (piece * 200_000)[:200_000]
    assert len(normalise_query(text)) <= len(text)


def test_the_rule() -> None:
    assert normalise_query("  Red\t\u3000SUMMER\n dress ") == "red summer dress"
    assert normalise_query(" \u2003 ") == ""
    assert normalise_query("Ｓtraße ﬁt ①") == "strasse fit 1"


def test_the_documentation_has_the_figures() -> None:
    telephones = [number for numbers in PHONES.values() for number in numbers]
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    for start, texts in (
        (f"| telephone numbers of {len(PHONES)} countries", telephones),
        ("| card numbers |", CARDS),
        ("| numbers of products", PRODUCTS),
        ("| numbers that may be either", EITHER),
    ):
        masked = sum("<" in normalise_query(text) for text in texts)
        row = next(line for line in page.splitlines() if line.startswith(start))
        assert row.endswith(f" | {masked} of {len(texts)} |")


@pytest.mark.parametrize(
    ("typed", "form"),
    [
        ("red floral\u200b summer dress", "red floral summer dress"),
        ("\ufeffred floral summer dress", "red floral summer dress"),
        ("red flo\u00adral summer dress", "red floral summer dress"),
        ("\u200ered floral summer dress\u200e", "red floral summer dress"),
        ("red floral sum\u200dmer dress", "red floral summer dress"),
        ("red floral summer dress\ufe0f", "red floral summer dress"),
        ("red\u2060 floral summer dress", "red floral summer dress"),
        ("red \u202efloral\u202c summer\u3164 dress", "red floral summer dress"),
        ("re\u0000d\u0007 floral summer \u2066dress\u2069\U000e0041", "red floral summer dress"),
        ("cafe\u200b\u0301", "café"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("می\u200c\u200cخواهم\u200c", "می\u200cخواهم"),
        ("क\u094d\u200dष", "क\u094d\u200dष"),
        ("ශ\u0dca\u200dර\u0dd3", "ශ\u0dca\u200dර\u0dd3"),
        ("👩\u200d👧", "👩👧"),
    ],
)
def test_what_nobody_sees_goes_and_joiners_stay_where_a_script_needs_them(typed: str, form: str) -> None:
    assert normalise_query(typed) == form
