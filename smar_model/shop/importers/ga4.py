"""Importer of a click log by Google Analytics 4, from its BigQuery export.

1. Events are put down by session (`user_pseudo_id` and `ga_session_id`), in the order of time.
2. `view_search_results`, or any event with a `search_term` of its own, begins a search; what the session does next is its.
3. `view_item_list` shows its items, `select_item` is a click. A cart or an order counts for the latest search of the
   session that had shown the item.

`event_date` names the table that a row is of: importing a day's table again replaces that day, and no other, in whatever
days of UTC its events lie. A row without one is of the table of its file's other rows, or of its day of UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from smar_model.errors import InputError
from smar_model.shop.importers.delivered_files import delivered_files
from smar_model.shop.importers.event_fields import ItemIdPattern, time_at
from smar_model.shop.importers.ga4_records import (
    CART,
    LIST,
    ORDER,
    READ,
    SEARCH,
    SELECT,
    VIEW,
    Ga4Event,
    OtherEvents,
    read_events,
)  # fmt: skip
from smar_model.shop.importers.record_balance import RecordBalance
from smar_model.shop.importers.spooled_records import SpooledRecords
from smar_model.shop.importers.ubi import SHOWN_BEFORE
from smar_model.shop.shop_writer import ShopWriter

SOURCE = "ga4"
ENDINGS = (".parquet", ".json", ".jsonl", ".ndjson")
_KINDS = {SELECT: "click", VIEW: "click", CART: "cart", ORDER: "order"}
_SEARCH_LIST = re.compile("search", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ga4Options:
    item_ids: ItemIdPattern
    search_lists: re.Pattern[str] | None = None
    """Of the names of lists that are search results; None: those with "search" in them, or all where none has."""
    positions_from: int | None = None
    """0 or 1; None: found by the lowest `item_list_index`."""
    views_are_clicks: bool = False


def search_list_pattern(pattern: str | None) -> re.Pattern[str] | None:
    """Raises InputError where it is no regular expression."""
    try:
        return re.compile(pattern, re.IGNORECASE) if pattern is not None else None
    except re.error as error:
        raise InputError(f"--search-lists {pattern!r}: no regular expression ({error})") from None


class _Item(NamedTuple):
    item_id: str
    place: int | None
    list_name: str


class _Event(NamedTuple):
    name: str
    time: int
    date: str | None
    shopper: str
    session: str
    term: str | None
    items: list[_Item]
    file: int
    """Number of its file."""
    where: str


@dataclass(slots=True)
class _Search:
    text: str
    time: int
    shopper: str
    session: str
    shown: dict[str, int] = field(default_factory=dict)
    """Item → place from 1."""
    is_listed: bool = False
    """Whether an event told what was shown."""

    @property
    def request_id(self) -> str:
        return f"{self.session}.{self.time}"


def import_ga4(paths: Sequence[Path], writer: ShopWriter, options: Ga4Options) -> None:
    """Add the events of the searches in files and folders.

    Raises:
        InputError: a file is missing or damaged, or none of them has an event that is read.
    """
    files = writer.files = delivered_files(paths, ENDINGS)
    balance = RecordBalance(writer)
    with SpooledRecords(writer.scratch) as spool:
        met = _put_down(files, spool, balance, options)
        if not met.read:
            found = balance.line({"events": "used", "lines": "used"})
            raise InputError(f"{files[0]}: no event of GA4's export that is read ({', '.join(READ)}); {found}")
        sessions = _Sessions(writer, balance, options, met)
        for _, records in spool.groups():
            sessions.add(records)
    if met.has_search_list:
        writer.note("lists read as search results: those with 'search' in their name (--search-lists names others)")
    writer.note(balance.line({"events": "used", "lines": "used"}))


@dataclass(slots=True)
class _Met:
    read: bool = False
    lowest: int | None = None
    """`item_list_index` over all lists."""
    dates: dict[int, set[str]] = field(default_factory=dict)
    """What the rows of a file, by its number, have as `event_date`; two at most are kept."""
    has_search_list: bool = False
    """Whether a list has "search" in its name, and no option says which are search results."""


def _put_down(files: Sequence[Path], spool: SpooledRecords, balance: RecordBalance, options: Ga4Options) -> _Met:
    met = _Met()
    for number, path in enumerate(files):
        dates = met.dates.setdefault(number, set())
        for event in read_events(path):
            if isinstance(event, OtherEvents):
                _leave_other(event, balance)
                continue
            balance.read("events")
            met.read = True
            if event.date and len(dates) < 2:
                dates.add(event.date)
            if event.mangled:
                reason = "items of events with an item_id whose last digits a spreadsheet has dropped"
                balance.leave_out("items", reason, event.where, event.mangled)
            if event.nameless:
                balance.leave_out("items", "items of events without an item_id", event.where, event.nameless)
            if event.time is None:
                balance.leave_out("events", "events whose event_timestamp is missing or is no time", event.where)
            elif event.shopper is None or event.session is None:
                reason = "events without user_pseudo_id or ga_session_id (no consent?): they belong to no session"
                balance.leave_out("events", reason, event.where)
            elif event.name == VIEW and not options.views_are_clicks:
                reason = "view_item events: a page may be reached without a search (--view-item click reads them)"
                balance.leave_out("events", reason, event.where)
            else:
                _put_event(event, event.time, f"{event.shopper}.{event.session}", number, spool, met, options)
    return met


def _put_event(
    event: Ga4Event, time: int, session: str, file: int, spool: SpooledRecords, met: _Met, options: Ga4Options
) -> None:
    if event.name in (LIST, SEARCH):
        places = [item.place for item in event.items if item.place is not None and item.place >= 0]
        met.lowest = min([*places, *([] if met.lowest is None else [met.lowest])], default=None)
        if options.search_lists is None:
            met.has_search_list |= any(_SEARCH_LIST.search(item.list_name) for item in event.items)
    items = [[options.item_ids.item_id(item.item_id), item.place, item.list_name] for item in event.items]
    spool.add(
        session,
        len(READ) * time + READ.index(event.name),
        [event.name, time, event.date, event.shopper, session, event.term, items, file, event.where],
    )


def _leave_other(event: OtherEvents, balance: RecordBalance) -> None:
    kind = "events" if event.name else "lines"
    balance.read(kind, event.count)
    if event.name:
        reason = "events of {}, which is no search and no item shown or acted on"
        balance.leave_out_named(
            kind, reason, event.name[:60], event.where, else_reason="events of further names", count=event.count
        )
    else:
        balance.leave_out(kind, "lines without an event_name", event.where, event.count)


class _Sessions:
    """Adds the events of one session after another."""

    def __init__(self, writer: ShopWriter, balance: RecordBalance, options: Ga4Options, met: _Met) -> None:
        self._writer, self._balance, self._options = writer, balance, options
        self._dates = met.dates
        self._lists = _SEARCH_LIST if met.has_search_list else options.search_lists
        lowest = met.lowest if options.positions_from is None else options.positions_from
        self._first = 1 if lowest is None else min(lowest, 1)

    def add(self, records: Iterator[list[Any]]) -> None:
        search: _Search | None = None
        shown_by: dict[str, _Search] = {}
        """Item → the latest search of the session that has shown it."""
        for name, time, date, shopper, session, term, items, file, where in self._once(records):
            event = _Event(name, time, date, shopper, session, term, [_Item(*item) for item in items], file, where)
            event = event._replace(date=self._date(event))
            if term and term.strip() and (search is None or search.text != term):
                search = _Search(term, time, shopper, session)
            if name in (LIST, SEARCH):
                self._add_list(event, search, shown_by)
            else:
                self._add_actions(event, search, shown_by)

    def _once(self, records: Iterator[list[Any]]) -> Iterator[list[Any]]:
        """Without events that stand twice, as where a day's table is given in two files."""
        moment = -1
        met: set[str] = set()
        for record in records:
            if record[1] != moment:
                moment, met = record[1], set()
            same = repr((record[0], record[5], record[6]))
            if same in met:
                self._balance.leave_out("events", "events that stand there twice, to the microsecond", record[-1])
                continue
            met.add(same)
            yield record

    def _date(self, event: _Event) -> str:
        """The table that an event is of."""
        if event.date:
            return event.date
        self._writer.change(
            "events without an event_date: that of their file's others, else their day of UTC", event.where
        )
        dates = self._dates[event.file]
        return next(iter(dates)) if len(dates) == 1 else f"{time_at(event.time):%Y%m%d}"

    def _add_list(self, event: _Event, search: _Search | None, shown_by: dict[str, _Search]) -> None:
        if event.name == SEARCH and not event.items:
            if event.term and event.term.strip():
                self._balance.use("events")
            else:
                self._balance.leave_out("events", "view_search_results without a search_term", event.where)
            return
        listed = self._of_search_lists(event)
        if search is None:
            self._balance.leave_out("events", "lists shown before any search of their session", event.where)
        elif not listed:
            self._leave_other_list(event)
        else:
            self._balance.use("events")
            search.is_listed = True
            for number, item in enumerate(listed, start=1):
                if item.item_id in search.shown:
                    self._writer.leave_out("impressions of items that their search had shown already", event.where)
                    continue
                place = self._place(item, event.where)
                if place is None:
                    self._writer.change(
                        "items of lists without an item_list_index, numbered as they stand", event.where
                    )
                    place = number
                search.shown[item.item_id] = place
                shown_by[item.item_id] = search
                self._add(event, search, "impression", item.item_id, place)

    def _add_actions(self, event: _Event, search: _Search | None, shown_by: dict[str, _Search]) -> None:
        added = 0
        items = self._of_search_lists(event) if event.name == SELECT else event.items
        for item in items:
            by = shown_by.get(item.item_id)
            if by is None and event.name == SELECT and search is not None:
                by = search
                place = self._place(item, event.where) or 1
                if not search.is_listed:
                    self._writer.change("impressions made of clicks, where no list tells what was shown", event.where)
                    self._add(event, by, "impression", item.item_id, place, time=event.time - SHOWN_BEFORE)
                    by.shown[item.item_id] = place
                    shown_by[item.item_id] = by
            if by is not None:
                place = by.shown.get(item.item_id) or self._place(item, event.where) or 1
                self._add(event, by, _KINDS[event.name], item.item_id, place)
                added += 1
            else:
                self._writer.leave_out(f"items of {event.name} that no search of the session had shown", event.where)
        if added:
            self._balance.use("events")
        elif items or not event.items:
            reason = f"{event.name} events of no item that a search of the session had shown"
            self._balance.leave_out("events", reason, event.where)
        else:
            self._leave_other_list(event)

    def _of_search_lists(self, event: _Event) -> list[_Item]:
        """Items in lists that are search results; all of an event with a term of its own."""
        if self._lists is None or (event.term and event.term.strip()):
            return event.items
        return [item for item in event.items if not item.list_name or self._lists.search(item.list_name)]

    def _leave_other_list(self, event: _Event) -> None:
        name = event.items[0].list_name[:60] if event.items else ""
        if not name:
            self._balance.leave_out("events", f"{event.name} events without items", event.where)
            return
        reason = f"{event.name} events of the list {{}}, which is no search result"
        self._balance.leave_out_named(
            "events", reason, name, event.where, else_reason="events of further lists that are no search results"
        )

    def _place(self, item: _Item, where: str) -> int | None:
        """From 1."""
        if item.place is None or item.place < self._first:
            return None
        if self._first == 0:
            self._writer.change("values of item_list_index counted from 0, so that 1 was added", where)
        return item.place + 1 - self._first

    def _add(
        self, event: _Event, search: _Search, kind: str, item_id: str, place: int, *, time: int | None = None
    ) -> None:
        self._writer.add_event(
            time_at(event.time if time is None else time),
            event=kind,
            request_id=search.request_id,
            session_id=search.session,
            user_id=search.shopper,
            query=search.text,
            item_id=item_id,
            position=place,
            delivery=event.date,
        )
