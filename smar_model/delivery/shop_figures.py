"""Figures of a delivered shop, and what of it will end in quarantine, by DuckDB: streamed, with spills to a folder, exact.

The rules are those of the Spark jobs (`sql/prepare_items.sql`, `sql/extract_clicks_days.sql`), in `check_items.sql` and
`check_click_log.sql` beside this file. No rule looks beyond a day, so a day of the log is all that is held at a time.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from smar_model.delivery.delivered_tables import DeliveredFile
from smar_model.delivery.delivery_faults import OnFault, fault_of
from smar_model.delivery.value_casts import valid_text
from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.settings import Clicks

MEMORY, THREADS = "768MB", 2
SKEW_SECONDS = 15 * 60
BOT_CLICKS, BOT_DWELL_SECONDS = 5, 1.0
"""As in jobs/extract_click_days.py, which this room may not import; a test holds them together."""
LONGEST_QUERY, MOST_BY_NFKC = 500, 6
"""Characters; and how many times its bytes a text may have characters once it is normalised (U+FDFA: 3 bytes, 18 characters)."""
LONG_ATTRIBUTES = 30_000
"""Characters from which they are counted exactly; the rule has 100,000."""
SCRIPTS = (
    *("Latin", "Han", "Hiragana", "Katakana", "Hangul", "Cyrillic", "Arabic", "Hebrew", "Greek", "Devanagari"),
    *("Bengali", "Tamil", "Telugu", "Thai", "Khmer", "Myanmar", "Georgian", "Armenian", "Ethiopic"),
)
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class TextForms:
    """Of `smar_model.data.query_text`, a room above this one."""

    normalise: Callable[[str], str]
    """The one form of queries: `normalise_query`."""
    visible: Callable[[str], str]
    """A text without what nobody sees: `visible_text`."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Rows that will end in quarantine."""

    name: str
    rows: int
    example: str


@dataclass(frozen=True, slots=True)
class Department:
    name: str
    items: int
    with_pictures: int
    clicks: int = 0


@dataclass(slots=True)
class ItemFigures:
    rows: int = 0
    items: int = 0
    with_pictures: int = 0
    pictures: int = 0
    by_url: int = 0
    digit_titles: int = 0
    reasons: list[Reason] = field(default_factory=list)
    departments: list[Department] = field(default_factory=list)
    scripts: dict[str, int] = field(default_factory=dict)
    """Script → items with a letter of it in the title."""


@dataclass(slots=True)
class DayFigures:
    day: date
    rows: int = 0
    reasons: list[Reason] = field(default_factory=list)
    impressions: int = 0
    clicks: int = 0
    """Kept ones, both."""
    raw_impressions: int = 0

    @property
    def kept(self) -> int:
        return self.rows - sum(reason.rows for reason in self.reasons)


@dataclass(slots=True)
class JudgmentFigures:
    rows: int = 0
    queries: int = 0
    bad_grades: int = 0
    bad_example: str = ""
    empty: int = 0
    unknown_items: int = 0
    unknown_example: str = ""
    repeated: int = 0


