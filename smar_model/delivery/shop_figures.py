"""Figures of a delivered shop, and what of it will end in quarantine, by DuckDB: streamed, with spills to a folder, exact.

The rules are those of the Spark jobs (`sql/prepare_items.sql`, `sql/extract_clicks_days.sql`), in `check_items.sql` and
`check_click_log.sql` beside this file. No rule looks beyond a day, so a day of the log is all that is held at a time.
"""

from __future__ import annotations

import re
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from smar_model.delivery.attribute_lengths import attribute_lengths
from smar_model.delivery.delivered_tables import DeliveredFile
from smar_model.delivery.delivery_faults import OnFault, fault_of
from smar_model.delivery.delivery_figures import (
    DayFigures,
    Department,
    Detail,
    FilePositions,
    ItemFigures,
    JudgmentFigures,
    Oddity,
    Reason,
)
from smar_model.delivery.figures_database import insert
from smar_model.delivery.judgment_figures import JudgmentTable
from smar_model.delivery.odd_values import EVENT_ODDITIES, ITEM_ODDITIES, ODD_REQUESTS, odd_items, odd_values
from smar_model.delivery.picture_findings import ListedPictures
from smar_model.delivery.value_casts import valid_text
from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.lake.object_paths import AnyPath
from smar_model.settings import Clicks

MEMORY, THREADS = "768MB", 2
SKEW_SECONDS = 15 * 60
BOT_CLICKS, BOT_DWELL_SECONDS = 5, 1.0
"""As in jobs/extract_click_days.py, which this room may not import; a test holds them together."""
LONGEST_QUERY, MOST_BY_NFKC = 500, 6
"""Characters; and how many times its bytes a text may have characters once it is normalised (U+FDFA: 3 bytes, 18 characters)."""
SCRIPTS = (
    *("Latin", "Han", "Hiragana", "Katakana", "Hangul", "Cyrillic", "Arabic", "Hebrew", "Greek", "Devanagari"),
    *("Bengali", "Tamil", "Telugu", "Thai", "Khmer", "Myanmar", "Georgian", "Armenian", "Ethiopic"),
)
_EVENT_COLUMNS = ("event", "request_id", "session_id", "user_id", "query", "item_id", "position", "version", "team")
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class TextForms:
    """Of `smar_model.data.query_text`, a room above this one."""

    normalise: Callable[[str], str]
    """The one form of queries: `normalise_query`."""
    visible: Callable[[str], str]
    """A text without what nobody sees: `visible_text`."""


