"""What a source brings into a shop, written row by row in batches: no table has to fit into memory.

Everything is written beside its place and renamed at the end, `items.parquet` last: an interrupted writing leaves the
former catalogue, or none. What other sources brought stays. The same rows give the same bytes.

A published data set puts its source before its item ids, so that several can share a shop. What a shop's own systems
export (`own`) keeps its ids, so that its feed and its log meet: such a feed is the whole catalogue.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock

from smar_model.errors import InputError
from smar_model.shop.catalogue_owners import judgments_are_alone, refuse_mixed_catalogue, refuse_unmergeable
from smar_model.shop.full_disk import full_disk_named
from smar_model.shop.import_summary import ImportSummary, LeftOut
from smar_model.shop.item_names import ALIASES, ItemNames, unknown_items
from smar_model.shop.log_files import LogFiles
from smar_model.shop.removed_items import LEAST_SHARE, removed_items
from smar_model.shop.table_files import TableFile, is_inner_path, pictures_of, write_parquet

__all__ = ["LISTED_AT", "ShopWriter", "import_into", "is_inner_path", "only_one", "squeeze", "write_parquet"]

TABLES = ("items", "click_log", "judgments")
LISTED_AT = datetime(2020, 1, 1, tzinfo=UTC)
"""`updated_at` of a row whose source names no time: older than any log."""
UNSORTED = "Unsorted"
"""Category, and so department, of an item whose source names none."""
BATCH = 100_000
"""Rows that wait in memory, over all tables."""


def only_one(root: Path) -> AbstractContextManager[object]:
    """Two processes may work on the same shop at once: the second waits until the first has completed it."""
    return FileLock(root / ".lock", fallback_to_soft=False)


@contextmanager
def import_into(
    root: Path,
    source: str,
    *,
    replaces: Collection[str] = TABLES,
    own: bool = False,
    replace_others: bool = False,
    may_shrink: bool = True,
) -> Iterator[ShopWriter]:
    """A `ShopWriter` that nobody else's work on this shop comes between; published when the block ends well.

    Raises:
        InputError: the shop is one that `smar shop open` makes itself, or cannot be added to.
    """
    if (root / "shop.json").exists():
        raise InputError(f"{root}: was made by `smar shop open` and would be made again; import into another folder")
    root.mkdir(parents=True, exist_ok=True)
    with (
        full_disk_named(root),
        only_one(root),
        ShopWriter(
            root, source, replaces=replaces, own=own, replace_others=replace_others, may_shrink=may_shrink
        ) as writer,
    ):
        yield writer
        if not writer.counts.total():
            raise InputError(writer.nothing_to_import())


class ShopWriter:
    """Adds rows to a shop; item ids begin with `<source>-` unless they are the shop's own, pictures lie under `<source>/`.

    Of the tables in `replaces` all goes that the source had brought before. A day of the log is replaced in any case
    by an import that brings it. An empty source stands for the shop as a whole.
    """

    def __init__(
        self,
        root: Path,
        source: str,
        *,
        replaces: Collection[str] = TABLES,
        own: bool = False,
        replace_others: bool = False,
        may_shrink: bool = True,
    ) -> None:
        """Begin with the rows that stay.

        Args:
            own: whether the rows have the shop's own ids; then items are a whole catalogue.
            replace_others: whether a source may take the place of what another one brought, or of more rows.
            may_shrink: whether a source may bring less than half of the items that it had, without `replace_others`.

        Raises:
            InputError: the shop keeps a table in several files or in JSON lines, or its pictures in a zip; or its
                catalogue is another source's.
        """
        self._names = ItemNames(root, source)
        refuse_unmergeable(root, replaces)
        self.root, self.source, self._replaces = root, source, replaces
        self._own = own
        self._least_share = 0.0 if may_shrink or replace_others else LEAST_SHARE
        if "items" in replaces:
            refuse_mixed_catalogue(root, source, own=own, replace_others=replace_others)
        self._summary = ImportSummary()
        self._seen: set[str] = set()
        self._folder = root / ".importing"
        shutil.rmtree(self._folder, ignore_errors=True)
        alone = own or ("judgments" in replaces and judgments_are_alone(root, source, self._names.own_catalogue))
        prefix = "" if alone else f"{source}-" if source else ""
        whole_of = source if alone else None
        self._prefix = prefix
        self._tables = {
            name: TableFile(self._folder / file, contract, begin=root / file, without=prefix, whole_of=whole_of)
            for name, file, contract in (
                ("judgments", "judgments.parquet", "judgments"),
                ("truth", "truth/items.parquet", "truth_items"),
                ("aliases", ALIASES, "item_aliases"),
                ("items", "items.parquet", "items"),
            )
            if name in replaces
            or (name == "truth" and "items" in replaces)
            or (name == "aliases" and "items" in replaces and own)
        }
        self._old_pictures = (
            pictures_of(root / "items.parquet") - self._tables["items"].pictures if "items" in replaces else set()
        )
        self._log = LogFiles(root, self._folder, source, own=own, replace_others=replace_others)
        self._waiting = 0
        self.files: list[Path] = []
        """What is read, for messages."""
        self._first_without_picture = ""

    @property
    def counts(self) -> Counter[str]:
        """Rows and pictures added."""
        return self._summary.counts

    @property
    def left_out(self) -> Mapping[str, LeftOut]:
        """What was not added, by the reason in words."""
        return self._summary.left_out

    @property
    def scratch(self) -> Path:
        """A folder for what an import must put down on the way; it goes when the import ends."""
        folder = self._folder / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def has(self, item_id: str) -> bool:
        """Whether this source has added the item."""
        return item_id in self._seen

    def leave_out(self, reason: str, example: str, *, count: int = 1) -> None:
        """Count what is not added: no loss that `summary` does not show.

        Args:
            reason: what it is and why, in words of the plural, as in "items without a title"; few different ones, as each is a line.
            example: where one of them is, as in `goods.csv row 17`; the first is kept.
        """
        self._summary.leave_out(reason, example, count)

    def change(self, what: str, example: str, *, count: int = 1) -> None:
        """Count what was cast, mended or taken for granted; `what` and `example` as in `leave_out`."""
        self._summary.change(what, example, count)

    def note(self, line: str) -> None:
        """Add a line to `summary`."""
        self._summary.notes.append(line)

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
        price: str = "",
        currency: str = "",
        available: bool | None = None,
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
        if not names:
            self._first_without_picture = self._first_without_picture or item_id
            self.counts["without a picture"] += 1
        offer = (Decimal(price) if price else None, currency or None, available)
        row = (item_id, title, category, brand or None, sorted((attributes or {}).items()), names, updated_at, *offer)
        self._add(self._tables["items"], row)
        if truth:
            self._add(self._tables["truth"], (item_id, sorted(truth.items())))

    def add_alias(self, alias: str, item_id: str, kind: str) -> None:
        """Add another name of an item, by which logs may call it; once for each name, and none that is an item's id."""
        self.counts["aliases"] += 1
        self._add(self._tables["aliases"], (alias, item_id, kind))

    def add_judgment(self, *, query: str, item_id: str, grade: int) -> None:
        self.counts["judgments"] += 1
        self._add(self._tables["judgments"], (query, self._item(item_id), grade))

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
        delivery: str | None = None,
    ) -> None:
        """Add an event to the log of its day (UTC); what is None is left for the cleaning to judge.

        Args:
            delivery: name of the part of the log that is delivered, and replaced, as a whole; unset, a day of UTC is.

        Raises:
            InputError: as `LogFiles.of`.
        """
        table = self._log.of(time.astimezone(UTC).date(), delivery)
        self.counts["events"] += 1
        item_id = item_id and self._item(item_id)
        self._add(table, (time, event, request_id, session_id, user_id, query, item_id, position))

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
        """What was added, changed and left out, and what the shop still lacks for `make retrain`."""
        added = {"items": f"{self.source} items", "pictures": "pictures", "pictures by URL": "pictures by URL"}
        added |= {"aliases": "other names of items", "judgments": "judgments", "events": "events"}
        first = "items" if "items" in self._replaces or not self._own else "events"
        shown = [f"{self.counts[key]:,} {name}" for key, name in added.items() if self.counts[key] or key == first]
        lines = [f"{self.root}: {', '.join(shown)}"]
        if days := self._log.days:
            lines[0] += f" from {min(days)} to {max(days)}"
        if missing := self.counts["without a picture"]:
            example = self._first_without_picture
            lines.append(f"without a picture: {missing:,} items, told by their text alone (such as {example!r})")
        lines += self._summary.lines()
        if self._summary.unknown:
            lines.append(self._what_unknown_items_need())
        lacks = []
        if not (self.root / "items.parquet").exists() and "items" not in self._replaces:
            lacks.append("items.parquet (import the product feed)")
        if not any(self.root.glob("click_log/dt=*")):
            simulated = (self.root / "truth" / "items.parquet").is_file()
            lacks.append(f"click_log/dt=YYYY-MM-DD/{' (`smar shop log` simulates one)' if simulated else ''}")
        if "items" in self._replaces and not self.counts["pictures"] and not self.counts["pictures by URL"]:
            lacks.append(f"pictures: {self.source} items are told by their text alone")
        if self.counts["unsorted"]:
            lacks.append(f"categories: {self.counts['unsorted']:,} items are of department {UNSORTED!r}")
        if lacks:
            lines.append(f"for `make retrain` it lacks {'; '.join(lacks)}")
        return "\n".join(lines)

    def nothing_to_import(self) -> str:
        """Why nothing was added, in a line."""
        names = [str(file) for file in self.files[:3]]
        more = f" and {len(self.files) - 3:,} more files" if len(self.files) > 3 else ""
        found = "; ".join(self._summary.lines()) or "no row"
        return f"{', '.join(names) or self.root}{more}: nothing to import from {self.source} ({found}); is it what was meant?"

    def _what_unknown_items_need(self) -> str:
        if not self._item_files():
            return "  the shop has no catalogue yet: import its product feed, then this log again, so that its names are looked up"
        if "items" in self._replaces:
            return "  what names variants is looked up when it is imported: import that log, or those judgments, again"
        return (
            "  they count for nothing in a run; if the items are in the shop, import the newest feed, then this again"
        )

    def _item_files(self) -> list[Path]:
        return [path for path in self.root.glob("items*") if path.name != ALIASES]

    def _item(self, name: str) -> str:
        item_id = self._names.item(name)
        if item_id != name:
            self._summary.change("ids of variants, or other names, read as the item's id", f"{name!r}: {item_id!r}", 1)
        return item_id

    def _add(self, table: TableFile, row: tuple[Any, ...]) -> None:
        table.waiting.append(row)
        self._waiting += 1
        if self._waiting >= BATCH:
            for each in (*self._tables.values(), *self._log):
                each.flush()
            self._waiting = 0

    def __enter__(self) -> ShopWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            for table in (*self._tables.values(), *self._log):
                table.close()
            if error is None:
                self._publish()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _publish(self) -> None:
        if "items" in self._replaces:
            self._count_removed_items()
        replaced = self._log.replaced(whole="click_log" in self._replaces)
        if replaced.before:
            self.note(
                f"replaced: {replaced.before:,} events that {self.source} had brought of the same days, by {replaced.after:,}"
            )
        pictures = self.root / "pictures"
        pictures.mkdir(exist_ok=True)
        new = self._folder / "pictures"
        for folder, _, names in os.walk(new):
            target = pictures / Path(folder).relative_to(new)
            target.mkdir(exist_ok=True)
            for name in names:
                os.replace(Path(folder) / name, target / name)
        for file in replaced.files:
            file.unlink()
            if not any(file.parent.iterdir()):
                file.parent.rmdir()
        for table in (*self._log, *self._tables.values()):
            target = self.root / table.path.relative_to(self._folder)
            if table.rows:
                target.parent.mkdir(parents=True, exist_ok=True)
                table.path.replace(target)
            else:
                target.unlink(missing_ok=True)
        for name in filter(is_inner_path, self._old_pictures):
            (pictures / name).unlink(missing_ok=True)
        self._look_for_unknown_items()

    def _count_removed_items(self) -> None:
        old, new = self.root / "items.parquet", self._tables["items"].path
        if removed := removed_items(old, new, prefix=self._prefix, refuse_below=self._least_share):
            self.note(f"removed: {removed.count:,} items that it had before (such as {removed.example})")

    def _look_for_unknown_items(self) -> None:
        """Of what was added; of the whole shop, where its items are new."""
        new_items = "items" in self._replaces
        log = {file for file, rows in self._log.written().items() if rows}
        if new_items:
            log.update(self.root.glob("click_log/dt=*/[!._]*.parquet"))
        judgments = [
            f for f in [self.root / "judgments.parquet"] if f.is_file() and {"items", "judgments"} & {*self._replaces}
        ]
        found = [unknown_items(self.root, sorted(log), "events"), unknown_items(self.root, judgments, "judgments")]
        self._summary.unknown += [unknown for unknown in found if unknown]


def squeeze(text: str | None) -> str:
    """The text with its white space as single spaces; empty for None."""
    return " ".join(text.split()) if text else ""
