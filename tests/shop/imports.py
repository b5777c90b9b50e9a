"""How tests run an import as users do, and read what has become of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from typer.testing import CliRunner

from smar_model.cli import app


def smar_import(*arguments: str | Path) -> str:
    """Output of `smar shop import …`; an InputError comes through as itself."""
    result = CliRunner().invoke(app, ["shop", "import", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def items_of(shop: Path) -> dict[str, dict[str, Any]]:
    rows = pq.read_table(shop / "items.parquet").to_pylist()
    return {row["item_id"]: row | {"attributes": dict(row["attributes"])} for row in rows}


def events_of(shop: Path) -> list[dict[str, Any]]:
    """The whole log, by time."""
    rows = [row for file in shop.glob("click_log/*/*.parquet") for row in pq.read_table(file).to_pylist()]
    return sorted(rows, key=lambda row: (row["event_time"], row["event"] != "impression", row["position"] or 0))


def steps_of(shop: Path) -> list[tuple[str, str, int, str]]:
    """What happened, where, for which query: the log by time."""
    return [(event["event"], event["item_id"], event["position"], event["query"]) for event in events_of(shop)]


def aliases_of(shop: Path) -> dict[str, str]:
    rows = pq.read_table(shop / "item_aliases.parquet").to_pylist()
    return {row["alias"]: row["item_id"] for row in rows}


def write_lines(path: Path, *documents: Any) -> Path:
    """A file of JSON lines; a text is written as it stands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [document if isinstance(document, str) else json.dumps(document) for document in documents]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
