"""Digests of content: files by their bytes, tables by their rows whatever the file layout."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smar_model.lake.object_paths import AnyPath, name_below
from smar_model.lake.records import say_once
from smar_model.settings import home
from smar_model.small_start import allow_all


def digest_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_json(value: Any) -> str:
    return digest_bytes(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())


def digest_file(path: AnyPath) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_files(files: Iterable[Path], *, root: Path) -> str:
    """Digest of names (relative to `root`) and contents, independent of the order given."""
    return digest_json(sorted((str(f.relative_to(root)), digest_file(f)) for f in files))


Stamp = tuple[int, ...]
"""What tells a file that was written to from one that was not."""
_known: dict[Path, tuple[Stamp, str]] = {}
_known_rows: dict[tuple[tuple[Path, Stamp], ...], str] = {}
_TICK_NS = 50_000_000
"""A file system's clock stands still for some milliseconds: what was written this lately may be written to again unseen."""


def digests_once(files: Iterable[Path]) -> list[str]:
    """`digest_file` of several files at a time. One that this process has read before, and that was not written to since, is not read
    again; one that the disk cannot read has an empty digest.

    Raises:
        FileNotFoundError: one is not there.
    """
    files = list(files)
    if len(files) < 2:
        return [_digest_once(file) for file in files]
    with ThreadPoolExecutor(min(len(files), os.cpu_count() or 1)) as pool:  # hashlib lets other threads run
        return list(pool.map(_digest_once, files))


def digest_rows_once(files: Iterable[Path]) -> str:
    """`digest_rows`; a table that this process has read before, and that was not written to since, is not read again."""
    files = sorted(files)
    stamps = tuple((file, _stamp(file.stat())) for file in files)
    if (known := _known_rows.get(stamps)) is not None:
        return known
    digest = digest_rows(files)
    if all(_is_settled(stamp) for _, stamp in stamps):
        _known_rows[stamps] = digest
    return digest


def _digest_once(file: Path) -> str:
    stamp = _stamp(file.stat())
    known = _known.get(file)
    if known and known[0] == stamp:
        return known[1]
    try:
        digest = digest_file(file)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return ""
    if _is_settled(stamp):
        _known[file] = stamp, digest
    return digest


def _stamp(stat: os.stat_result) -> Stamp:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _is_settled(stamp: Stamp) -> bool:
    return max(stamp[-2:]) + _TICK_NS < time.time_ns()


def digest_raw_files(files: Iterable[AnyPath], *, root: AnyPath) -> str:
    """As `digest_files`, for inputs that others write: a file unchanged in size and time, or an object unchanged in its ETag, is not read
    again.

    Digests are kept in `<home>/file_digests.db`, a cache: a damaged one is made anew, and where it cannot be written all files are read.
    """
    known, entries, new = _cached_digests(), [], []
    for name, file in sorted(((name_below(file, root), file) for file in files), key=lambda pair: pair[0].parts):
        stamp = _raw_stamp(file)
        old = known.get(str(file))
        digest = old[1] if old and old[0] == stamp else digest_file(file)
        # One that is written meanwhile has had this content at no time.
        if (not old or old[0] != stamp) and _raw_stamp(file) == stamp:
            new.append((str(file), stamp, digest))
        entries.append((str(name), digest))
    if new:
        _cache_digests(new)
    return digest_json(entries)


def _raw_stamp(file: AnyPath) -> str:
    if not isinstance(file, Path):
        state = file.stat()
        return f"{state.st_size}:{state.modified.isoformat()}:{state.e_tag}"
    stat = file.stat()
    # A copy may keep size and time of what it replaces (`cp -p`, rsync); inode and time of change are the file system's own.
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}:{stat.st_ino}"


def _cached_digests() -> dict[str, tuple[str, str]]:
    """File → its stamp and digest, as far as they are known."""

    def read(cache: sqlite3.Connection) -> list[tuple[Any, ...]]:
        return cache.execute("SELECT path, stamp, digest FROM digest").fetchall()

    rows = _with_cache(read) or []
    return {path: (stamp, digest) for path, stamp, digest in rows if _SHA256.fullmatch(str(digest))}


def _cache_digests(rows: list[tuple[str, str, str]]) -> None:
    _with_cache(lambda cache: cache.executemany("INSERT OR REPLACE INTO digest VALUES (?, ?, ?)", rows))


_SHA256 = re.compile(r"[0-9a-f]{64}")
_UNUSABLE = {
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN),
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM),
}
"""What ails not the cache's content but its place, or another who has it open."""