@dataclass(slots=True)
class ShopFigures:
    """One database in a folder of its own; tables come in one after the other: items first."""

    database: duckdb.DuckDBPyConnection
    forms: TextForms
    starts: list[int] = field(default_factory=list)
    """Numbers of the rows with which the files of the table that was read last begin."""
    begun: list[DeliveredFile] = field(default_factory=list)

    def read_items(self, files: list[DeliveredFile], on_fault: OnFault, *, today: date | None = None) -> ItemFigures:
        """Read the catalogue; rows at fault are told and left out."""
        self.database.execute(
            "CREATE TABLE delivered_items (number BIGINT, item_id VARCHAR, title VARCHAR, category VARCHAR, brand VARCHAR, "
            "attributes_length BIGINT, images VARCHAR[], price DECIMAL(18, 4), currency VARCHAR, updated_at BIGINT)"
        )
        figures = ItemFigures()
        for batch in self._numbered(files, on_fault):
            lengths = attribute_lengths(batch["attributes"])
            columns = {name: batch[name] for name in ("item_id", "title", "category", "brand")}
            columns |= {"attributes_length": lengths} | {n: batch[n] for n in ("images", "price", "currency")}
            self._insert(
                "delivered_items", figures.rows, columns | {"updated_at": batch["updated_at"].cast(pa.int64())}
            )
            figures.rows += batch.num_rows
        self._run("check_items")
        sums = self.database.execute(
            "SELECT count(*), count_if(len(images) > 0), coalesce(sum(len(images)), 0), count_if(regexp_full_match(title, '[0-9 ]+')) "
            "FROM usable_items"
        ).fetchone()
        assert sums
        figures.items, figures.with_pictures, figures.pictures, figures.digit_titles = (int(n or 0) for n in sums)
        figures.by_url = ListedPictures(self.database).by_url()
        figures.reasons = self._reasons(
            "SELECT reason, rows, example, first_number FROM item_reasons ORDER BY rows DESC, reason"
        )
        self.database.execute("SET VARIABLE today = $1", [_microseconds(today) if today else None])
        figures.oddities = self._oddities(odd_values(ITEM_ODDITIES, "judged_items", "broken_rule IS NULL"))
        figures.oddities |= self._oddities(odd_items(figures.items))
        rows = self.database.execute("SELECT * FROM departments ORDER BY items DESC, department").fetchall()
        figures.departments = [Department(*row) for row in rows]
        figures.scripts = self._scripts("SELECT title AS text FROM usable_items")
        return figures

    def updated_before(self, day: date) -> int:
        """Items whose row stands since before a day (UTC)."""
        return self._number(f"SELECT count(*) FROM usable_items WHERE updated_at < {_microseconds(day)}")

    def read_day(self, day: date, files: list[DeliveredFile], clicks: Clicks, on_fault: OnFault) -> DayFigures:
        """Read a day of the log, judge its events, and add to the sums over all days."""
        figures = self.judge_day(day, files, clicks, on_fault)
        where = f"FROM event_reasons WHERE day = DATE '{day}'"
        figures.reasons = self._reasons(
            f"SELECT reason, rows, example, first_number {where} AND reason IS NOT NULL ORDER BY rows DESC, reason",
            f"SELECT reason, detail, rows, first_number FROM event_details WHERE day = DATE '{day}' ORDER BY rows DESC, detail",
        )
        figures.requests = self._number("SELECT count(DISTINCT request_id) FROM checked_events")
        figures.oddities = self._oddities(odd_values(EVENT_ODDITIES, "checked_events", "true"))
        figures.oddities |= self._oddities(ODD_REQUESTS)
        kept = self.database.execute(f"SELECT impressions, clicks {where} AND reason IS NULL").fetchone()
        figures.impressions, figures.clicks = kept or (0, 0)
        figures.raw_impressions = self._number(f"SELECT coalesce(sum(impressions), 0) {where}")
        return figures

    def judge_day(self, day: date, files: list[DeliveredFile], clicks: Clicks, on_fault: OnFault) -> DayFigures:
        """Read a day of the log and judge its events: the tables `events` and `judged_events` of this day, by their `number`.

        Returns:
            How many rows it has, and their positions.
        """
        self.database.execute(
            "CREATE OR REPLACE TEMP TABLE events (number BIGINT, event_time BIGINT, event VARCHAR, request_id VARCHAR, "
            "session_id VARCHAR, user_id VARCHAR, query VARCHAR, item_id VARCHAR, position INTEGER, version VARCHAR, team VARCHAR)"
        )
        for table, kinds_of in (
            (
                "event_reasons",
                "day DATE, reason VARCHAR, rows BIGINT, example VARCHAR, first_number BIGINT, impressions BIGINT, clicks BIGINT",
            ),
            ("event_details", "day DATE, reason VARCHAR, detail VARCHAR, rows BIGINT, first_number BIGINT"),
            ("clicked_queries", "day DATE, query VARCHAR, clicks BIGINT"),
            ("department_clicks", "department VARCHAR, clicks BIGINT"),
        ):
            self.database.execute(f"CREATE TABLE IF NOT EXISTS {table} ({kinds_of})")
        figures = DayFigures(day)
        for batch in self._numbered(files, on_fault):
            columns = {name: batch[name] for name in _EVENT_COLUMNS}
            self._insert("events", figures.rows, {"event_time": batch["event_time"].cast(pa.int64())} | columns)
            figures.rows += batch.num_rows
            _note_positions(figures.positions, self.begun[-1].file, batch["position"])
        kinds = next(c.allowed for c in load_contract("click_log").columns if c.name == "event")
        variables: dict[str, object] = {
            "day": str(day),
            "day_start": _microseconds(day),
            "kinds": list(kinds or ()),
            "skew": SKEW_SECONDS * 1_000_000,
            "bot_requests_per_day": clicks.bot_requests_per_day,
            "bot_requests_per_minute": clicks.bot_requests_per_minute,
            "bot_clicks": BOT_CLICKS,
            "bot_dwell": int(BOT_DWELL_SECONDS * 1_000_000),
        }
        for name, value in variables.items():
            self.database.execute(f"SET VARIABLE {name} = $1", [value])
        self.database.execute("CREATE OR REPLACE TEMP TABLE day_files (first_number BIGINT, name VARCHAR)")
        for first, file in zip(self.starts, self.begun, strict=True):
            self.database.execute("INSERT INTO day_files VALUES ($1, $2)", [first, file.file.name])
        self._find_bad_queries()
        self._run("check_click_log")
        return figures

    def clicked_queries(self, days: list[date] | None = None) -> tuple[int, int]:
        """Distinct queries with a click that counts, and those with one click alone."""
        where = f"WHERE day IN ({', '.join(f'DATE {str(d)!r}' for d in days)})" if days else ""
        row = self.database.execute(
            f"SELECT count(*), count_if(clicks = 1) FROM (SELECT sum(clicks) AS clicks FROM clicked_queries {where} GROUP BY query)"
        ).fetchone()
        return (row[0], row[1] or 0) if row else (0, 0)

    def query_scripts(self) -> dict[str, int]:
        return self._scripts("SELECT DISTINCT query AS text FROM clicked_queries")

    def department_clicks(self) -> dict[str, int]:
        rows = self.database.execute("SELECT department, sum(clicks) FROM department_clicks GROUP BY department")
        return {name: int(clicks) for name, clicks in rows.fetchall()}

    def read_judgments(self, file: DeliveredFile, on_fault: OnFault) -> JudgmentFigures:
        """Read people's grades."""
        return JudgmentTable(self.database).read(file, (batch for _, batch in _read([file], on_fault)))

    def _find_bad_queries(self) -> None:
        """Queries that are empty or too long once they are normalised: few are worth a look."""
        suspects = self.database.execute(
            "SELECT DISTINCT query FROM events "
            f"WHERE NOT regexp_matches(regexp_replace(query, '{_UNSEEN}', '', 'g'), '[\\p{{L}}\\p{{M}}\\p{{N}}\\p{{P}}\\p{{S}}]') "
            f"OR strlen(query) > {LONGEST_QUERY // MOST_BY_NFKC}"
        )
        bad: dict[str, list[str]] = {"query": [], "rule": []}
        while rows := suspects.fetchmany(10_000):
            for (query,) in rows:
                length = len(self.forms.normalise(query))
                if length == 0 or length > LONGEST_QUERY:
                    bad["query"].append(query)
                    bad["rule"].append("long_query" if length else "empty_query")
        self.database.execute("CREATE OR REPLACE TEMP TABLE bad_queries (query VARCHAR, rule VARCHAR)")
        insert(self.database, "bad_queries", {name: pa.array(texts, pa.string()) for name, texts in bad.items()})

    def _insert(self, table: str, first: int, columns: dict[str, pa.Array]) -> None:
        rows = len(next(iter(columns.values())))
        numbers = pa.array(range(first, first + rows), pa.int64())
        insert(self.database, table, {"number": numbers} | columns)

    def _numbered(self, files: list[DeliveredFile], on_fault: OnFault) -> Iterator[pa.RecordBatch]:
        """Batches of a table's files, whose rows are numbered through; `file_of` tells a number's file."""
        self.starts, self.begun, number = [], [], 0
        for file, batch in _read(files, on_fault):
            if not self.begun or self.begun[-1] is not file:
                self.starts.append(number)
                self.begun.append(file)
            yield batch
            number += batch.num_rows

    def _file_of(self, number: int | None) -> AnyPath | None:
        if number is None or not self.begun:
            return None
        return self.begun[bisect_right(self.starts, number) - 1].file

    def _oddities(self, sql: str) -> dict[str, Oddity]:
        rows = self.database.execute(sql).fetchall()
        return {name: Oddity(int(n), example or "", self._file_of(number)) for name, n, example, number in rows if n}

    def _run(self, name: str) -> None:
        text = (_HERE / f"{name}.sql").read_text(encoding="utf-8")
        for statement in re.split(r";[ \t]*(?:\n|\Z)", text):
            if re.sub(r"--[^\n]*", "", statement).strip():
                self.database.execute(statement)

    def _number(self, sql: str) -> int:
        row = self.database.execute(sql).fetchone()
        return int(row[0]) if row else 0

    def _reasons(self, sql: str, details: str | None = None) -> list[Reason]:
        rows = self.database.execute(sql).fetchall()
        parts: dict[str, list[Detail]] = {}
        for name, detail, count, number in self.database.execute(details).fetchall() if details else []:
            parts.setdefault(name, []).append(Detail(detail, int(count), self._file_of(number)))
        return [
            Reason(name, int(count), example or "", self._file_of(number), tuple(parts.get(name, ())))
            for name, count, example, number in rows
        ]

    def _scripts(self, texts: str) -> dict[str, int]:
        counts = ", ".join(f"count_if(regexp_matches(text, '\\p{{{script}}}'))" for script in SCRIPTS)
        row = self.database.execute(f"SELECT {counts} FROM ({texts})").fetchone()
        found = {name: n for name, n in zip(SCRIPTS, row or (), strict=False) if n}
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))


