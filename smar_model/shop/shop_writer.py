"""What a source brings into a shop, written row by row in batches: no table has to fit into memory.

Everything is written beside its place and renamed at the end, `items.parquet` last: an interrupted writing leaves the
former catalogue, or none. What other sources brought stays. The same rows give the same bytes.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock

from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract

TABLES = ("items", "click_log", "judgments")
LISTED_AT = datetime(2020, 1, 1, tzinfo=UTC)
"""`updated_at` of a row whose source names no time: older than any log."""
UNSORTED = "Unsorted"
"""Category, and so department, of an item whose source names none."""
BATCH = 100_000
"""Rows that wait in memory, over all tables."""
PARQUET: dict[str, Any] = {
    "version": "2.6", "data_page_version": "1.0", "compression": "zstd", "compression_level": 3,
}  # fmt: skip


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write one Parquet file whole or not at all; its bytes depend on the table alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing")
    pq.write_table(table, temporary, **PARQUET)
    temporary.replace(path)


def only_one(root: Path) -> AbstractContextManager[object]:
    """Two processes may work on the same shop at once: the second waits until the first has completed it."""
    return FileLock(root / ".lock", fallback_to_soft=False)


@contextmanager
def import_into(root: Path, source: str, *, replaces: Collection[str] = TABLES) -> Iterator[ShopWriter]:
    """A `ShopWriter` that nobody else's work on this shop comes between; published when the block ends well.

    Raises:
        InputError: the shop is one that `smar shop open` makes itself, or cannot be added to.
    """
    if (root / "shop.json").exists():
        raise InputError(f"{root}: was made by `smar shop open` and would be made again; import into another folder")
    with only_one(root), ShopWriter(root, source, replaces=replaces) as writer:
        yield writer
        if not writer.counts.total():
            raise InputError(f"{root}: nothing to import from {source}; no row of its files was asked for")


@dataclass(slots=True)
class LeftOut:
    """What was left out for one reason."""

    example: str
    """Where the first of them is."""
    count: int = 0


class ShopWriter:
    """Adds rows to a shop; item ids begin with `<source>-`, pictures lie under `<source>/`.

    Of the tables in `replaces` all goes that the source had brought before. A day of the log is replaced in any case
    by an import that brings it. An empty source stands for the shop as a whole.
    """

    def __init__(self, root: Path, source: str, *, replaces: Collection[str] = TABLES) -> None:
        """Begin with the rows that stay.

        Raises:
            InputError: the shop keeps a table in several files or in JSON lines, or its pictures in a zip.
        """
        _refuse_unmergeable(root)
        self.root, self.source, self._replaces = root, source, replaces
        self.counts: Counter[str] = Counter()
        """Rows and pictures added."""
        self.left_out: dict[str, LeftOut] = {}
        """What was not added, by the reason in words."""
        self.changed: dict[str, LeftOut] = {}
        """What was cast, mended or taken for granted, by what was done in words."""
        self.notes: list[str] = []
        self._seen: set[str] = set()
        self._folder = root / ".importing"
        shutil.rmtree(self._folder, ignore_errors=True)
        prefix = f"{source}-" if source else ""
        self._tables = {
            name: _Table(self._folder / file, contract, begin=root / file, without=prefix)
            for name, file, contract in (
                ("judgments", "judgments.parquet", "judgments"),
                ("truth", "truth/items.parquet", "truth_items"),
                ("items", "items.parquet", "items"),
            )
            if name in replaces or (name == "truth" and "items" in replaces)
        }
        self._old_pictures = (
            _pictures_of(root / "items.parquet") - self._tables["items"].pictures if "items" in replaces else set()
        )
        self._days: dict[date, _Table] = {}
        self._waiting = 0

    def has(self, item_id: str) -> bool:
        """Whether this source has added the item."""
        return item_id in self._seen

    def leave_out(self, reason: str, example: str, *, count: int = 1) -> None:
        """Count what is not added: no loss that `summary` does not show.

        Args:
            reason: what it is and why, in words of the plural, as in "items without a title"; few different ones, as each is a line.
            example: where one of them is, as in `goods.csv row 17`; the first is kept.
        """
        self.left_out.setdefault(reason, LeftOut(example)).count += count

    def change(self, what: str, example: str, *, count: int = 1) -> None:
        """Count what was cast, mended or taken for granted; `what` and `example` as in `leave_out`."""
        self.changed.setdefault(what, LeftOut(example)).count += count

    def note(self, line: str) -> None:
        """Add a line to `summary`."""
        self.notes.append(line)

    def add_item(
        self,
        where: str,
        *,
        item_id: str,
        title: str | None,
        category: str | None = None,
        brand: str | None = None,
        attributes: Mapping[str, str] | None = None,
        images: Iterable[str] = (),
        updated_at: datetime = LISTED_AT,
        truth: Mapping[str, str] | None = None,
    ) -> None:
        """Add an item of row `where`; one without a title is counted in `left_out` instead.

        Raises:
            InputError: the item is there already.
        """
        if item_id in self._seen:
            raise InputError(f"{where}: item {item_id} is already there from a row above; remove one of them")
        self._seen.add(item_id)
        title, names = squeeze(title), list(images)
        if not title:
            self.leave_out("items without a title", where)
            return
        self._old_pictures.difference_update(names)
        category = category or UNSORTED
        self.counts["items"] += 1
        self.counts["unsorted"] += category == UNSORTED
        self.counts["pictures by URL"] += sum("://" in name for name in names)
        row = (item_id, title, category, brand or None, sorted((attributes or {}).items()), names, updated_at)
        self._add(self._tables["items"], row)
        if truth:
            self._add(self._tables["truth"], (item_id, sorted(truth.items())))

    def add_judgment(self, *, query: str, item_id: str, grade: int) -> None:
        self.counts["judgments"] += 1
        self._add(self._tables["judgments"], (query, item_id, grade))

    def add_event(
        self,
        time: datetime,
        *,
        event: str | None,
        request_id: str | None,
        session_id: str | None,
        user_id: str | None,
        query: str | None,
        item_id: str | None,
        position: int | None,
    ) -> None:
        """Add an event to the log of its day (UTC); what is None is left for the cleaning to judge."""
        day = time.astimezone(UTC).date()
        if day not in self._days:
            self._days[day] = _Table(self._folder / "click_log" / f"dt={day}" / f"{self.source}.parquet", "click_log")
        self.counts["events"] += 1
        self._add(self._days[day], (time, event, request_id, session_id, user_id, query, item_id, position))

    def add_picture(self, name: str, content: bytes | Path) -> str:
        """Add a picture's bytes, or a file of the same disk without copying it; returns `name`."""
        target = self._folder / "pictures" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        elif not target.exists():
            try:
                os.link(content.resolve(), target)
            except OSError:  # another disk, or one without links
                shutil.copyfile(content, target)
        self.counts["pictures"] += 1
        return name

    def summary(self) -> str:
        """What was added and left out, and what the shop still lacks for `make retrain`."""
        added = {"items": f"{self.source} items", "pictures": "pictures", "pictures by URL": "pictures by URL"}
        added |= {"judgments": "judgments", "events": "events"}
        shown = [f"{self.counts[key]:,} {name}" for key, name in added.items() if self.counts[key] or key == "items"]
        lines = [f"{self.root}: {', '.join(shown)}"]
        if self._days:
            lines[0] += f" from {min(self._days)} to {max(self._days)}"
        lines += self.notes
        lines += [f"changed: {out.count:,} {what} (such as {out.example})" for what, out in self.changed.items()]
        lines += [f"left out: {out.count:,} {reason} (such as {out.example})" for reason, out in self.left_out.items()]
        lacks = []
        if not any(self.root.glob("click_log/dt=*")):
            simulated = (self.root / "truth" / "items.parquet").is_file()
            lacks.append(f"click_log/dt=YYYY-MM-DD/{' (`smar shop log` simulates one)' if simulated else ''}")
        if not self.counts["pictures"] and not self.counts["pictures by URL"]:
            lacks.append(f"pictures: {self.source} items are told by their text alone")
        if self.counts["unsorted"]:
            lacks.append(f"categories: {self.counts['unsorted']:,} items are of department {UNSORTED!r}")
        if lacks:
            lines.append(f"for `make retrain` it lacks {'; '.join(lacks)}")
        return "\n".join(lines)

    def _add(self, table: _Table, row: tuple[Any, ...]) -> None:
        table.waiting.append(row)
        self._waiting += 1
        if self._waiting >= BATCH:
            for each in (*self._tables.values(), *self._days.values()):
                each.flush()
            self._waiting = 0

    def __enter__(self) -> ShopWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            for table in (*self._tables.values(), *self._days.values()):
                table.close()
            if error is None:
                self._publish()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _publish(self) -> None:
        pictures = self.root / "pictures"
        pictures.mkdir(exist_ok=True)
        new = self._folder / "pictures"
        for folder, _, names in os.walk(new):
            target = pictures / Path(folder).relative_to(new)
            target.mkdir(exist_ok=True)
            for name in names:
                os.replace(Path(folder) / name, target / name)
        if "click_log" in self._replaces:
            for file in self.root.glob(f"click_log/dt=*/{self.source}.parquet"):
                if not (self._folder / file.relative_to(self.root)).exists():
                    file.unlink()
                    if not any(file.parent.iterdir()):
                        file.parent.rmdir()
        for table in (*self._days.values(), *self._tables.values()):
            target = self.root / table.path.relative_to(self._folder)
            if table.rows:
                target.parent.mkdir(parents=True, exist_ok=True)
                table.path.replace(target)
            else:
                target.unlink(missing_ok=True)
        for name in filter(is_inner_path, self._old_pictures):
            (pictures / name).unlink(missing_ok=True)