def _with_cache(work: Callable[[sqlite3.Connection], Any]) -> Any:
    """What `work` does with the open cache, in one short transaction; None where the cache cannot be used."""
    file = home() / "file_digests.db"
    for is_last in (False, True):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(file, timeout=60)) as cache, cache:
                cache.execute("CREATE TABLE IF NOT EXISTS digest (path TEXT PRIMARY KEY, stamp TEXT, digest TEXT)")
                return work(cache)
        except (OSError, sqlite3.Error) as error:
            problem = str(error)
            # The low byte is the kind, of which there are variants.
            is_usable = (
                isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF not in _UNUSABLE
            )
            if is_usable and not is_last:
                say_once(f"{file}: damaged ({problem}); made anew, so input files are read again")
                with suppress(OSError):
                    for name in (file.name, *(f"{file.name}-{end}" for end in ("journal", "wal", "shm"))):
                        file.with_name(name).unlink(missing_ok=True)
                continue
            break
    say_once(f"{file}: not usable ({problem}); input files are read whole each time")
    return None


_SEEDS = ("smar-row-digest0", "smar-row-digest1")


@dataclass(frozen=True, slots=True)
class RowSums:
    """What the digest of a table's rows is made of; that of several files is the sum of theirs."""

    columns: tuple[tuple[str, str], ...]
    """Names and Arrow types."""
    rows: int
    sums: tuple[int, int]
    """Of the rows' hashes under each seed, modulo 2**64."""

    def __add__(self, other: RowSums) -> RowSums:
        sums = tuple((mine + theirs) % 2**64 for mine, theirs in zip(self.sums, other.sums, strict=True))
        return RowSums(other.columns, self.rows + other.rows, (sums[0], sums[1]))

    @property
    def digest(self) -> str:
        return digest_json({"columns": self.columns or None, "rows": self.rows, "sums": [str(s) for s in self.sums]})


def digest_rows(files: Iterable[Path]) -> str:
    """Order-free digest of a Parquet table: the same rows give the same digest however they lie in files.

    Each row is hashed to 64 bits with two seeds; the sums of the hashes, the row count and the column names and
    types are digested. Sums, not exclusive or, so that a row that occurs twice counts.
    """
    return sum(map(sum_rows, sorted(files)), RowSums((), 0, (0, 0))).digest


def sum_rows(file: Path) -> RowSums:
    """What a file adds to the digest of its table's rows."""
    rows, sums = 0, [0, 0]
    parquet = pq.ParquetFile(file)
    for batch in parquet.iter_batches(batch_size=65_536):
        rows += batch.num_rows
        row_hashes = [np.zeros(batch.num_rows, dtype=np.uint64) for _ in _SEEDS]
        for column in batch.columns:
            for index, hashed in enumerate(_hash_values(column)):
                row_hashes[index] = row_hashes[index] * np.uint64(0x100000001B3) + hashed
        for index, row_hash in enumerate(row_hashes):
            # One more mixing step: plain sums of linear combinations could cancel across columns.
            row_hash ^= row_hash >> np.uint64(31)
            row_hash *= np.uint64(0x9E3779B97F4A7C15)
            row_hash ^= row_hash >> np.uint64(29)
            sums[index] = (sums[index] + int(row_hash.sum(dtype=np.uint64))) % 2**64
    columns = tuple((field.name, str(field.type)) for field in parquet.schema_arrow)
    return RowSums(columns, rows, (sums[0], sums[1]))


def _hash_values(column: pa.Array) -> list[np.ndarray]:
    """A hash of each value for each seed."""
    allow_all()
    import pandas as pd  # takes a second, and a command that finds its output has no use for it

    values = _hashable(column)
    if isinstance(values, np.ndarray):
        return [pd.util.hash_array(values, hash_key=seed) for seed in _SEEDS]
    # Texts repeat: each is hashed once.
    texts = values.dictionary_encode()
    places = texts.indices.to_numpy()
    distinct = texts.dictionary.to_numpy(zero_copy_only=False)
    return [pd.util.hash_array(distinct, hash_key=seed, categorize=False)[places] for seed in _SEEDS]


def _hashable(column: pa.Array) -> np.ndarray | pa.Array:
    """Numbers as a numpy array; texts, nulls and nested values as an Arrow array of texts."""
    kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pa.array([digest_bytes(v) if v is not None else "∅" for v in column.to_pylist()], pa.string())
    if pa.types.is_nested(kind):
        # A map has no order: its entries are sorted, as two engines may write them differently.
        is_map = pa.types.is_map(kind)
        values = (v if v is None or not is_map else sorted(v) for v in column.to_pylist())
        return pa.array([json.dumps(v, default=str, ensure_ascii=False) for v in values], pa.string())
    if pa.types.is_temporal(kind):
        column = column.cast(pa.int32() if pa.types.is_date32(kind) else pa.int64())
    if column.null_count or pa.types.is_decimal(kind):
        column = column.cast(pa.string()).fill_null("∅")
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column
    if pa.types.is_boolean(column.type):
        return column.to_numpy(zero_copy_only=False).astype(np.int8)
    return column.to_numpy(zero_copy_only=False)
