"""How long each item's attributes are, as the jobs' rule counts them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from smar_model.delivery.value_casts import valid_text

LONG_ATTRIBUTES = 30_000
"""Characters from which they are counted exactly; the rule has 100,000."""


def attribute_lengths(attributes: pa.MapArray) -> pa.Array:
    """Characters of names and values of each row's attributes, without empty ones."""
    values, names = attributes.items, attributes.keys
    begin, end = attributes.offsets[0].as_py(), attributes.offsets[-1].as_py()
    values, names = valid_text(values.slice(begin, end - begin)), valid_text(names.slice(begin, end - begin))
    lengths = pc.add(pc.utf8_length(names), pc.utf8_length(values))
    lengths = pc.if_else(pc.not_equal(pc.utf8_trim(values, " "), ""), lengths, 0)
    sums = pc.cumulative_sum(pc.fill_null(lengths, 0).cast(pa.int64())).to_numpy()
    sums = [0, *sums]
    places = (attributes.offsets.to_numpy() - begin).tolist()
    of_rows = [sums[b] - sums[a] for a, b in pairwise(places)]
    for row, length in enumerate(of_rows):
        if length > LONG_ATTRIBUTES:  # exactly as the jobs count them, who join the values of a repeated name
            first = places[row]
            pairs = zip(
                names.slice(first, places[row + 1] - first), values.slice(first, places[row + 1] - first), strict=True
            )
            of_rows[row] = _joined_length((name.as_py(), value.as_py()) for name, value in pairs)
    return pa.array(of_rows, pa.int64())


def _joined_length(pairs: Iterator[tuple[str, str | None]]) -> int:
    joined: dict[str, dict[str, None]] = {}
    for name, value in pairs:
        texts = joined.setdefault(name, {})
        if value is not None and value.strip(" "):
            texts[value] = None
    return sum(len(name) + len(", ".join(texts)) for name, texts in joined.items() if texts)
