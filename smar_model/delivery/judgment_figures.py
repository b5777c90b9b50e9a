"""Figures of people's grades, row by row of their file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from smar_model.delivery.delivered_tables import DeliveredFile
from smar_model.delivery.delivery_figures import JudgmentFigures
from smar_model.delivery.figures_database import insert

_UNKNOWN = "trim(coalesce(item_id, '')) <> '' AND item_id NOT IN (SELECT item_id FROM usable_items)"
_REPEATED = """
SELECT count(*), count(*) FILTER (grade <> first_grade), arg_min((query, item_id, first_grade, grade, first_place, place), (grade = first_grade, place))
FROM (
  SELECT *, first_value(grade) OVER same AS first_grade, first_value(place) OVER same AS first_place
  FROM judgments WHERE query IS NOT NULL AND item_id IS NOT NULL AND grade BETWEEN 0 AND 3
  WINDOW same AS (PARTITION BY query, item_id ORDER BY place)
)
WHERE place > first_place
"""


@dataclass(frozen=True, slots=True)
class JudgmentTable:
    """Grades beside the usable items."""

    database: duckdb.DuckDBPyConnection

    def read(self, file: DeliveredFile, batches: Iterable[pa.RecordBatch]) -> JudgmentFigures:
        """Figures of a file's batches."""
        self.database.execute("CREATE TABLE judgments (place BIGINT, query VARCHAR, item_id VARCHAR, grade INTEGER)")
        figures = JudgmentFigures()
        for batch in batches:
            columns = {name: batch[name] for name in ("query", "item_id", "grade")}
            insert(self.database, "judgments", {"place": pa.array(file.places, pa.int64())} | columns)
            figures.rows += batch.num_rows
        if not figures.rows:
            return figures
        figures.queries = self._one("SELECT count(DISTINCT query) FROM judgments")[0]
        figures.bad_grades, place, grade = self._one(
            "SELECT count(*), min(place), arg_min(grade, place) FROM judgments WHERE grade NOT BETWEEN 0 AND 3"
        )
        figures.bad_example = f"{file.place(place)} has {grade}" if figures.bad_grades else ""
        for column in ("query", "item_id", "grade"):
            empty = f"{column} IS NULL OR trim(CAST({column} AS VARCHAR)) = ''"
            count, place = self._one(f"SELECT count(*), min(place) FROM judgments WHERE {empty}")
            if count:
                figures.empty[column] = (count, place)
        figures.unknown_items, figures.unknown_example = self._one(
            f"SELECT count(*), coalesce(min(item_id), '') FROM judgments WHERE {_UNKNOWN}"
        )
        figures.repeated, figures.contradicted, example = self._one(_REPEATED)
        if example:
            query, item, first_grade, grade, first, again = example if isinstance(example, tuple) else example.values()
            figures.repeated_example = f"{query[:40]!r} with {item[:40]!r}: {file.place(first)} has {first_grade}, {file.place(again)} has {grade}"
        return figures

    def _one(self, sql: str) -> tuple[Any, ...]:
        row = self.database.execute(sql).fetchone()
        assert row
        return row
