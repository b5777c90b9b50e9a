"""`smar shop check`: everything that is wrong with a shop's delivery at once, and what a run will make of it; without Java.

`check_structure` is its quick part, which `smar shop open` begins with: names, columns, types. `check_shop` reads every row.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import islice
from pathlib import Path

from smar_model.delivery.check_records import CheckBounds, ShopCheck
from smar_model.delivery.delivered_tables import DeliveredFile
from smar_model.delivery.delivery_faults import Fault, RepeatedFaults, fold
from smar_model.delivery.delivery_figures import Department
from smar_model.delivery.delivery_rules import judge_figures
from smar_model.delivery.json_lines import is_json_lines
from smar_model.delivery.odd_value_rules import judge_odd_values
from smar_model.delivery.picture_fetching import fetch_pictures
from smar_model.delivery.picture_findings import ListedPictures, PictureFindings
from smar_model.delivery.picture_stores import fetched_folder, fetched_path, folders_below
from smar_model.delivery.shop_figures import ShopFigures, TextForms, open_figures
from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.delivery.shop_layout import Layout, look_at_columns, look_at_layout
from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.lake.object_paths import AnyPath, name_below

SAMPLED_PICTURES = 200
NAMES_AT_ONCE = 10_000
MOST_DAYS_HELD_OUT = 7
"""To which figures are given for settings."""
ONE_DAY = timedelta(days=1)
"""By which a day somewhere is ahead of that in UTC."""
Report = Callable[[str], None]


def check_structure(shop: ShopInputs, days: list[date]) -> tuple[list[Fault], list[str]]:
    """What is wrong with names, columns and types of what a run over these days reads, and what of it is cast: a short look."""
    layout = look_at_layout(shop, days)
    faults, casts = look_at_columns(layout)
    return fold([*layout.faults, *faults]), casts


def check_shop(
    shop: ShopInputs, bounds: CheckBounds, forms: TextForms, report: Report = lambda line: None
) -> ShopCheck:
    """Look at every file and row of a shop.

    Args:
        report: is told how far it is.
    """
    layout = look_at_layout(shop)
    check = ShopCheck(shop.root, faults=list(layout.faults), warnings=list(layout.warnings))
    check.incomplete = list(layout.incomplete)
    column_faults, check.casts = look_at_columns(layout, lines=None)
    check.faults += column_faults
    unreadable = {fault.file for fault in column_faults}
    check.whole_catalogue = unreadable.isdisjoint(layout.items)
    repeated = RepeatedFaults()
    with open_figures(forms) as figures:
        _Reading(check, layout, bounds, figures, repeated, unreadable, report).read(shop)
    check.faults += repeated.faults()
    judge_figures(check, layout, bounds)
    judge_odd_values(check, layout, bounds)
    check.faults, check.warnings = fold(check.faults), fold(check.warnings)
    return check


@dataclass(slots=True)
class _Reading:
    """One reading of a shop."""

    check: ShopCheck
    layout: Layout
    bounds: CheckBounds
    figures: ShopFigures
    repeated: RepeatedFaults
    unreadable: set[AnyPath]
    """Files that are not read, as their columns do not fit."""
    report: Report

    def read(self, shop: ShopInputs) -> None:
        check, figures = self.check, self.figures
        items = self._files("items", self.layout.items)
        check.items = figures.read_items(items, self.repeated.add, today=self.bounds.today)
        self._note_files("items", items)
        check.refused_times = sum(file.refused["updated_at"] for file in items)
        self.report(f"{check.items.rows:,} items")
        for day, files in self.layout.days.items():
            of_day = self._files("click_log", files)
            check.days.append(figures.read_day(day, of_day, self.bounds.clicks, self.repeated.add))
            self._note_files("click_log", of_day)
            self.report(f"{day}: {check.days[-1].rows:,} events")
        if check.days:
            self._sum_up()
        if self.layout.judgments and self.layout.judgments not in self.unreadable:
            file = DeliveredFile(self.layout.judgments, load_contract("judgments"), self.layout.zone, checking=True)
            check.judgments = figures.read_judgments(file, self.repeated.add)
            self._note_files("judgments", [file])
        self._look_at_pictures(shop)

    def _sum_up(self) -> None:
        check, figures, items = self.check, self.figures, self.check.items
        past = [day.day for day in check.days if not self.bounds.today or day.day <= self.bounds.today + ONE_DAY]
        last = past[-1] if past else check.days[-1].day
        count = self.bounds.window_days or (last - check.days[0].day).days + 1
        check.window = [last - timedelta(days=n) for n in reversed(range(count))]
        check.clicked_queries, check.queries_once = figures.clicked_queries()
        for held_out in range(1, 1 + min(MOST_DAYS_HELD_OUT, len(check.window))):
            check.queries_by_last_days.append(figures.clicked_queries(check.window[-held_out:])[0])
            check.items_by_last_days.append(figures.updated_before(check.window[-held_out]))
        check.query_scripts = figures.query_scripts()
        check.items_before_cutoff = figures.updated_before(last - timedelta(days=self.bounds.evaluation_days - 1))
        clicks = figures.department_clicks()
        assert items
        items.departments = [
            Department(d.name, d.items, d.with_pictures, clicks.get(d.name, 0)) for d in items.departments
        ]

    def _files(self, table: str, files: list[AnyPath]) -> list[DeliveredFile]:
        contract = load_contract(table)
        return [
            DeliveredFile(file, contract, self.layout.zone, checking=True)
            for file in files
            if file not in self.unreadable
        ]

    def _note_files(self, table: str, files: list[DeliveredFile]) -> None:
        """What is known once files are read: casts of JSON lines, and what there is to look at."""
        for phrase in dict.fromkeys(c for f in files if is_json_lines(f.file) for c in f.casts):
            if f"{table}: {phrase}" not in self.check.casts:
                self.check.casts.append(f"{table}: {phrase}")
        for file in files:
            self.check.warnings += file.notes
            self.check.bad_values.update({f"{table}.{column}": n for column, n in file.bad_values.items()})

    def _look_at_pictures(self, shop: ShopInputs) -> None:
        check, settings = self.check, self.bounds.pictures
        try:
            store = shop.pictures()
            with store.opened(maximum_bytes=settings.maximum_bytes):
                pass
        except InputError:
            return  # told with the layout
        listed, found = ListedPictures(self.figures.database), PictureFindings()
        known = not isinstance(store.place, str)
        if not isinstance(store.place, str):
            check.missing_pictures = listed.lead_nowhere(_names_in(store.place))
        with store.opened(maximum_bytes=settings.maximum_bytes) as read:
            found.open(listed.sample(SAMPLED_PICTURES, by_url=False, there=known), read, settings)
        if self.bounds.fetch:
            urls = listed.sample(SAMPLED_PICTURES, by_url=True)
            found.opened += len(urls)
            found.failed |= {url: reason for url, (reason, _) in fetch_pictures(urls, settings, self.report).items()}
            for url in urls:
                if url not in found.failed and not fetched_path(fetched_folder(), url).is_file():
                    found.failed[url] = "unreachable"
        check.opened_pictures, check.usable_pictures = found.opened, found.opened - len(found.failed)
        check.broken_pictures = found.broken()
        alike = max(found.contents.values(), key=len, default=[])
        check.alike_pictures = (len(alike), min(alike, default=""))
        check.one_colour_pictures = (len(found.one_colour), min(found.one_colour, default=""))
        check.shared_pictures = listed.shared(settings.shared_by_items)


def _names_in(place: AnyPath) -> Iterator[list[str]]:
    """Names of pictures in a folder or a zip, some at a time."""
    if place.is_file():
        with place.open("rb") as content, zipfile.ZipFile(content) as archive:
            yield archive.namelist()
        return
    if not isinstance(place, Path):
        names = (str(name_below(path, place)) for path in place.walk())
        while some := list(islice(names, NAMES_AT_ONCE)):
            yield some
        return
    for folder, inner in folders_below(place):
        below = folder.relative_to(place).as_posix()
        paths = (name if below == "." else f"{below}/{name}" for name in inner)
        yield [path.encode("utf-8", "replace").decode() for path in paths]
