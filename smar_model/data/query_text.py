"""The one form in which queries are compared, trained on and searched.

Plain expressions, so that SQL has the same: `sql/functions.sql` is the twin of what is here, pattern by pattern.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator

INVISIBLE = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    r"\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]+"
)
"""What a paste brings along and nobody sees: controls, soft hyphens, byte order marks, zero-width spaces, marks of direction, variation selectors, tags."""
STRAY_JOINER = re.compile(
    r"(?<![\u0600-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u18af])[\u200c\u200d]+"
    r"|[\u200c\u200d]+(?![\u0600-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u18af\u200c\u200d])"
)
"""Joiners but for those between letters of scripts that are written with them: Arabic to Thaana, those of India, Burmese, Khmer, Mongolian."""
EMAIL = re.compile(r"[^ <>@,;:]{1,64}@[^ <>@,;:]{1,255}\.[^ <>@.,;:]{2,24}")
GROUP_START = re.compile(r"(?<![0-9])(?=[0-9])")
CARD_GROUPS = re.compile(r"(?:[0-9]{3,19}[ ._/-]{1,3}){0,5}[0-9]{1,19}[^0-9]*")
"""Up to six groups of digits; none but the last is shorter than three, as sizes are (`36 38 40 42 44 46`)."""
SERIES = re.compile(r"([0-9]{2})[0-9]{2}[^0-9]+\1[0-9]{2}[^0-9]+\1[0-9]{2}[^0-9]*")
"""Three model numbers of a kind: `6204 6205 6206`."""
CARD = re.compile(
    r"4[0-9]{12}(?:[0-9]{3}){0,2}|(?:2[2-7]|5[1-5]|8[12])[0-9]{14}|3[47][0-9]{13}|3(?:0[0-59]|[689][0-9])[0-9]{11}"
    r"|3(?:5[2-8]|[689][0-9])[0-9]{13}|(?:5[0678]|6[0-9])[0-9]{10,17}|9792[0-9]{12}"
)
"""Visa; Mastercard, Mir and RuPay; Amex; Diners; JCB; Maestro, Discover and UnionPay; Troy."""
PHONE = re.compile(
    # +49 (0)30 1234-5678, 0049 30 123456
    r"(?<![0-9a-z])(?<![ed]>)(?:(?:\(?\+ ?|00 ?)[1-9](?:[ ()./-]{0,3}[0-9]){6,14}"
    # (555) 123-4567, 1 212 555 0187, 8 (912) 345-67-89, 0 532 123 45 67; no measures (200 300 4000)
    r"|(?:[0178][ .-]|[18](?=\())?(?![0-9]{2}0[ .-][0-9]{2}0[ .-][0-9]{3}0)(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ ./-]{1,3})"
    r"[0-9]{3}[ .-]{1,3}(?:[0-9]{4}|[0-9]{2}[ .-][0-9]{2})"
    # 333-1234567
    r"|3[0-9]{2}[ .-][0-9]{7}"
    # 020 7946 0958, 02-312-4567, 0161 496 0000, 0532 123 45 67, 0151 2345 6789; no country has 06 before 2-3-4
    r"|\(?0[1-9]\)?[ ./-]{1,3}[0-9]{3,4}[ .-]{1,3}[0-9]{4}|\(?0[1-9][0-9]\)?[ ./-]{1,3}[0-9]{3,4}[ .-]{1,3}[0-9]{4}"
    r"|\(?0[1-57-9][0-9]{2,3}\)?[ ./-]{1,3}[0-9]{3}[ .-]{1,3}(?:[0-9]{4}|[0-9]{2}[ .-][0-9]{2})"
    r"|01[5-7][0-9][ ./-][0-9]{4}[ .-][0-9]{4}|0[1-9]{1,3}\([0-9]{3,4}\)[0-9]{4}|0[1-9][1-9][ .-]9[0-9]{4}[ .-][0-9]{4}"
    # 0412 345 678, 0120-123-456, 07911 123 456
    r"|0(?:4[0-9]{2}|120)[ .-][0-9]{3}[ .-][0-9]{3}|\(?0[17][0-9]{3}\)?[ .-][0-9]{3}[ .-][0-9]{3}"
    # 030/1234567, 07911 123456, 06-12345678
    r"|\(?0[0-9]{1,4}\)?(?: ?[/-] ?| )[0-9]{6,8}"
    # 06 12 34 56 78; 08-123 456 78, 070-123 45 67, 031-12 34 56
    r"|0[1-9](?:[ ./-][0-9]{2}){4}|0[0-9]{1,3}[ /-][0-9]{2,3}[ -][0-9]{2,3}[ -][0-9]{2}(?:[ -][0-9]{2})?"
    # 612 345 678, 612 34 56 78, 91 123 45 67
    r"|(?<![^0-9][0-9] )(?<!^[0-9] )(?<![ed]> )(?![0-9]{2}0[ .-][0-9]{2}0[ .-][0-9]{2}0)[5-9][0-9]{2}[ .-][0-9]{3}[ .-][0-9]{3}"
    r"|[5-9][0-9]{2}[ .-][0-9]{2}[ .-][0-9]{2}[ .-][0-9]{2}|\(?[1-9][1-9]\)?[ .-][0-9]{3}[ .-][0-9]{2}[ .-][0-9]{2}"
    # (11) 91234-5678, 11 91234-5678, 55 1234 5678, 138 1234 5678, 98765 43210; no years
    r"|\([1-9][1-9]\) ?9?[0-9]{4}[ .-]?[0-9]{4}|[1-9][1-9][ .-]9[0-9]{4}[ .-][0-9]{4}"
    r"|[1-9][1-9][ .-](?![0-9]{3}0[ .-][0-9]{3}0|(?:19|20)[0-9]{2}[ .-](?:19|20))[0-9]{4}[ .-][0-9]{4}"
    r"|1[3-9][0-9][ .-][0-9]{4}[ .-][0-9]{4}|0?[6-9][0-9]{4}[ -][0-9]{5}"
    # Ten or eleven digits in a row as countries write them; German mobiles have twelve
    r"|(?<![0-9]\.)(?<![ed]>\.)(?:0(?:[2-9][0-9]|1[1-9])[0-9]{7}|0[1-9][0-9]{9}|01[5-7][0-9]{9}|[2-9][0-9]{9}|1[2-9][0-9]{9}"
    r"|[78][3489][0-9]{9}|[1-9][1-9]9[0-9]{8})"
    r")(?: ?(?:ext(?:ension)?\.?|x|#) ?[0-9]{1,5})?(?![0-9a-z])"
)
NUMBER_GROUPS = re.compile(r"(?:[0-9]{1,19}[ ()._/-]{1,4}){0,5}[0-9]{1,19}[^0-9]*")
INTERNATIONAL = re.compile(r"\(?(?:\+|00)")
ISBN_10 = re.compile(r"[0-578][0-9]{9}")
"""None of 6 or 9: countries whose ISBN begins so are small, and mobiles of India begin so."""
PLAIN_FROM = (
    "٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹०१२३४५६७८९০১২৩৪৫৬৭৮৯๐๑๒๓๔๕๖๗๘๙၀၁၂၃၄၅၆၇၈၉០១២៣៤៥៦៧៨៩"
    "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u00ad\u200b\u200c\u200d\u2060\ufeff"
)
PLAIN_TO = "0123456789" * 7 + "-------"
"""Digits (Arabic, Persian, Devanagari, Bengali, Thai, Burmese, Khmer) and dashes that NFKC leaves; what has no width goes."""
_PLAIN = str.maketrans(PLAIN_FROM[: len(PLAIN_TO)], PLAIN_TO, PLAIN_FROM[len(PLAIN_TO) :])
SEVEN_DIGITS = re.compile(r"(?:\d\D*){7}")
"""What all masked numbers have in common: most queries are done with there."""
_GROUPS = 6
_LUHN, _GTIN = "0246813579", "0369258147"
"""What stands for the second digit, the fourth and so on, from the right: twice it, less 9 above 9; three times it, modulo 10."""


def normalise_query(text: str, catalogue_numbers: Collection[str] = frozenset()) -> str:
    """NFKC, case folding, white space collapsed to single spaces and cut at both ends, personal data masked.

    White space is what `str.split` parts at: Unicode's separators, tabs, line breaks. What nobody sees goes (`visible_text`),
    punctuation stays. Emails, card and phone numbers become `<email>`, `<card>`, `<phone>`; docs/architecture.md says which.
    The form of a form is itself. `normalise_query` in `sql/functions.sql` is its twin; a test compares them on every
    character that this Python knows (its Unicode is older than that of Spark's ICU).

    Args:
        catalogue_numbers: digits of the numbers that the catalogue holds (`numbers_of`): no mask takes them.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible_text(text)).casefold())
    query = EMAIL.sub("<email>", " ".join(folded.split()))
    if not SEVEN_DIGITS.search(query):
        return query
    plain = _plain(query)
    masked = _mask_phones(_mask_cards(plain, catalogue_numbers), catalogue_numbers)
    return query if masked == plain else masked


