"""`smar shop check`: everything that is wrong with a shop's delivery at once, and what a run will make of it; without Java.

`check_structure` is its quick part, which `smar shop open` begins with: names, columns, types. `check_shop` reads every row.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from smar_model.delivery.check_records import CheckBounds, ShopCheck
from smar_model.delivery.delivered_tables import DeliveredFile
from smar_model.delivery.delivery_faults import Fault, RepeatedFaults
from smar_model.delivery.delivery_rules import judge_figures
from smar_model.delivery.json_lines import is_json_lines
from smar_model.delivery.picture_fetching import fetch_pictures
from smar_model.delivery.picture_formats import decode_picture
from smar_model.delivery.picture_stores import UnusablePicture, fetched_folder, fetched_path
from smar_model.delivery.shop_figures import (
    Department,
    ShopFigures,
    TextForms,
    open_figures,
)
from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.delivery.shop_layout import Layout, look_at_columns, look_at_layout
from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract

SAMPLED_PICTURES = 200
MOST_DAYS_HELD_OUT = 7
"""To which figures are given for settings."""
Report = Callable[[str], None]


def check_structure(shop: ShopInputs, days: list[date]) -> tuple[list[Fault], list[str]]:
    """What is wrong with names, columns and types of what a run over these days reads, and what of it is cast: a short look."""
    layout = look_at_layout(shop, days)
    faults, casts = look_at_columns(layout)
    return [*layout.faults, *faults], casts


def check_shop(
    shop: ShopInputs, bounds: CheckBounds, forms: TextForms, report: Report = lambda line: None
) -> ShopCheck:
    """Look at every file and row of a shop.

    Args:
        report: is told how far it is.
    """
    layout = look_at_layout(shop)
    check = ShopCheck(shop.root, faults=list(layout.faults), warnings=list(layout.warnings))
    column_faults, check.casts = look_at_columns(layout, lines=None)
    check.faults += column_faults
    unreadable = {fault.file for fault in column_faults}
    repeated = RepeatedFaults()
    with open_figures(forms) as figures:
        _Reading(check, layout, bounds, figures, repeated, unreadable, report).read(shop)
    check.faults += repeated.faults()
    judge_figures(check, layout, bounds)
    return check


@dataclass(slots=True)
class _Reading:
    """One reading of a shop."""

    check: ShopCheck
    layout: Layout
    bounds: CheckBounds
    figures: ShopFigures
    repeated: RepeatedFaults
    unreadable: set[Path]
    """Files that are not read, as their columns do not fit."""
    report: Report

    def read(self, shop: ShopInputs) -> None:
        check, figures = self.check, self.figures
        items = self._files("items", self.layout.items)
        check.items = figures.read_items(items, self.repeated.add)
        self._note_casts("items", items)
        self.report(f"{check.items.rows:,} items")
        for day, files in self.layout.days.items():
            of_day = self._files("click_log", files)
            check.days.append(figures.read_day(day, of_day, self.bounds.clicks, self.repeated.add))
            self._note_casts("click_log", of_day)
            self.report(f"{day}: {check.days[-1].rows:,} events")
        if check.days:
            self._sum_up()
        if self.layout.judgments and self.layout.judgments not in self.unreadable:
            file = DeliveredFile(self.layout.judgments, load_contract("judgments"), self.layout.zone)
            check.judgments = figures.read_judgments(file, self.repeated.add)
            self._note_casts("judgments", [file])
        self._look_at_pictures(shop)

    def _sum_up(self) -> None:
        check, figures, items = self.check, self.figures, self.check.items
        last = check.days[-1].day
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

    def _files(self, table: str, files: list[Path]) -> list[DeliveredFile]:
        contract = load_contract(table)
        return [DeliveredFile(file, contract, self.layout.zone) for file in files if file not in self.unreadable]

    def _note_casts(self, table: str, files: list[DeliveredFile]) -> None:
        """Of JSON lines, whose columns are known once they are read."""
        for phrase in dict.fromkeys(c for f in files if is_json_lines(f.file) for c in f.casts):
            if f"{table}: {phrase}" not in self.check.casts:
                self.check.casts.append(f"{table}: {phrase}")

    def _look_at_pictures(self, shop: ShopInputs) -> None:
        check, settings = self.check, self.bounds.pictures
        try:
            store = shop.pictures()
            with store.opened(maximum_bytes=settings.maximum_bytes):
                pass
        except InputError:
            return  # told with the layout
        if isinstance(store.place, Path):
            check.missing_pictures = self.figures.pictures_not_in(_names_in(store.place))
        failed: dict[str, tuple[str, str]] = {}
        sample = self.figures.sample_pictures(SAMPLED_PICTURES, by_url=False)
        with store.opened(maximum_bytes=settings.maximum_bytes) as read:
            for name in sample:
                try:
                    decode_picture(read(name), (settings.width, settings.height))
                except UnusablePicture as error:
                    failed[name] = (error.reason, error.detail)
                except OSError as error:
                    failed[name] = ("unreadable", str(error))
        if self.bounds.fetch:
            urls = self.figures.sample_pictures(SAMPLED_PICTURES, by_url=True)
            failed |= fetch_pictures(urls, settings, self.report)
            sample += urls
            for url in urls:
                if url not in failed and not fetched_path(fetched_folder(), url).is_file():
                    failed[url] = ("unreachable", "not fetched")
        check.opened_pictures, check.usable_pictures = len(sample), len(sample) - len(failed)
        for name, (reason, _) in failed.items():
            count, example = check.broken_pictures.get(reason, (0, name))
            check.broken_pictures[reason] = (count + 1, example)


def _names_in(place: Path) -> Iterator[list[str]]:
    """Names of pictures in a folder or a zip, some at a time."""
    if place.is_file():
        with zipfile.ZipFile(place) as archive:
            yield archive.namelist()
        return
    met: set[str] = set()
    for folder, inner, names in os.walk(place, followlinks=True):
        real = os.path.realpath(folder)
        if real in met:
            inner.clear()
            continue
        met.add(real)
        below = Path(folder).relative_to(place).as_posix()
        paths = (name if below == "." else f"{below}/{name}" for name in names)
        yield [path.encode("utf-8", "replace").decode() for path in paths]
