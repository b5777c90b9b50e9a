"""The database in which a check's figures are worked out."""

from __future__ import annotations

from collections.abc import Mapping

import duckdb
import pyarrow as pa


def insert(database: duckdb.DuckDBPyConnection, table: str, columns: Mapping[str, pa.Array]) -> None:
    """Add rows to a table, whose columns these are in their order."""
    database.register("incoming", pa.table(dict(columns)))
    database.execute(f"INSERT INTO {table} SELECT * FROM incoming")
    database.unregister("incoming")
