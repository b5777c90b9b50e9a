"""The same work by others, for benchmarks/data_jobs.py: clicks and queries in DuckDB, queries in plain Python.

    python benchmarks/data_peers.py duckdb-clicks|duckdb-queries|python-queries '{"out": "FOLDER", …}'

Needs pyarrow, and DuckDB for the first two; prints counts as JSON.
"""

from __future__ import annotations

import glob
import json
import re
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).resolve().parent


def duckdb_clicks(options: dict[str, Any]) -> dict[str, Any]:
    connection = _connect(options)
    _run_file(connection, "extract_clicks", options)
    for table in ("clicks_by_position", "event_counts", "clicks"):
        connection.execute(f"COPY {table} TO '{options['out']}/{table}.parquet' (FORMAT parquet, COMPRESSION snappy)")
    names = ("rows_out", "impressions", "clicks", "carts", "orders")
    sums = connection.execute(
        "SELECT count(*), sum(impressions), sum(clicks), sum(carts), sum(orders) FROM clicks"
    ).fetchone()
    return dict(zip(names, map(int, sums), strict=True))


def duckdb_queries(options: dict[str, Any]) -> dict[str, Any]:
    connection = _connect(options)
    _run_file(connection, "generate_queries", options)
    copied = connection.execute(
        f"COPY synthetic_queries TO '{options['out']}/synthetic_queries.parquet' (FORMAT parquet, COMPRESSION snappy)"
    ).fetchone()
    return {"rows": copied[0]}


def _connect(options: dict[str, Any]) -> Any:
    try:
        import duckdb
    except ImportError:
        sys.exit(
            "duckdb is not installed for this Python: `uv pip install duckdb pyarrow` into one, and name it with --duckdb-python"
        )
    # As DuckDB's performance guide says for large inputs: insertion order given up, a place to spill to.
    return duckdb.connect(
        config={
            "threads": options["threads"],
            "memory_limit": options["memory"],
            "temp_directory": options["out"],
            "preserve_insertion_order": False,
        }
    )


def _run_file(connection: Any, name: str, options: dict[str, Any]) -> None:
    for statement in (HERE / "duckdb" / f"{name}.sql").read_text(encoding="utf-8").split(";\n"):
        # A view's definition takes no parameters in DuckDB: values are written into the text.
        text = re.sub(r"\$(\w+)", lambda found: _literal(options[found.group(1)]), re.sub(r"--[^\n]*", "", statement))
        if text.strip():
            connection.execute(text)


def _literal(value: Any) -> str:
    return str(value) if isinstance(value, int | float) else "'" + str(value).replace("'", "''") + "'"


def python_queries(options: dict[str, Any]) -> dict[str, Any]:
    """Substrings and combinations, one item after the other, as one would write them without an engine."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("item_id", pa.string()), ("query", pa.string()), ("method", pa.string())])
    most, rows = options["maximum_words"], 0
    columns: tuple[list[str], list[str], list[str]] = ([], [], [])
    with pq.ParquetWriter(f"{options['out']}/synthetic_queries.parquet", schema) as writer:
        for file in sorted(glob.glob(options["catalogue"])):
            for item in pq.read_table(
                file, columns=["item_id", "title", "brand", "category", "attributes"]
            ).to_pylist():
                chance = Random(item["item_id"])
                title = item["title"].lower().split()
                more = [
                    item["brand"] or "",
                    item["category"].split(">")[-1],
                    *(value for _, value in item["attributes"]),
                ]
                words = sorted({*title, *" ".join(more).lower().split()})
                spans = [
                    " ".join(title[start : start + length])
                    for start in range(len(title))
                    for length in range(1, min(most, len(title) - start) + 1)
                ]
                substrings = set(chance.sample(spans, min(options["substring"], len(spans))))
                drawn = (
                    dict.fromkeys(chance.choice(words) for _ in range(chance.randint(2, most)))
                    for _ in range(options["combination"])
                )
                combinations = {" ".join(draw) for draw in drawn} - substrings
                for method, queries in (("substring", substrings), ("combination", combinations)):
                    columns[0].extend([item["item_id"]] * len(queries))
                    columns[1].extend(sorted(queries))
                    columns[2].extend([method] * len(queries))
                if len(columns[0]) > 500_000:
                    rows += _flush(writer, columns, schema)
        rows += _flush(writer, columns, schema)
    return {"rows": rows}


def _flush(writer: Any, columns: tuple[list[str], ...], schema: Any) -> int:
    import pyarrow as pa

    rows = len(columns[0])
    writer.write_table(pa.table(list(columns), schema=schema))
    for column in columns:
        column.clear()
    return rows


if __name__ == "__main__":
    began = time.monotonic()
    work = {"duckdb-clicks": duckdb_clicks, "duckdb-queries": duckdb_queries, "python-queries": python_queries}
    given = json.loads(sys.argv[2])
    Path(given["out"]).mkdir(parents=True, exist_ok=True)
    print(json.dumps(work[sys.argv[1]](given) | {"seconds": round(time.monotonic() - began, 2)}))