_UNSEEN = r"[\x{034f}\x{115f}\x{1160}\x{17b4}\x{17b5}\x{3164}\x{fe00}-\x{fe0f}\x{ffa0}\x{e0100}-\x{e01ef}]"
"""Letters and marks by Unicode's categories that are nothing to see."""


@contextmanager
def open_figures(forms: TextForms) -> Iterator[ShopFigures]:
    """An empty database of its own, which is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="smar-shop-check-") as folder:
        database = duckdb.connect(f"{folder}/figures.duckdb")
        try:
            database.execute(f"SET memory_limit = '{MEMORY}'; SET threads = {THREADS}; SET temp_directory = '{folder}'")
            database.execute("SET preserve_insertion_order = false")
            database.create_function("normalised", lambda text: forms.normalise(text), ["VARCHAR"], "VARCHAR")
            database.create_function("visible_text", lambda text: forms.visible(text), ["VARCHAR"], "VARCHAR")
            database.execute(
                r"CREATE MACRO visible(text) AS CASE WHEN regexp_matches(text, '[^\x20-\x7e]') THEN visible_text(text) ELSE text END"
            )
            yield ShopFigures(database, forms)
        finally:
            database.close()


def _read(files: list[DeliveredFile], on_fault: OnFault) -> Iterator[tuple[DeliveredFile, pa.RecordBatch]]:
    for file in files:
        try:
            for batch in file.batches(on_fault):
                if batch.num_rows:
                    arrays = [_mended(array) for array in batch.columns]
                    yield file, batch.from_arrays(arrays, schema=batch.schema)
        except InputError as error:
            on_fault(fault_of(error))


def _mended(array: pa.Array) -> pa.Array:
    if pa.types.is_string(array.type):
        return valid_text(array)
    if pa.types.is_list(array.type):
        values = valid_text(array.flatten())
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy()
        offsets = pa.array([0, *lengths.cumsum()], pa.int32())
        return pa.ListArray.from_arrays(offsets, values)
    return array


def _note_positions(files: list[FilePositions], file: AnyPath, positions: pa.Array) -> None:
    if not files or files[-1].file != file:
        files.append(FilePositions(file))
    noted, lowest = files[-1], pc.min(positions).as_py()
    if lowest is not None:
        noted.lowest = lowest if noted.lowest is None else min(lowest, noted.lowest)
        noted.at_0 += pc.sum(pc.equal(positions, 0)).as_py() or 0
        noted.at_1 += pc.sum(pc.equal(positions, 1)).as_py() or 0


def _microseconds(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000