@dataclass(slots=True)
class ShopFigures:
    """One database in a folder of its own; tables come in one after the other: items first."""

    database: duckdb.DuckDBPyConnection
    forms: TextForms

    def read_items(self, files: list[DeliveredFile], on_fault: OnFault) -> ItemFigures:
        """Read the catalogue; rows at fault are told and left out."""
        self.database.execute(
            "CREATE TABLE delivered_items (number BIGINT, item_id VARCHAR, title VARCHAR, category VARCHAR, brand VARCHAR, "
            "attributes_length BIGINT, images VARCHAR[], updated_at BIGINT)"
        )
        figures = ItemFigures()
        for batch in _read(files, on_fault):
            lengths = _attribute_lengths(batch["attributes"])
            columns = {name: batch[name] for name in ("item_id", "title", "category", "brand")}
            columns |= {"attributes_length": lengths, "images": batch["images"]}
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
        figures.by_url = self._number(
            "SELECT count(*) FROM (SELECT unnest(images) AS file FROM usable_items) WHERE regexp_matches(file, '^(?i)https?://')"
        )
        figures.reasons = self._reasons("SELECT reason, rows, example FROM item_reasons ORDER BY rows DESC, reason")
        rows = self.database.execute("SELECT * FROM departments ORDER BY items DESC, department").fetchall()
        figures.departments = [Department(*row) for row in rows]
        figures.scripts = self._scripts("SELECT title AS text FROM usable_items")
        return figures

    def updated_before(self, day: date) -> int:
        """Items whose row stands since before a day (UTC)."""
        return self._number(f"SELECT count(*) FROM usable_items WHERE updated_at < {_microseconds(day)}")

    def read_day(self, day: date, files: list[DeliveredFile], clicks: Clicks, on_fault: OnFault) -> DayFigures:
        """Read a day of the log, judge its events, and add to the sums over all days."""
        self.database.execute(
            "CREATE OR REPLACE TEMP TABLE events (number BIGINT, event_time BIGINT, event VARCHAR, request_id VARCHAR, "
            "session_id VARCHAR, user_id VARCHAR, query VARCHAR, item_id VARCHAR, position INTEGER)"
        )
        for table, kinds_of in (
            (
                "event_reasons",
                "day DATE, reason VARCHAR, rows BIGINT, example VARCHAR, impressions BIGINT, clicks BIGINT",
            ),
            ("clicked_queries", "day DATE, query VARCHAR, clicks BIGINT"),
            ("department_clicks", "department VARCHAR, clicks BIGINT"),
        ):
            self.database.execute(f"CREATE TABLE IF NOT EXISTS {table} ({kinds_of})")
        figures = DayFigures(day)
        for batch in _read(files, on_fault):
            columns = {
                n: batch[n] for n in ("event", "request_id", "session_id", "user_id", "query", "item_id", "position")
            }
            self._insert("events", figures.rows, {"event_time": batch["event_time"].cast(pa.int64())} | columns)
            figures.rows += batch.num_rows
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
        self._find_bad_queries()
        self._run("check_click_log")
        where = f"FROM event_reasons WHERE day = DATE '{day}'"
        figures.reasons = self._reasons(
            f"SELECT reason, rows, example {where} AND reason IS NOT NULL ORDER BY rows DESC, reason"
        )
        kept = self.database.execute(f"SELECT impressions, clicks {where} AND reason IS NULL").fetchone()
        figures.impressions, figures.clicks = kept or (0, 0)
        figures.raw_impressions = self._number(f"SELECT coalesce(sum(impressions), 0) {where}")
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
        self.database.execute("CREATE TABLE judgments (number BIGINT, query VARCHAR, item_id VARCHAR, grade INTEGER)")
        figures = JudgmentFigures()
        for batch in _read([file], on_fault):
            self._insert("judgments", figures.rows, {name: batch[name] for name in ("query", "item_id", "grade")})
            figures.rows += batch.num_rows
        row = self.database.execute(
            """SELECT count(DISTINCT query), count_if(grade NOT BETWEEN 0 AND 3),
              coalesce(min(CASE WHEN grade NOT BETWEEN 0 AND 3 THEN 'row ' || number || ' has ' || grade END), ''),
              count_if(query IS NULL OR trim(query) = '' OR item_id IS NULL OR trim(item_id) = '' OR grade IS NULL),
              count_if(item_id NOT IN (SELECT item_id FROM usable_items)),
              coalesce(min(CASE WHEN item_id NOT IN (SELECT item_id FROM usable_items) THEN item_id END), ''),
              count(*) - count(DISTINCT (query, item_id)) FROM judgments"""
        ).fetchone()
        assert row
        if figures.rows:
            (figures.queries, figures.bad_grades, figures.bad_example, figures.empty) = row[:4]
            (figures.unknown_items, figures.unknown_example, figures.repeated) = row[4:]
        return figures

    def pictures_not_in(self, names: Iterator[list[str]]) -> tuple[int, str]:
        """How many of the listed pictures that are no URLs are not among these names, and one of them."""
        self.database.execute("CREATE OR REPLACE TEMP TABLE picture_files (file VARCHAR)")
        for some in names:
            self.database.register("incoming", pa.table({"file": pa.array(some, pa.string())}))
            self.database.execute("INSERT INTO picture_files SELECT file FROM incoming")
            self.database.unregister("incoming")
        row = self.database.execute(
            f"SELECT count(*), coalesce(min(file), '') FROM ({_LISTED}) WHERE file NOT IN (SELECT file FROM picture_files)"
        ).fetchone()
        return row or (0, "")

    def outside_names(self) -> tuple[int, str]:
        """Listed pictures whose name is no path inside the pictures' folder, and one of them."""
        row = self.database.execute(
            f"SELECT count(*), coalesce(min(file), '') FROM ({_LISTED}) WHERE regexp_matches(file, '^/|^\\s*$|(^|/)\\.\\.(/|$)')"
        ).fetchone()
        return row or (0, "")

    def sample_pictures(self, number: int, *, by_url: bool) -> list[str]:
        listed = "SELECT file FROM (SELECT unnest(images) AS file FROM usable_items)"
        sign = "" if by_url else "NOT"
        rows = self.database.execute(
            f"SELECT DISTINCT file FROM ({listed}) WHERE file IS NOT NULL AND {sign} regexp_matches(file, '^(?i)https?://') "
            f"ORDER BY hash(file), file LIMIT {number}"
        )
        return [file for (file,) in rows.fetchall()]

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
        table = pa.table(bad, schema=pa.schema([("query", pa.string()), ("rule", pa.string())]))
        self.database.register("incoming", table)
        self.database.execute("CREATE OR REPLACE TEMP TABLE bad_queries AS SELECT * FROM incoming")
        self.database.unregister("incoming")

    def _insert(self, table: str, first: int, columns: dict[str, pa.Array]) -> None:
        rows = len(next(iter(columns.values())))
        numbers = pa.array(range(first, first + rows), pa.int64())
        self.database.register("incoming", pa.table({"number": numbers} | columns))
        self.database.execute(f"INSERT INTO {table} SELECT * FROM incoming")
        self.database.unregister("incoming")

    def _run(self, name: str) -> None:
        text = (_HERE / f"{name}.sql").read_text(encoding="utf-8")
        for statement in re.split(r";[ \t]*(?:\n|\Z)", text):
            if re.sub(r"--[^\n]*", "", statement).strip():
                self.database.execute(statement)

    def _number(self, sql: str) -> int:
        row = self.database.execute(sql).fetchone()
        return int(row[0]) if row else 0

    def _reasons(self, sql: str) -> list[Reason]:
        return [Reason(name, int(rows), example or "") for name, rows, example in self.database.execute(sql).fetchall()]

    def _scripts(self, texts: str) -> dict[str, int]:
        counts = ", ".join(f"count_if(regexp_matches(text, '\\p{{{script}}}'))" for script in SCRIPTS)
        row = self.database.execute(f"SELECT {counts} FROM ({texts})").fetchone()
        found = {name: n for name, n in zip(SCRIPTS, row or (), strict=False) if n}
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))


