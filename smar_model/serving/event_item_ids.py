"""Which ids of items an event may name: what the masks of queries would take is no id, unless an open index holds it.

Ids are no free text, but a page that mixes up its fields may send a phone number or an address in their place, and the log is kept for long.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from smar_model.data.query_text import CARD, has_luhn_digit, normalise_query

_MASK = re.compile("<(?:email|card|phone)>")
_DIGITS = re.compile(r"[0-9]+")
_PHONE_IN_DIGITS = re.compile(r"00[1-9][0-9]+|01[0-9]{10}|[0-9]{10,11}")
_NUMBER_OR_ADDRESS = re.compile(r"[@+]|[^\x00-\x7f]|[0-9][ ()._/-]+[0-9]|[0-9]{10}")
_NO_TEXT = {"Cc", "Cs", "Zl", "Zp"}
"""Categories of Unicode: controls, halves of characters, ends of lines."""


class HeldIds(NamedTuple):
    """What an open pair says of ids."""

    numbers: Collection[str]
    """Of the catalogue that its model was trained on."""
    masked: Collection[str]
    """Ids of its index that the masks would take in spite of these."""


def is_masked(text: str, numbers: Collection[str]) -> bool:
    """Whether a query of this text would be masked."""
    masks = len(_MASK.findall(normalise_query(text, numbers)))
    return masks > len(_MASK.findall(unicodedata.normalize("NFKC", text).casefold()))


def masked_ids(item_ids: Iterable[str], numbers: Collection[str]) -> frozenset[str]:
    """Those of an index's ids that `is_masked` is true of: as shops name items, there are few or none."""
    return frozenset(each for each in item_ids if _may_be_masked(each, numbers) and is_masked(each, numbers))


def _may_be_masked(item_id: str, numbers: Collection[str]) -> bool:
    """A look that is quick, as an index has millions of ids."""
    if _DIGITS.fullmatch(item_id):
        if item_id in numbers and not item_id.startswith("00"):
            return False
        return bool(_PHONE_IN_DIGITS.fullmatch(item_id) or (CARD.fullmatch(item_id) and has_luhn_digit(item_id)))
    return _NUMBER_OR_ADDRESS.search(item_id) is not None


def why_no_id(item_id: str, held: Sequence[HeldIds]) -> str | None:
    """What keeps a text from being an item's id; None where nothing does.

    Args:
        held: of all pairs that are open; none, as at a front: digits alone are an id.
    """
    if not item_id.strip():
        return "is empty"
    if any(unicodedata.category(character) in _NO_TEXT for character in item_id):
        return "has control characters"
    if not held and _DIGITS.fullmatch(unicodedata.normalize("NFKC", item_id)):
        return None
    numbers = [each.numbers for each in held] or [frozenset()]
    if any(item_id in each.masked for each in held) or not all(is_masked(item_id, each) for each in numbers):
        return None
    return "looks like an e-mail address, a phone or card number, and no open index holds it"
