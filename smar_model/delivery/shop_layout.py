"""Whether a shop's folder has the files that it should have, under the names that are read; everything at once.

What is looked at is names, footers of Parquet files and the first lines of JSON lines: it takes a moment, whatever the shop's size.
"""

from __future__ import annotations

import difflib
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from itertools import islice
from pathlib import Path
from zoneinfo import ZoneInfo

from smar_model.delivery.delivered_tables import absent_columns, plan_file
from smar_model.delivery.delivery_faults import Fault, RepeatedFaults, fault_of
from smar_model.delivery.json_lines import LineReader, is_json_lines, iterate_lines
from smar_model.delivery.picture_stores import open_object_store
from smar_model.delivery.shop_inputs import SUFFIXES, ShopInputs
from smar_model.errors import InputError
from smar_model.lake.contracts import Contract, load_contract
from smar_model.lake.object_paths import AnyPath, ObjectPath, is_below

FIRST_LINES = 1_000
"""Of each file of JSON lines, where a look has to be short."""
_OTHER_FORMATS = {
    ".csv": "CSV",
    ".tsv": "TSV",
    ".txt": "text",
    ".xlsx": "a spreadsheet",
    ".xml": "XML",
    ".json": "JSON",
    ".ndjson": "JSON lines",
    ".avro": "Avro",
    ".orc": "ORC",
    ".zip": "a zip",
    ".gz": "gzip",
}
_OF_DESKTOPS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "$recycle.bin", "system volume information"}
_READ = {"shop.yaml", "shop.json", "truth"}
"""What else a shop's folder has: its time zone, and what drawn and imported shops say of themselves."""
_MEANT = {
    **dict.fromkeys(("items", "item", "products", "product", "catalogue", "catalog", "articles"), "items"),
    **dict.fromkeys(("clicklog", "clicks", "clickstream", "events", "logs", "searchlog"), "click_log"),
    **dict.fromkeys(("judgments", "judgements", "judgment", "grades", "qrels"), "judgments"),
    **dict.fromkeys(("pictures", "picture", "images", "image", "photos", "img"), "pictures"),
}
"""Letters of a name → the table, or the pictures, that it is meant for."""
README = "README.md, 'Your own shop', shows the layout"


@dataclass(slots=True)
class Layout:
    """What a shop's folder holds."""

    items: list[AnyPath] = field(default_factory=list)
    days: dict[date, list[AnyPath]] = field(default_factory=dict)
    """Days of the click log that are complete, in order."""
    incomplete: dict[date, str] = field(default_factory=dict)
    """The others, and why."""
    judgments: AnyPath | None = None
    zone: ZoneInfo | None = None
    faults: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)

    def files(self) -> Iterator[tuple[str, AnyPath]]:
        """Table and file of everything that is delivered."""
        yield from (("items", file) for file in self.items)
        yield from (("click_log", file) for files in self.days.values() for file in files)
        if self.judgments:
            yield ("judgments", self.judgments)


def look_at_layout(shop: ShopInputs, wanted: list[date] | None = None) -> Layout:
    """Files of a shop, with all that is wrong with their names.

    Args:
        wanted: days of the log that have to be there; others are not looked at. None: all that there are.
    """
    layout = Layout()
    if (wanted is None or isinstance(shop.root, ObjectPath)) and not shop.root.is_dir():
        what = "not a folder" if shop.root.exists() else "no such folder"
        if isinstance(shop.root, ObjectPath):
            what = "no object has a name that begins so"
        layout.faults.append(Fault(shop.root, what, f"name the shop's folder; {README}"))
        return layout
    try:
        layout.zone = shop.zone
    except InputError as error:
        layout.faults.append(fault_of(error))
    try:
        layout.items = shop.items()
    except InputError as error:
        layout.faults.append(fault_of(error))
        layout.items = shop.single_files("items")  # what else is wrong in them is told as well
    try:
        layout.judgments = shop.judgments()
    except InputError as error:
        layout.faults.append(fault_of(error))
        layout.judgments = shop.single_files("judgments")[0]
    _look_at_pictures(shop, layout)
    _look_at_days(shop, layout, wanted)
    if shop.root.is_dir():
        _look_at_strangers(shop.root, layout, shop.complete_day.marker if shop.complete_day else None)
    return layout


