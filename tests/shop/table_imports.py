"""`smar shop import table` as tests run it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from typer.testing import CliRunner

from smar_model.cli import app

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Imported:
    """A shop after an import, and what the command said."""

    root: Path
    output: str

    @property
    def items(self) -> dict[str, Row]:
        """By id, without the source before it."""
        return {row["item_id"].split("-", 1)[1]: row for row in _rows(self.root / "items.parquet")}

    @property
    def events(self) -> list[Row]:
        return [row for file in sorted(self.root.glob("click_log/*/*")) for row in _rows(file)]

    @property
    def judgments(self) -> dict[tuple[str, str], int]:
        """Query and item id, without the source before it, to grade."""
        rows = _rows(self.root / "judgments.parquet")
        assert len({(row["query"], row["item_id"]) for row in rows}) == len(rows)
        return {(row["query"], row["item_id"].split("-", 1)[1]): row["grade"] for row in rows}


def import_table(folder: Path, mapping: Path | Row, shop: Path) -> Imported:
    """Import by a mapping, or by a file with one; an InputError comes through as itself."""
    if isinstance(mapping, dict):
        file = shop.parent / "mapping.yaml"
        file.write_text(yaml.safe_dump({"source": "acme", **mapping}))
        mapping = file
    arguments = ["shop", "import", "table", folder, "--columns", mapping, "--to", shop]
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return Imported(shop, result.output)


def import_items(
    folder: Path, content: str | bytes, columns: Row, *, name: str = "goods.csv", **table: Any
) -> Imported:
    """Import one file of items."""
    return _import_one(folder, "items", content, columns, name, table)


def import_judgments(folder: Path, content: str, *, name: str = "labels.csv", **table: Any) -> Imported:
    """Import one file of judgments with the columns q, sku and g."""
    columns = {"query": "q", "item_id": "sku", "grade": table.pop("grade", "g")}
    return _import_one(folder, "judgments", content, columns, name, table)


def import_events(folder: Path, content: str | bytes, *, name: str = "log.csv", **columns: Any) -> Imported:
    """Import one file of events with the columns t, e, sku and p; the rest is the same for all."""
    table = columns.pop("table", {})
    same = {name: {"value": "x"} for name in ("request_id", "session_id", "user_id", "query")}
    columns = same | {"event_time": "t", "event": "e", "item_id": "sku", "position": "p"} | columns
    return _import_one(folder, "click_log", content, columns, name, table)


def _import_one(folder: Path, table: str, content: str | bytes, columns: Row, name: str, more: Row) -> Imported:
    export = folder / "export"
    export.mkdir(exist_ok=True)
    (export / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return import_table(export, {table: {"file": name, "columns": columns} | more}, folder / "shop")


def _rows(path: Path) -> list[Row]:
    return pq.read_table(path).to_pylist()
