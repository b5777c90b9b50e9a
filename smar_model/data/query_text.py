"""The one form in which queries are compared, trained on and searched."""

from __future__ import annotations


def normalise_query(text: str) -> str:
    """Lower case (Unicode's full mapping), white space collapsed to single spaces and cut at both ends.

    White space is what `str.split` parts at: Unicode's separators, tabs, line breaks. Zero-width characters and
    punctuation stay. `normalise_query` in `sql/functions.sql` is its twin; a test compares them on every character.
    """
    return " ".join(text.lower().split())
