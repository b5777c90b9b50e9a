"""Interleaved requests of a click log: which team won them, by the rules that extract-clicks keeps (bots, repeated events, actions before
their impression). Streamed by DuckDB, a day at a time, as `smar shop check` does; days without a team are not read whole.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smar_model.delivery.delivered_tables import ROWS_AT_ONCE, DeliveredFile
from smar_model.delivery.delivery_faults import refuse
from smar_model.delivery.json_lines import is_json_lines, iterate_lines
from smar_model.delivery.shop_figures import TextForms, open_figures
from smar_model.delivery.shop_inputs import table_files
from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.lake.object_paths import AnyPath, parquet_source
from smar_model.settings import Clicks

_SQL = Path(__file__).with_suffix(".sql")
_HAS_TEAM = re.compile(rb'"team"\s*:\s*"')
_DAY_FOLDER = re.compile(r"dt=(\d{4}-\d\d-\d\d)")
Versions = tuple[int, int]
"""Champion's and challenger's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """What of interleaved requests does not count."""

    what: str
    """`request`, `shopper` (of a bot's requests) or `click`."""
    why: str
    """The rule, as in quarantined events, or in words."""
    count: int
    """Summed over days: a shopper left out on two days is two."""
    example: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopperRows:
    """A row a shopper and day; arrays are (R,)."""

    days: list[date]
    shoppers: np.ndarray
    """Number of the shopper, the same on all days."""
    requests: np.ndarray
    won: np.ndarray
    """Requests in which more of the challenger's items were clicked than of the champion's."""
    lost: np.ndarray


@dataclass(slots=True, kw_only=True)
class InterleavedLog:
    pairs: dict[Versions, ShopperRows] = field(default_factory=dict)
    """In the order of their first day, then by versions."""
    left_out: list[LeftOut] = field(default_factory=list)
    days: int = 0
    """Of the log, looked at."""
    interleaved_days: list[date] = field(default_factory=list)
    """Those with a team."""


def days_of_log(log: AnyPath, first: date | None, last: date | None) -> list[date]:
    """Days that a click log has, from `first` to `last` where these are given.

    Raises:
        InputError: there is no such folder.
    """
    if not log.is_dir():
        raise InputError(
            f"{log}: no such folder; name the one with a folder dt=YYYY-MM-DD for each day, as `smar serve --log` writes it"
        )
    found = []
    for folder in log.iterdir():
        if match := _DAY_FOLDER.fullmatch(folder.name):
            try:
                found.append(date.fromisoformat(match[1]))
            except ValueError:
                raise InputError(f"{folder}: its name is no day; rename it to dt=YYYY-MM-DD") from None
    return sorted(day for day in found if (first or day) <= day <= (last or day))


def read_interleaved_requests(
    log: AnyPath, days: Collection[date], *, clicks: Clicks, forms: TextForms, zone: ZoneInfo | None
) -> InterleavedLog:
    """Read what interleaved requests of these days came to.

    Args:
        log: folder with a folder `dt=YYYY-MM-DD` a day, Parquet or JSON lines.
        zone: of times that say none.

    Raises:
        InputError: a file is damaged, or a value is none of its column's type; names file and row.
    """
    found, contract = InterleavedLog(days=len(days)), load_contract("click_log")
    with open_figures(forms) as figures:
        database = figures.database
        database.execute(
            "CREATE TABLE shopper_days (day DATE, champion INTEGER, challenger INTEGER, shopper VARCHAR, requests BIGINT, won BIGINT, "
            "lost BIGINT, example VARCHAR); "
            "CREATE TABLE left_out (day DATE, what VARCHAR, why VARCHAR, rows BIGINT, example VARCHAR)"
        )
        # Empty: whether today's catalogue still has an item says nothing of the click that it got then.
        database.execute("CREATE TABLE usable_items (item_id VARCHAR, department VARCHAR)")
        for day in sorted(days):
            files = [DeliveredFile(file, contract, zone) for file in table_files(log / f"dt={day}")]
            if not any(_has_team(file) for file in files):
                continue
            found.interleaved_days.append(day)
            figures.judge_day(day, files, clicks, refuse)
            for statement in _statements():
                database.execute(statement)
        found.pairs = dict(_pairs(database))
        rows = database.execute(
            "SELECT what, why, sum(rows), arg_min(example, day) FROM left_out GROUP BY what, why ORDER BY what, sum(rows) DESC, why"
        ).fetchall()
        found.left_out = [LeftOut(what=w, why=why, count=int(n), example=example or "?") for w, why, n, example in rows]
    return found


def _pairs(database: duckdb.DuckDBPyConnection) -> Iterator[tuple[Versions, ShopperRows]]:
    pairs = database.execute(
        "SELECT champion, challenger FROM shopper_days GROUP BY ALL ORDER BY min(day), champion, challenger"
    ).fetchall()
    for champion, challenger in pairs:
        rows = database.execute(
            "SELECT day, dense_rank() OVER (ORDER BY shopper) AS shopper, requests, won, lost FROM shopper_days "
            "WHERE champion = $1 AND challenger = $2 ORDER BY day, shopper",
            [champion, challenger],
        ).fetchnumpy()
        yield (
            (champion, challenger),
            ShopperRows(
                days=rows["day"].astype("datetime64[D]").astype(date).tolist(),
                shoppers=rows["shopper"],
                requests=rows["requests"],
                won=rows["won"],
                lost=rows["lost"],
            ),
        )


def _statements() -> list[str]:
    found = re.split(r";[ \t]*(?:\n|\Z)", _SQL.read_text(encoding="utf-8"))
    return [statement for statement in found if re.sub(r"--[^\n]*", "", statement).strip()]


def _has_team(delivered: DeliveredFile) -> bool:
    """Whether a file has a row of an interleaved list; cheap, as most days of a log have none.

    Raises:
        InputError: it cannot be read.
    """
    file = delivered.file
    if is_json_lines(file):
        return any(_HAS_TEAM.search(line) for _, line in iterate_lines(file))
    try:
        with pq.ParquetFile(parquet_source(file), pre_buffer=False) as opened:
            if "team" not in opened.schema_arrow.names:
                return False
            batches = opened.iter_batches(ROWS_AT_ONCE, columns=["team"])
            return any(batch.column(0).null_count < batch.num_rows for batch in batches)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file}: cannot be read ({' '.join(str(error).split())}); write it again") from error