_UNSEEN = r"[\x{034f}\x{115f}\x{1160}\x{17b4}\x{17b5}\x{3164}\x{fe00}-\x{fe0f}\x{ffa0}\x{e0100}-\x{e01ef}]"
"""Letters and marks by Unicode's categories that are nothing to see."""
_LISTED = (
    "SELECT file FROM (SELECT unnest(images) AS file FROM usable_items) "
    "WHERE file IS NOT NULL AND NOT regexp_matches(file, '^(?i)https?://')"
)


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


def _read(files: list[DeliveredFile], on_fault: OnFault) -> Iterator[pa.RecordBatch]:
    for file in files:
        try:
            for batch in file.batches(on_fault):
                if batch.num_rows:
                    yield batch.from_arrays([_mended(array) for array in batch.columns], schema=batch.schema)
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


def _attribute_lengths(attributes: pa.MapArray) -> pa.Array:
    """Characters of names and values of each row's attributes, without empty ones."""
    values, names = attributes.items, attributes.keys
    begin, end = attributes.offsets[0].as_py(), attributes.offsets[-1].as_py()
    values, names = valid_text(values.slice(begin, end - begin)), valid_text(names.slice(begin, end - begin))
    lengths = pc.add(pc.utf8_length(names), pc.utf8_length(values))
    lengths = pc.if_else(pc.not_equal(pc.utf8_trim(values, " "), ""), lengths, 0)
    sums = pc.cumulative_sum(pc.fill_null(lengths, 0).cast(pa.int64())).to_numpy()
    sums = [0, *sums]
    places = (attributes.offsets.to_numpy() - begin).tolist()
    of_rows = [sums[b] - sums[a] for a, b in pairwise(places)]
    for row, length in enumerate(of_rows):
        if length > LONG_ATTRIBUTES:  # exactly as the jobs count them, who join the values of a repeated name
            first = places[row]
            pairs = zip(
                names.slice(first, places[row + 1] - first), values.slice(first, places[row + 1] - first), strict=True
            )
            of_rows[row] = _joined_length((name.as_py(), value.as_py()) for name, value in pairs)
    return pa.array(of_rows, pa.int64())


def _joined_length(pairs: Iterator[tuple[str, str | None]]) -> int:
    joined: dict[str, dict[str, None]] = {}
    for name, value in pairs:
        texts = joined.setdefault(name, {})
        if value is not None and value.strip(" "):
            texts[value] = None
    return sum(len(name) + len(", ".join(texts)) for name, texts in joined.items() if texts)


def _microseconds(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000
