"""Prices and truth values as shops store them, from Parquet and from JSON lines."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smar_model.delivery.delivered_tables import DeliveredFile
from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract

LAST = Decimal("99999999999999.9999")


def read(file: Path) -> list[dict[str, Any]]:
    batches = DeliveredFile(file, load_contract("stock"), None).batches()
    return [row for batch in batches for row in batch.to_pylist()]


@pytest.mark.parametrize(
    ("stored", "price"),
    [
        (pa.array([19.99]), Decimal("19.9900")),
        (pa.array([0.1 + 0.2]), Decimal("0.3000")),
        (pa.array([19.99], pa.float32()), Decimal("19.9900")),
        (pa.array([20]), Decimal("20.0000")),
        (pa.array([" 19.99 "]), Decimal("19.9900")),
        (pa.array([""]), None),
        (pa.array([float("nan")]), None),
        (pa.array([float("inf")]), LAST),
        (pa.array([Decimal("1.5")]), Decimal("1.5000")),
    ],
)
def test_prices_are_read_without_loss(stored: pa.Array, price: Decimal | None, tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": ["a"], "price": stored}), tmp_path / "stock.parquet")
    assert read(tmp_path / "stock.parquet")[0]["price"] == price


@pytest.mark.parametrize(
    ("stored", "available"), [(True, True), (1, True), (0.0, False), ("true", True), ("No", False), ("", None)]
)
def test_truth_values_too(stored: object, available: bool | None, tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": ["a"], "available": [stored]}), tmp_path / "stock.parquet")
    (tmp_path / "stock.jsonl").write_text(json.dumps({"item_id": "a", "available": stored}), encoding="utf-8")
    for name in ("stock.parquet", "stock.jsonl"):
        assert read(tmp_path / name)[0]["available"] is available


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"price": "19,99"}, "'19,99' is no number; write it as 1299.95"),
        ({"price": "1.23456"}, "has more than 4 digits after the point"),
        ({"price": True}, "price"),
        ({"available": 2}, "'2' is neither true nor false; write true or false"),
    ],
)
def test_what_is_none_is_named(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{"item_id": "a"} | row]), tmp_path / "stock.parquet")
    (tmp_path / "stock.jsonl").write_text(json.dumps({"item_id": "a"} | row), encoding="utf-8")
    for name in ("stock.parquet", "stock.jsonl"):
        with pytest.raises(InputError, match=said):
            read(tmp_path / name)
