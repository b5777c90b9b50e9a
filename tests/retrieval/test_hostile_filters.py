"""Filters as a client sends them to hold a server up: parsed in time that grows with their length alone."""

from __future__ import annotations

from contextlib import suppress

import pytest

from smar_model.errors import InputError
from smar_model.retrieval import filter_language
from smar_model.retrieval.filter_language import parse_filter

MANY = 100_000
"""Characters: what goes back over them once for each ends in minutes, what does so twice never."""
HOSTILE = {
    "blanks, then a quote": "attributes.colour:" + " " * MANY + '"x',
    "blanks, then a quote that ends": "attributes.colour:" + " " * MANY + '"x" y',
    "blanks after a quote": 'brand:"x"' + " " * MANY + "y",
    "blanks within a value": "brand:x" + " " * MANY + '"',
    "tabs and lines": "department:" + "\t\n" * MANY + '"x',
    "quotes": "brand:" + '"' * (MANY + 1),
    "quotes, then a letter": "brand:" + '"' * MANY + "x",
    "values": "brand:" + "a |" * MANY,
    "quoted values": "brand:" + '"a" |' * MANY,
    "blanks after price": "price" + " " * MANY + "x",
    "blanks after an operator": "price<" + " " * MANY + "x",
    "blanks after an amount": "price<1" + " " * MANY + "x",
    "blanks before a range": "price:1" + " " * MANY + "...",
    "blanks after a range": "price:.." + " " * MANY + "x",
    "blanks within a range": "price:1.." + " " * MANY + "2" + " " * MANY + "EURO",
    "digits": "price<" + "1" * MANY,
    "digits after the point": "price<1." + "1" * MANY,
    "digits of a range": "price:" + "1" * MANY + ".." + "1" * MANY,
    "points": "price:" + "." * MANY,
    "numbers": "price<" + "1." * MANY,
    "operators": "brand" + "<" * MANY + ">",
    "blanks before an operator": "brand" + " " * MANY + "x",
    "blanks of a name": "attributes." + " " * MANY + "x",
    "nots": "not " * MANY,
    "dashes": "-" * MANY,
    "colons": "attributes." + ":" * MANY,
    "blanks": " " * MANY,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_filter_ends(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filter_language, "MAXIMUM_LENGTH", len(text))
    with suppress(InputError):
        parse_filter(text)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("brand:" + " " * 970 + '"x"', ("x",)),
        ("brand:" + "a|" * 400 + "b", ("a", "b")),
        ('brand: "a | b" | c ', ("a | b", "c")),
        ('brand:"15"" screen"|16', ('15" screen', "16")),
        ("brand:a  B", ("a b",)),
    ],
)
def test_values_are_read_whatever_surrounds_them(text: str, values: tuple[str, ...]) -> None:
    condition = parse_filter(text).condition
    assert isinstance(condition, filter_language.ValueFilter)
    assert condition.values == values
