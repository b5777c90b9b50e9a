"""Judgements of all data sets on one scale, that of `schemas/judgments.yaml`: 0 irrelevant, 1 complement, 2 substitute,
3 exact. nDCG takes the grade as the gain.

| source | 3 | 2 | 1 | 0 |
| --- | --- | --- | --- | --- |
| Amazon ESCI | E exact | S substitute | C complement | I irrelevant |
| WANDS | Exact | Partial | | Irrelevant |
| Marqo-GS-10M, `score_linear` of 1–100 (101 − position) | from 91: the first ten | from 51: the first fifty | from 1 | |
| MUGE, JD pretrain data | listed for the query | | | |

WANDS' Partial is a product of the kind that was asked for which misses a wish (its guidelines): ESCI's substitute, not a
complement, which is another kind of thing; and its authors give it half the gain of Exact, to which 2 of 3 is as near as
1 of 3. Sources that only list what is relevant have no other grade than 3.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from statistics import fmean, median_low
from typing import Literal

from smar_model.errors import InputError

RELEVANT = 3
_WHOLE_FLOAT = re.compile(r"([0-9]+)\.0+")
SCALES: Mapping[str, Mapping[str, int]] = {
    "esci": {"E": 3, "S": 2, "C": 1, "I": 0},
    "wands": {"Exact": 3, "Partial": 2, "Irrelevant": 0},
}
"""Data set → label → grade."""
MARQO_GS = (1.0, 51.0, 91.0)
"""The least `score_linear` of grades 1, 2 and 3."""


def grade_of_label(where: str, label: str, scale: Mapping[str, int]) -> int:
    """Grade of a label; one such as `3.0` is also `3`.

    Raises:
        InputError: the scale does not know it.
    """
    if label not in scale and (number := _WHOLE_FLOAT.fullmatch(label)):
        label = number[1]
    if label not in scale:
        raise InputError(f"{where}: label {label[:60]!r}; expected {', '.join(scale)}")
    return scale[label]


def combined_grade(grades: Sequence[int], how: Literal["median", "mean", "highest", "lowest"]) -> int:
    """One grade of those that several raters gave; a median or mean that lies half-way between two is the lower one."""
    match how:
        case "median":
            return median_low(grades)
        case "mean":
            return math.ceil(fmean(grades) - 0.5)
        case "highest":
            return max(grades)
        case _:
            return min(grades)


def grade_of_score(where: str, score: object, bounds: tuple[float, float, float]) -> int:
    """Grade of a numeric score: the number of bounds that it reaches.

    Raises:
        InputError: it is no number.
    """
    try:
        value = float(str(score))
    except ValueError:
        value = float("nan")
    if value != value:
        raise InputError(f"{where}: score {score!r} is not a number; correct or remove the row")
    return bisect_right(bounds, value)
