"""`smar refresh-stock` of files as shops write them: what is left out is told as it was written, a misspelt column is refused."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smar_model.errors import InputError
from smar_model.release.stock import refresh_stock
from smar_model.release.stock_tables import current_stock, load_stock
from smar_model.settings import load_settings
from tests.release.judged_runs import write_settings


@pytest.fixture
def settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return write_settings(tmp_path / "home")


def write_lines(file: Path, *rows: dict[str, Any] | str) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def refresh(settings_file: Path, source: Path) -> str:
    """What is said, a line each; no champion is asked for, as a registry of its own takes seconds."""
    said: list[str] = []
    refresh_stock(load_settings(settings_file), source, lambda: None, said.append)
    return "".join(f"{line}\n" for line in said)


def published(settings_file: Path) -> list[dict[str, Any]]:
    settings = load_settings(settings_file)
    pointer = current_stock(settings)
    assert pointer
    return load_stock(settings, pointer).rows.to_pylist()


def test_a_misspelt_column_is_refused_and_an_unknown_one_told(settings_file: Path, tmp_path: Path) -> None:
    rows = [{"item_id": "a", "price": 1, "avaliable": True, "colour": "red"}]
    lines = write_lines(tmp_path / "s.jsonl", {"item_id": "b", "price": 2}, *rows)
    pq.write_table(pa.Table.from_pylist(rows), table := tmp_path / "s.parquet")
    for file in (lines, table):
        with pytest.raises(InputError, match=rf"{file.name}: there is no column 'avaliable'; did you mean 'available'"):
            refresh(settings_file, file)
    assert current_stock(load_settings(settings_file)) is None
    said = refresh(settings_file, write_lines(lines, {"item_id": "a", "price": 1, "colour": "red"}))
    assert "columns that are not read: 1, such as 'colour'; schemas/stock.yaml has item_id, price, currency" in said
    with pytest.raises(
        InputError, match=r"none of its 1 rows says a price, a currency or whether the item is available"
    ):
        refresh(settings_file, write_lines(lines, {"item_id": "a", "cost": 1}))


@pytest.mark.parametrize("written", ["1e400", "99999999999999999", "-99999999999999999.5", '"1e+30"', "Infinity"])
def test_a_price_beyond_any_is_told_as_written(written: str, settings_file: Path, tmp_path: Path) -> None:
    bad = f'{{"item_id": "x", "price": {written}}}'
    said = refresh(settings_file, write_lines(tmp_path / "s.jsonl", {"item_id": "a", "price": 1}, bad))
    assert f"more than 99,999,999,999,999, left empty: 1, such as x: {written.strip(chr(34))}\n" in said


def test_prices_that_are_no_numbers_are_told(settings_file: Path, tmp_path: Path) -> None:
    nan = '{"item_id": "x", "price": NaN, "available": true}'
    said = refresh(
        settings_file, write_lines(tmp_path / "s.jsonl", nan, nan.replace("x", "y"), {"item_id": "a", "price": 1})
    )
    assert "prices that are NaN, taken for empty: 2, such as x: NaN\n" in said
    for column in ([float("nan"), 1e300, 2.0], ["nan", "1e300", "2"]):
        pq.write_table(pa.table({"item_id": ["x", "y", "z"], "price": column}), file := tmp_path / "s.parquet")
        said = refresh(settings_file, file)
        assert "prices that are NaN, taken for empty: 1, such as x: nan\n" in said
        assert "left empty: 1, such as y: 1e" in said
    assert [row["price"] for row in published(settings_file)] == [None, None, Decimal(2)]


def test_which_of_several_rows_counts_is_told(settings_file: Path, tmp_path: Path) -> None:
    old, new = "2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z"
    rows = [
        {"item_id": "a", "price": 3, "updated_at": new},
        {"item_id": "a", "price": 2, "updated_at": old},
        {"item_id": "b", "price": 5},
        {"item_id": "b", "price": 6},
    ]
    said = refresh(settings_file, write_lines(tmp_path / "s.jsonl", *rows))
    assert (
        "of which the newest by updated_at counts, of one time or without one the last in the file, left out: 2, such as a"
        in said
    )
    assert [(row["item_id"], row["price"]) for row in published(settings_file)] == [
        ("a", Decimal(3)),
        ("b", Decimal(6)),
    ]


def test_prices_without_a_currency_are_counted(settings_file: Path, tmp_path: Path) -> None:
    rows = [
        {"item_id": "a", "price": 3, "currency": "EUR"},
        {"item_id": "b", "price": 2},
        {"item_id": "c", "price": 2, "currency": "EUU"},
        {"item_id": "d", "price": 2, "currency": "EURO"},
        {"item_id": "e", "price": 2, "currency": " gbp"},
    ]
    said = refresh(settings_file, write_lines(tmp_path / "s.jsonl", *rows))
    assert "currencies that are no ISO 4217 code, left empty: 2, such as c: 'EUU'" in said
    assert "prices without a currency: 3, such as 'b'; each is in the currency that the index has for the item" in said
    assert [row["currency"] for row in published(settings_file)] == ["EUR", None, None, None, "GBP"]