def visible_text(text: str) -> str:
    """The text without characters that nobody sees, in queries and titles alike; joiners stay where a script needs them."""
    return STRAY_JOINER.sub("", INVISIBLE.sub("", text))


def _plain(text: str) -> str:
    return " ".join(part for part in text.translate(_PLAIN).split(" ") if part)


def numbers_of(text: str) -> set[str]:
    """Digits of every number of 9 to 19 digits in a text, written in up to six groups: those that a mask could take."""
    if not SEVEN_DIGITS.search(text):
        return set()
    pieces = GROUP_START.split(_plain(text))
    windows = (w for start in range(len(pieces)) for w in _windows(pieces, start, NUMBER_GROUPS))
    return {digits for _, digits in windows if 9 <= len(digits) <= 19}


def _windows(pieces: list[str], start: int, groups: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    """Numbers that begin with a piece, each a group of digits and what follows it: how many groups, and the digits."""
    for size in range(1, min(_GROUPS, len(pieces) - start) + 1):
        written = "".join(pieces[start : start + size])
        if groups.fullmatch(written):
            yield size, re.sub("[^0-9]", "", written)


def _mask_cards(text: str, catalogue_numbers: Collection[str]) -> str:
    pieces = GROUP_START.split(text)
    spans = [
        max((size for size, digits in _card_windows(pieces, n) if digits not in catalogue_numbers), default=0)
        for n in range(len(pieces))
    ]
    if not any(spans):
        return text
    # Whether the card number of an earlier piece goes on in this one; the last entry is no piece.
    goes_on = [any(spans[n - back] > back for back in range(1, min(n, _GROUPS) + 1)) for n in range(len(pieces))]
    goes_on.append(False)
    masked = []
    for n, piece in enumerate(pieces):
        if goes_on[n] or spans[n]:
            masked += ["" if goes_on[n] else "<card>", "" if goes_on[n + 1] else piece.lstrip("0123456789")]
        else:
            masked.append(piece)
    return "".join(masked)


def _card_windows(pieces: list[str], start: int) -> Iterator[tuple[int, str]]:
    for size, digits in _windows(pieces, start, CARD_GROUPS):
        if CARD.fullmatch(digits) and has_luhn_digit(digits):
            is_barcode = size == 1 and len(digits) in (12, 13) and _has_check_digit(digits, _GTIN)
            if not is_barcode and not SERIES.fullmatch("".join(pieces[start : start + size])):
                yield size, digits


def has_luhn_digit(digits: str) -> bool:
    """Whether digits end with the check digit of a card's number."""
    return _has_check_digit(digits, _LUHN)


def _has_check_digit(digits: str, second: str) -> bool:
    """Whether digits add up to a multiple of ten, every second one from the right replaced by that of `second`."""
    return sum(int(second[int(d)]) if n % 2 else int(d) for n, d in enumerate(reversed(digits))) % 10 == 0


def _mask_phones(text: str, catalogue_numbers: Collection[str]) -> str:
    def mask(match: re.Match[str]) -> str:
        digits = re.sub("[^0-9]", "", match[0])
        is_product = (digits in catalogue_numbers and not INTERNATIONAL.match(match[0])) or (
            digits == match[0]
            and (
                (ISBN_10.fullmatch(digits) and sum((10 - n) * int(d) for n, d in enumerate(digits)) % 11 == 0)
                or (len(digits) == 12 and _has_check_digit(digits, _GTIN))
            )
        )
        return match[0] if is_product else "<phone>"

    return PHONE.sub(mask, text)


def maskable_numbers(texts: Iterable[str]) -> set[str]:
    """`catalogue_numbers` of a catalogue's texts: of the longer numbers only those that could be a card or a German mobile."""
    numbers = {
        n for text in texts if SEVEN_DIGITS.search(text) for n in numbers_of(unicodedata.normalize("NFKC", text))
    }
    return {n for n in numbers if len(n) < 12 or n.startswith("01") or (CARD.fullmatch(n) and has_luhn_digit(n))}


def beginning(text: str, characters: int) -> str:
    """The first characters of a query with the same normal form, at a cost that a text of any length cannot raise.

    One character may stand for 18 (U+FDFA), so the text is cut before NFKC and after it. `normalise_query` of what is left may still be three times
    as long, by case folding. A query that is no longer than `characters` in NFKC keeps its normal form to the letter.
    """
    short = " ".join(text.split())[:characters]
    return unicodedata.normalize("NFKC", short)[:characters]
