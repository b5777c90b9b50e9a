"""The one form in which queries are compared, trained on and searched."""

from __future__ import annotations

import re
import unicodedata

EMAIL = re.compile(r"[^ <>@,;:]{1,64}@[^ <>@,;:]{1,255}\.[^ <>@.,;:]{2,24}")
CARD = re.compile(
    r"(?<![0-9])(?:3[0-9]{3}[ -]?[0-9]{6}[ -]?[0-9]{4,5}|[2-6][0-9]{3}(?:[ -]?[0-9]{4}){3}(?:[ -]?[0-9]{3})?)(?![0-9])"
)
"""Amex and Diners (14 or 15 digits), all others (16 or 19). No check digit: a mistyped number is as personal."""
PHONE = re.compile(
    r"(?<![0-9a-z])(?:(?:\+|00)[1-9](?:[ ()./-]{0,2}[0-9]){6,13}|\(?[0-9]{3,5}\)?[ ./-]{1,2}[0-9]{3,4}[ .-][0-9]{4}"
    r"|0[0-9]{2,4}[ /-][0-9]{6,8}|0[1-9](?:[ .-][0-9]{2}){4}|(?<![0-9][.,])[0-9]{10,11})(?![0-9a-z])"
)
"""International; 555-123-4567; 030/1234567; 06 12 34 56 78; 10 or 11 digits in a row (barcodes have 8, 12 or more)."""


def normalise_query(text: str) -> str:
    """NFKC, case folding, white space collapsed to single spaces and cut at both ends, personal data masked.

    White space is what `str.split` parts at: Unicode's separators, tabs, line breaks. Zero-width characters and
    punctuation stay. Emails, card and phone numbers become `<email>`, `<card>`, `<phone>`. The form of a form is itself.
    `normalise_query` in `sql/functions.sql` is its twin; a test compares them on every character that this Python knows
    (its Unicode is older than that of Spark's ICU).
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    query = " ".join(folded.split())
    for pattern, mask in ((EMAIL, "<email>"), (CARD, "<card>"), (PHONE, "<phone>")):
        query = pattern.sub(mask, query)
    return query


def beginning(text: str, characters: int) -> str:
    """The first characters of a query with the same normal form, at a cost that a text of any length cannot raise.

    One character may stand for 18 (U+FDFA), so the text is cut before NFKC and after it. `normalise_query` of what is left may still be three times
    as long, by case folding. A query that is no longer than `characters` in NFKC keeps its normal form to the letter.
    """
    short = " ".join(text.split())[:characters]
    return unicodedata.normalize("NFKC", short)[:characters]
