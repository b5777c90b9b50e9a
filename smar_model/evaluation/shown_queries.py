"""Which queries people look at in the report: not the best ones, a mix that shows gains, losses and ordinary ones."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

# Basic colour terms of English (Berlin and Kay 1969) and the commonest of fashion.
_COLOUR = re.compile(
    r"\b(black|white|red|green|yellow|blue|brown|orange|pink|purple|gr[ae]y|navy|beige|maroon|olive|silver|gold)\b"
)
_PATTERN = re.compile(
    r"\b(stripe[ds]?|check(s|ed|ered)?|plaid|tartan|gingham|floral|flower(s|y)?|polka|dot(s|ted)?|print(s|ed)?|graphic"
    r"|camo(uflage)?|paisley|animal|leopard|zebra|geometric|abstract|solid|tie dye|ombre|embroidered|herringbone|houndstooth)\b"
)
_SHARES = {
    "largest gain": 0.25,
    "largest loss": 0.25,
    "most frequent": 0.15,
    "colour word": 0.1,
    "pattern word": 0.1,
    "not fashion": 0.15,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownQuery:
    number: int
    """Its place in the evaluation set."""
    reason: str


def choose_shown_queries(
    *, queries: np.ndarray, is_visual: np.ndarray, gain: np.ndarray, count: int, seed: int
) -> list[ShownQuery]:
    """Choose at most `count` distinct texts.

    Args:
        queries: (Q,) texts.
        gain: (Q,) value of the model minus that of the one it is compared with.
    """
    texts, first, frequency = np.unique(queries.astype(str), return_index=True, return_counts=True)
    gain, is_visual = gain[first], is_visual[first]
    shuffled = np.random.default_rng(seed).permutation(len(texts))
    # A stable sort of the shuffled numbers: among equals chance decides, not the alphabet.
    by_gain = shuffled[np.argsort(-gain[shuffled], kind="stable")]
    orders = {
        "largest gain": by_gain[gain[by_gain] > 0],
        "largest loss": by_gain[::-1][gain[by_gain[::-1]] < 0],
        "most frequent": shuffled[np.argsort(-frequency[shuffled], kind="stable")],
        "colour word": shuffled[[bool(_COLOUR.search(texts[n])) for n in shuffled]],
        "pattern word": shuffled[[bool(_PATTERN.search(texts[n])) for n in shuffled]],
        "not fashion": shuffled[~is_visual[shuffled]],
    }
    chosen: dict[int, str] = {}
    for reason, order in orders.items():
        new = [n for n in order.tolist() if n not in chosen]
        chosen |= dict.fromkeys(new[: round(_SHARES[reason] * count)], reason)
    # Kinds that lack queries leave room, as rounding may.
    rest = [n for n in shuffled.tolist() if n not in chosen]
    chosen |= dict.fromkeys(rest[: max(0, count - len(chosen))], "drawn at random")
    return [ShownQuery(number=int(first[n]), reason=reason) for n, reason in list(chosen.items())[:count]]