def _look_at_pictures(shop: ShopInputs, layout: Layout) -> None:
    try:
        if shop.pictures_uri:
            open_object_store(shop.pictures_uri)
            return
        store = shop.pictures()
        if not isinstance(store.place, str) and store.place.is_file():
            with store.place.open("rb") as content, zipfile.ZipFile(content):
                pass
        elif (shop.root / "pictures.zip").is_file():
            found = "is there beside pictures/, and not read"
            layout.warnings.append(Fault(shop.root / "pictures.zip", found, "keep one of the two"))
    except InputError as error:
        layout.faults.append(fault_of(error))
    except (zipfile.BadZipFile, OSError) as error:
        layout.faults.append(Fault(shop.root / "pictures.zip", f"not a whole zip file ({error})", "copy it again"))


def _look_at_days(shop: ShopInputs, layout: Layout, wanted: list[date] | None) -> None:
    log = shop.root / "click_log"
    if wanted is not None:
        for day in wanted:
            try:
                layout.days[day] = shop.click_log(day)
            except InputError as error:
                layout.faults.append(fault_of(error))
        return
    if not log.is_dir():
        layout.faults.append(Fault(log, "no click log", f"deliver one, a folder dt=YYYY-MM-DD for each day; {README}"))
        return
    for inner in _inside(log):
        if _is_left_over(inner):
            continue
        if not inner.is_dir():
            layout.faults.append(
                Fault(inner, "lies beside the days' folders and is not read", "move it into its day's, dt=YYYY-MM-DD")
            )
            continue
        day_of_name = _day_of(inner.name)
        if day_of_name is None or inner.name != f"dt={day_of_name}":
            layout.faults.append(
                Fault(inner, "its name is no day, so it is not read", f"rename it to dt={day_of_name or 'YYYY-MM-DD'}")
            )
            continue
        if why := shop.incomplete_days([day_of_name]).get(day_of_name):
            layout.incomplete[day_of_name] = why
            layout.warnings.append(
                Fault(inner, f"is not complete, so it is not read: it {why}", "wait for the rest of it")
            )
            continue
        try:
            layout.days[day_of_name] = shop.click_log(day_of_name)
        except InputError as error:
            unread = _unread_files(inner)
            layout.faults += [_stranger(path, "click_log") for path in unread] or [fault_of(error)]
    if not layout.days and not layout.incomplete and not any(is_below(f.file, log) for f in layout.faults):
        layout.faults.append(Fault(log, "holds no day", "deliver a folder dt=YYYY-MM-DD for each day"))


def _day_of(folder: str) -> date | None:
    try:
        return date.fromisoformat(folder.removeprefix("dt="))
    except ValueError:
        return None


def _table_meant(path: AnyPath) -> str | None:
    """The table that a name in a shop's folder is meant for, by a name close to it."""
    letters = "".join(letter for letter in path.name.split(".")[0].casefold() if letter.isalpha())
    if letters in _MEANT:
        return _MEANT[letters]
    close = difflib.get_close_matches(letters, _MEANT, n=1, cutoff=0.8)
    return _MEANT[close[0]] if close else None


def _look_at_folder(path: AnyPath, table: str | None, layout: Layout) -> list[AnyPath]:
    """A folder in a shop's folder; those of nobody are returned."""
    if table is None:
        return [path]
    there = {"items": layout.items, "click_log": layout.days, "judgments": layout.judgments}.get(table)
    if table == "judgments":
        layout.faults.append(Fault(path, "a folder, which is not read", "write one file, judgments.parquet"))
    elif path.name == table == "items":
        if layout.items and layout.items[0].parent == path.parent:
            found = f"is there beside {layout.items[0].name}, and not read"
            layout.warnings.append(Fault(path, found, "keep one of the two"))
    elif path.name != table:
        target = layout.warnings if there or (path.parent / table).exists() else layout.faults
        target.append(Fault(path, "is not read under this name", f"rename it to {table}/"))
    return []


