"""Records put down on the disk and taken up again together by a key: the events of a search, the rows of a product.

Exports come in any order and may be larger than memory, which holds a batch of records and SQLite's pages.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any

_BATCH = 10_000
_MEBIBYTE = 1_024


class SpooledRecords:
    """Lists of JSON values, each under a key and a place in the key's order."""

    def __init__(self, scratch: Path) -> None:
        """Begin an empty spool in a folder that goes when the import ends."""
        self._base = sqlite3.connect(scratch / "records.sqlite", isolation_level=None)
        # Nobody reads it after a crash.
        self._base.execute("PRAGMA journal_mode = OFF")
        self._base.execute("PRAGMA synchronous = OFF")
        self._base.execute(f"PRAGMA cache_size = -{64 * _MEBIBYTE}")
        self._base.execute("CREATE TABLE records (key TEXT, place INTEGER, content TEXT)")
        self._base.execute("BEGIN")
        self._waiting: list[tuple[str, int, str]] = []

    def add(self, key: str, place: int, record: list[Any]) -> None:
        """Put a record down; of one place of a key, the first added comes first."""
        self._waiting.append((key, place, json.dumps(record)))
        if len(self._waiting) >= _BATCH:
            self._flush()

    def groups(self) -> Iterator[tuple[str, Iterator[list[Any]]]]:
        """Keys in their order, each with its records; a group is read before the next one."""
        self._flush()
        with closing(self._base.execute("SELECT key, content FROM records ORDER BY key, place, rowid")) as rows:
            for key, group in groupby(rows, key=itemgetter(0)):
                yield key, (json.loads(content) for _, content in group)

    def _flush(self) -> None:
        self._base.executemany("INSERT INTO records VALUES (?, ?, ?)", self._waiting)
        self._waiting = []

    def __enter__(self) -> SpooledRecords:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._base.close()