class _Table:
    """One Parquet file by its contract; begins with the rows of another whose item id lacks a prefix."""

    def __init__(self, path: Path, table: str, *, begin: Path | None = None, without: str = "") -> None:
        contract = load_contract(table)
        # A log as it is delivered promises nothing about nulls.
        nullable = [field.with_nullable(True) for field in contract.arrow_schema()]
        self._schema = pa.schema(nullable) if table == "click_log" else contract.arrow_schema()
        self.path = path
        self.rows = 0
        self.waiting: list[tuple[Any, ...]] = []
        self.pictures: set[str] = set()
        """File names that the rows begun with list."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = pq.ParquetWriter(path, self._schema, **PARQUET)
        if begin is None or not without or not begin.is_file():
            return
        contract.verify_files([begin])
        for batch in pq.ParquetFile(begin).iter_batches(columns=self._schema.names):
            kept = pa.Table.from_batches([batch]).filter(pc.invert(pc.starts_with(batch["item_id"], without)))
            self._write(kept.cast(self._schema))
            if "images" in kept.column_names:
                self.pictures.update(_names(kept))

    def flush(self) -> None:
        if self.waiting:
            columns = zip(*self.waiting, strict=True)
            arrays = [pa.array(values, type=field.type) for values, field in zip(columns, self._schema, strict=True)]
            self._write(pa.Table.from_arrays(arrays, schema=self._schema))
            self.waiting = []

    def _write(self, table: pa.Table) -> None:
        if table.num_rows:
            self._file.write_table(table)
            self.rows += table.num_rows

    def close(self) -> None:
        self.flush()
        self._file.close()


def _refuse_unmergeable(root: Path) -> None:
    if (root / "pictures.zip").is_file():
        raise InputError(
            f"{root / 'pictures.zip'}: pictures in a zip cannot be added to; unpack it into {root / 'pictures'}"
        )
    for table in ("items", "judgments"):
        for path in (root / table, root / f"{table}.jsonl", root / f"{table}.jsonl.gz"):
            if path.exists():
                what = "a table in several files" if path.is_dir() else "JSON lines"
                raise InputError(f"{path}: {what} cannot be added to; turn it into {root / table}.parquet first")


def _pictures_of(items: Path) -> set[str]:
    if not items.is_file():
        return set()
    load_contract("items").verify_files([items])
    return {n for batch in pq.ParquetFile(items).iter_batches(columns=["images"]) for n in _names(batch)}


def _names(table: pa.Table | pa.RecordBatch) -> Iterator[str]:
    return (name for names in table["images"].to_pylist() for name in names or ())


def is_inner_path(name: str) -> bool:
    """Whether a picture's name is a path inside the pictures' folder, and no URL."""
    path = PurePosixPath(name)
    return "://" not in name and not path.is_absolute() and ".." not in path.parts and bool(path.parts)


def squeeze(text: str | None) -> str:
    """The text with its white space as single spaces; empty for None."""
    return " ".join(text.split()) if text else ""