def _look_at_strangers(root: AnyPath, layout: Layout, marker: str | None) -> None:
    """What lies in a shop's folder and is read by nobody."""
    others = []
    for path in _inside(root):
        if _is_left_over(path) or path.name in _READ:
            continue
        table = _table_meant(path)
        if path.is_dir():
            others += _look_at_folder(path, table, layout)
        elif table == "pictures":
            others += [path] if path.name != "pictures.zip" else []
        elif table is None:
            others.append(path)
        elif not path.name.endswith(SUFFIXES) or path.name.split(".")[0] != table or table == "click_log":
            there = {"items": layout.items, "click_log": layout.days, "judgments": layout.judgments}[table]
            named_so = path.name.split(".")[0].casefold().startswith(table)
            (layout.warnings if there and not named_so else layout.faults).append(_stranger(path, table))
    if others:
        names = ", ".join(path.name for path in others[1:4])
        more = f" (and {len(others) - 1:,} more like it, as {names})" if names else ""
        advice = f"move it elsewhere, or rename it to what it is; {README}"
        layout.warnings.append(Fault(others[0], f"is not read under this name{more}", advice))

    for folder in [root / "items", *(root / "click_log" / f"dt={day}" for day in layout.days)]:
        table = "items" if folder.name == "items" else "click_log"
        layout.faults += [_stranger(path, table) for path in _unread_files(folder) if path.name != marker]
        layout.warnings += [
            Fault(path, "a folder inside this one, which is not read", "move its files up")
            for path in _inside(folder)
            if path.is_dir() and not _is_left_over(path)
        ]


def _is_left_over(path: AnyPath) -> bool:
    """Whether a writer or a desktop left it there: it is passed over."""
    name = path.name.casefold()
    return name.startswith((".", "_", "readme", "license")) or name in _OF_DESKTOPS or name.endswith(".crc")


def _inside(folder: AnyPath) -> list[AnyPath]:
    """What is directly in a folder, by name; nothing where there is none."""
    return sorted(folder.iterdir(), key=lambda path: path.name) if folder.is_dir() else []


def _unread_files(folder: AnyPath) -> list[AnyPath]:
    return [
        path
        for path in _inside(folder)
        if path.is_file() and not path.name.endswith(SUFFIXES) and not _is_left_over(path)
    ]


def _stranger(path: AnyPath, table: str) -> Fault:
    what = _OTHER_FORMATS.get(path.suffix.casefold())
    if path.name.endswith(SUFFIXES) and table == "click_log":
        return Fault(
            path, "a log is read by days", "write its rows into click_log/dt=YYYY-MM-DD/, the day of event_time in UTC"
        )
    if path.name.endswith(SUFFIXES):
        ending = next(suffix for suffix in reversed(SUFFIXES) if path.name.endswith(suffix))
        return Fault(path, "is not read under this name", f"rename it to {table}{ending}")
    if path.name.endswith((".ndjson", ".ndjson.gz")):
        return Fault(path, "is not read under this name", f"rename it to {path.name.replace('.ndjson', '.jsonl')}")
    found = f"{what or 'a file of another kind'}, which is not read"
    return Fault(
        path,
        found,
        "write it as Parquet or JSON lines (.jsonl), or import it: `smar shop import table DIR --columns FILE` (docs/importers.md)",
    )


def look_at_columns(layout: Layout, *, lines: int | None = FIRST_LINES) -> tuple[list[Fault], list[str]]:
    """Columns and types of every file that the layout names: what is wrong, and what is cast, one phrase a table and column."""
    faults: list[Fault] = []
    repeated = RepeatedFaults()
    casts: dict[str, int] = {}
    for table, file in layout.files():
        contract = load_contract(table)
        try:
            if isinstance(file, Path) and not os.access(file, os.R_OK):
                faults.append(Fault(file, "may not be read by this user", "make it readable"))
            elif is_json_lines(file):
                if lines:
                    _look_at_lines(file, contract, layout.zone, lines, repeated, faults)
            else:
                plan = plan_file(file, contract, layout.zone)
                for cast in plan.casts:
                    casts[f"{table}: {cast}"] = casts.get(f"{table}: {cast}", 0) + 1
                if fault := plan.fault(contract):
                    faults.append(fault)
        except InputError as error:
            faults.append(fault_of(error))
    phrases = [f"{cast}{f' (in {count:,} files)' if count > 1 else ''}" for cast, count in casts.items()]
    return [*faults, *repeated.faults()], phrases


def _look_at_lines(
    file: AnyPath, contract: Contract, zone: ZoneInfo | None, lines: int, repeated: RepeatedFaults, faults: list[Fault]
) -> None:
    reader = LineReader(contract, zone)

    def on_bad_line(number: int, found: str, mend: str) -> None:
        repeated.add(Fault(file, f"line {number} {found}", mend))

    for _ in reader.batches(islice(iterate_lines(file), lines), on_bad_line):
        pass
    if absent := reader.absent():
        faults.append(absent_columns(file, contract, absent))
