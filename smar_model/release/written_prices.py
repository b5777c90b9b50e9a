"""Prices of a stock file as they are written there: what is no number or beyond any price, before types take it for empty or cut it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smar_model.delivery.json_lines import is_json_lines, iterate_lines
from smar_model.delivery.value_casts import is_text
from smar_model.lake.object_paths import AnyPath, parquet_source

_SUSPECT_LINE = re.compile(rb"nan|inf|[0-9]{15}|[0-9]e\+?[0-9]{2}", re.IGNORECASE)
"""Lines that may have such a price; the others are not parsed again."""
_LONGEST_SHOWN = 40


@dataclass(slots=True)
class WrittenPrices:
    not_numbers: int = 0
    """Prices that are NaN."""
    not_number: str = ""
    """The first one, with its item."""
    beyond: str = ""
    """The first one that is more than a price can be, with its item."""


def written_prices(file: AnyPath, most: int) -> WrittenPrices:
    """Look through a file that has been read without a fault.

    Args:
        most: what a price is at most.
    """
    found = WrittenPrices()
    for item, written in _lines(file) if is_json_lines(file) else _rows(file, most):
        try:
            price = Decimal(str(written).strip())
        except InvalidOperation:
            continue
        if price.is_nan():
            found.not_numbers += 1
            found.not_number = found.not_number or f"{item}: {str(written)[:_LONGEST_SHOWN]}"
        elif price.copy_abs() > most and not found.beyond:
            shown = str(written)
            found.beyond = f"{item}: {shown[:_LONGEST_SHOWN]}{'…' if len(shown) > _LONGEST_SHOWN else ''}"
    return found


def _lines(file: AnyPath) -> Iterator[tuple[str, str]]:
    for _, line in iterate_lines(file):
        if _SUSPECT_LINE.search(line):
            row = json.loads(line.decode("utf-8", "replace"), parse_float=str, parse_int=str, parse_constant=str)
            item, price = str(row.get("item_id") or "").strip(), row.get("price")
            if item and isinstance(price, str):
                yield item, price


def _rows(file: AnyPath, most: int) -> Iterator[tuple[str, Any]]:
    with pq.ParquetFile(parquet_source(file)) as opened:
        names = opened.schema_arrow.names
        if "price" not in names:
            return
        for batch in opened.iter_batches(columns=["item_id", "price"]):
            prices = (
                batch["price"].dictionary_decode() if pa.types.is_dictionary(batch["price"].type) else batch["price"]
            )
            for n in pc.indices_nonzero(_is_suspect(prices, most)).to_pylist():
                if item := str(batch["item_id"][n].as_py() or "").strip():
                    yield item, prices[n].as_py()


def _is_suspect(prices: pa.Array, most: int) -> pa.Array:
    """(N,) bool: rows that are worth a look one by one."""
    if is_text(prices.type):
        return pc.fill_null(pc.match_substring_regex(prices, r"(?i)nan|inf|[0-9]{15}|[0-9]e\+?[0-9]{2}"), False)
    if pa.types.is_null(prices.type):
        return pa.array([False] * len(prices))
    numbers = prices.cast(pa.float64(), safe=False)
    return pc.fill_null(pc.or_(pc.is_nan(numbers), pc.greater_equal(pc.abs(numbers), float(most))), False)
