"""Which scripts a tokenizer's vocabulary writes."""

from __future__ import annotations

import unicodedata
from collections import Counter

from tokenizers import Tokenizer

from smar_model.delivery.shop_figures import SCRIPTS

FEWEST = {"Han": 2_000, "Hiragana": 200, "Katakana": 200, "Hangul": 200}
"""Tokens from which on a script is known whose letters are words or syllables. MiniLM's English vocabulary has 488 of Han."""
FEWEST_OF_ALPHABETS = 200
"""Tokens of two letters or more: single letters of all alphabets are in vocabularies that have seen one language. MiniLM's has 8 of
two Cyrillic letters or more."""
LARGE_SHARE = 0.05
"""Or of all tokens with letters, in a small vocabulary."""


def known_scripts(tokenizer: Tokenizer) -> list[str]:
    """Unicode's names of the scripts, of those that `smar shop check` counts."""
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    counts: Counter[str] = Counter()
    total = 0
    for token, number in vocabulary.items():
        # Byte-level vocabularies write bytes as other letters; decoding gives the text back.
        text = tokenizer.decode([number]) or token
        letters = [letter for letter in text if letter.isalpha() and token not in special]
        total += bool(letters)
        for script in {script_of(letter) for letter in letters}:
            counts[script] += len(letters) > 1 or script in FEWEST
    return [
        script
        for script in SCRIPTS
        if counts[script] and counts[script] >= min(FEWEST.get(script, FEWEST_OF_ALPHABETS), LARGE_SHARE * total)
    ]


def script_of(letter: str) -> str:
    word = unicodedata.name(letter, "").partition(" ")[0]
    return "Han" if word == "CJK" else word.title()
