"""Importer of any tables, by a YAML file that says which column is which; `docs/importers.md` shows one.

Formats: CSV, TSV, JSON lines (each also packed with gzip) and Parquet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unicodedata import normalize

from smar_model.errors import InputError
from smar_model.shop.importers.cells import Cells, ignore
from smar_model.shop.importers.delimited_text import Row
from smar_model.shop.importers.event_fields import EARLIEST
from smar_model.shop.importers.grades import SCALES, combined_grade, grade_of_label, grade_of_score
from smar_model.shop.importers.mapped_files import MappedFile
from smar_model.shop.importers.mapped_items import add_items
from smar_model.shop.importers.odd_rows import MOST_SHARE
from smar_model.shop.importers.row_groups import RowGroups
from smar_model.shop.importers.table_mapping import Events, Grade, Judgments, Mapping, Time, load_mapping
from smar_model.shop.shop_writer import ShopWriter

__all__ = ["Mapping", "import_tables", "load_mapping"]


def import_tables(folder: Path, mapping: Mapping, writer: ShopWriter) -> None:
    """Add the rows of the tables that the mapping names.

    Raises:
        InputError: a file is missing or damaged, lacks a column, or has a row that cannot be read.
    """
    if mapping.items:
        add_items(folder, mapping.items, writer)
    if mapping.click_log:
        _add_events(folder, mapping.click_log, writer)
    if mapping.judgments:
        _add_judgments(folder, mapping.judgments, writer)


def _add_events(folder: Path, table: Events, writer: ShopWriter) -> None:
    columns, cells = table.columns, Cells(writer.change, table.null_markers)
    times = _LogTimes(columns.event_time)
    for where, row in MappedFile(folder, table, columns.rules, writer).rows(columns.rules):
        time = cells.time(where, columns.event_time, row)
        if time is None:
            writer.leave_out("events without a time", where)
            continue
        if not times.can_be(where, time):
            continue
        item_ids = cells.shown_items(where, columns.item_id, row)
        if not item_ids:
            writer.leave_out("events whose list of items is empty", where)
            continue
        event = cells.choice(where, columns.event, row)
        request_id = cells.text(where, columns.request_id, row)
        session_id = cells.text(where, columns.session_id, row)
        user_id = cells.text(where, columns.user_id, row)
        query = cells.query(where, columns.query, row)
        places = cells.places(where, columns.position, row, len(item_ids))
        for item_id, place in zip(item_ids, places, strict=True):
            writer.add_event(
                time,
                event=event,
                request_id=request_id,
                session_id=session_id,
                user_id=user_id,
                query=query,
                item_id=item_id and f"{writer.source}-{item_id}",
                position=place,
            )
    times.close(writer)


class _LogTimes:
    """Tells a wrong `unit` by days that no log of a web shop has; a few are shoppers' clocks that are wrong."""

    def __init__(self, rule: Time) -> None:
        self._unit = rule.unit
        self._latest = datetime.now(UTC) + timedelta(days=1)
        self._events = self._strange = 0
        self._example = ""

    def can_be(self, where: str, time: datetime) -> bool:
        """Whether a time is after 1999 and not after tomorrow; true where the rule has no unit."""
        self._events += 1
        if not self._unit or EARLIEST <= time <= self._latest:
            return True
        self._strange += 1
        self._example = self._example or f"{where}: {time:%Y-%m-%d %H:%M}"
        return False

    def close(self, writer: ShopWriter) -> None:
        """Raises InputError where more than a few times were out of these bounds."""
        if self._strange > MOST_SHARE * self._events:
            raise InputError(
                f"{self._example}, as are {self._strange:,} of {self._events:,} events before 2000 or after tomorrow: "
                f"is `unit: {self._unit}` right? It may be s, ms or us since 1970"
            )
        if self._strange:
            writer.leave_out("events before 2000 or after tomorrow", self._example, count=self._strange)


def _add_judgments(folder: Path, table: Judgments, writer: ShopWriter) -> None:
    """Two readings: the first one counts the grades of each pair, so that a pair waits for its last one alone."""
    rules = table.columns.rules
    file = MappedFile(folder, table, rules, writer)
    unheard = Cells(ignore, table.null_markers)
    pairs = RowGroups(
        _pair(query, item_id) for _, query, item_id, _ in _judged(file, unheard, table.columns.grade, table, None)
    )
    waiting: dict[str, tuple[str, list[int]]] = {}
    cells = Cells(writer.change, table.null_markers)
    for where, query, item_id, row in _judged(file, cells, table.columns.grade, table, writer.leave_out):
        pair, grade = _pair(query, item_id), _grade(where, cells, table.columns.grade, row)
        is_last = pairs.is_last(pair)
        if is_last and pair not in waiting:
            writer.add_judgment(query=query, item_id=f"{writer.source}-{item_id}", grade=grade)
            continue
        if pair in waiting:
            reason = "further grades of an item for the same query, read as one"
            writer.change(f"{reason}: {_COMBINED[table.combine]}", f"{where}: {query[:60]!r}, {item_id}, {grade}")
        first, grades = waiting.setdefault(pair, (query, []))
        grades.append(grade)
        if is_last:
            del waiting[pair]
            grade = combined_grade(grades, table.combine)
            writer.add_judgment(query=first, item_id=f"{writer.source}-{item_id}", grade=grade)


_COMBINED = {"median": "their median", "mean": "their mean", "highest": "the highest", "lowest": "the lowest"}


def _judged(
    file: MappedFile, cells: Cells, grade: Grade, table: Judgments, leave_out: Callable[[str, str], None] | None
) -> Iterator[tuple[str, str, str, Row]]:
    """Place, query, item and row of each judgement that is one; `leave_out`: None in a first reading."""
    columns = table.columns
    counted = leave_out is not None
    leave_out = leave_out or ignore
    for where, row in file.rows(columns.rules, counted=counted):
        if cells.text(where, grade, row) is None:
            leave_out("judgments without a grade", where)
            continue
        query, item_id = cells.query(where, columns.query, row), cells.item_id(where, columns.item_id, row)
        if not query or not item_id:
            leave_out(f"judgments without {'a query' if item_id else 'an item_id'}", where)
            continue
        yield where, query, item_id, row


def _grade(where: str, cells: Cells, rule: Grade, row: Row) -> int:
    text = str(cells.text(where, rule, row))
    if rule.bounds:
        return grade_of_score(where, text, rule.bounds)
    scale = rule.scale or {str(grade): grade for grade in range(4)}
    return grade_of_label(where, text, SCALES[scale] if isinstance(scale, str) else scale)


def _pair(query: str, item_id: str) -> str:
    """Raters of one query may have typed it with other capitals, widths and spaces."""
    return f"{' '.join(normalize('NFKC', query).casefold().split())}\0{item_id}"
