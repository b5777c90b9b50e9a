"""Importer of a click log by User Behavior Insights: queries and events, joined by `query_id`.

1. Every record is put down under its query, in the order of time.
2. A query's events get the text of the query record before them, unless they bring one themselves.
3. What was shown: the impressions among the events; where a search has none, the list that the engine returned; where
   there is none either, an item acted on counts as shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from smar_model.errors import InputError
from smar_model.shop.importers.delivered_files import delivered_files
from smar_model.shop.importers.event_fields import ItemIdPattern, id_of, microseconds, text_of, time_at, time_of
from smar_model.shop.importers.item_ids import has_lost_digits
from smar_model.shop.importers.record_balance import RecordBalance
from smar_model.shop.importers.spooled_records import SpooledRecords
from smar_model.shop.importers.ubi_records import IdField, Meaning, Record, action_key, read_records
from smar_model.shop.shop_writer import ShopWriter

SOURCE = "ubi"
ENDINGS = (".ndjson", ".jsonl", ".json")
MOST_OF_A_SEARCH = 200_000
"""Records under one `query_id` that are read: a tracker that gives all searches one id tells none apart."""
SHOWN_BEFORE = 30_000_000
"""Microseconds before an action at which its item counts as shown, where nothing tells: the cleaning takes clicks
right after their impression for a bot's."""
Shown = Literal["auto", "events", "hits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UbiOptions:
    actions: dict[str, Meaning]
    item_ids: ItemIdPattern
    id_field: IdField = "object_id"
    positions_from: int | None = None
    """0 or 1; None: found for each application by its lowest place."""
    shown: Shown = "auto"
    """Where impressions come from: `auto` as in the module's third step."""


class _Query(NamedTuple):
    time: int
    """Microseconds since 1970; 0 where the record names none."""
    text: str | None
    hits: list[str]
    shopper: str | None
    where: str


class _Event(NamedTuple):
    time: int
    kind: str
    item_id: str
    place: int | None
    session: str | None
    shopper: str | None
    text: str | None
    application: str
    where: str


@dataclass(slots=True)
class _Search:
    """A list shown for a text."""

    request_id: str
    text: str
    shopper: str | None
    time: int
    hits: list[str] = field(default_factory=list)
    events: list[_Event] = field(default_factory=list)


def import_ubi(paths: Sequence[Path], writer: ShopWriter, options: UbiOptions) -> None:
    """Add the events of the searches in files and folders.

    Raises:
        InputError: a file is missing or damaged, or none of them has a record of UBI.
    """
    files = writer.files = delivered_files(paths, ENDINGS)
    balance = RecordBalance(writer)
    with SpooledRecords(writer.scratch) as spool:
        lowest = _put_down(files, spool, balance, options)
        if not lowest.met:
            line = balance.line({"queries": "used", "events": "added", "lines": "used"})
            raise InputError(
                f"{files[0]}: no record of UBI (a query with user_query, an event with action_name); {line}"
            )
        importer = _Searches(writer, balance, options, lowest.places)
        for query_id, records in spool.groups():
            importer.add(query_id, records)
    writer.note(balance.line({"queries": "used", "events": "added", "lines": "used"}))


@dataclass(slots=True)
class _Met:
    met: bool = False
    places: dict[str, int] = field(default_factory=dict)
    """Lowest place by application."""


def _put_down(files: Sequence[Path], spool: SpooledRecords, balance: RecordBalance, options: UbiOptions) -> _Met:
    found = _Met()
    for record in read_records(files):
        kind = "lines" if isinstance(record, str) else record.kind
        balance.read(kind)
        if isinstance(record, str):
            balance.leave_out(kind, "lines that are no JSON object", record)
        elif kind == "lines":
            balance.leave_out(kind, "records that are neither a query nor an event", record.where)
        else:
            found.met = True
            (_put_query if kind == "queries" else _put_event)(record, spool, balance, options, found)
    return found


def _put_query(record: Record, spool: SpooledRecords, balance: RecordBalance, options: UbiOptions, _: _Met) -> None:
    query_id = id_of(record.fields.get("query_id"))
    if query_id is None:
        balance.leave_out("queries", "queries without a query_id", record.where)
        return
    time = time_of(record.fields.get("timestamp"))
    at = microseconds(time) if time else 0
    text = text_of(record.fields.get("user_query"))
    hits = [item for hit in record.hits(options.id_field) or [] if (item := options.item_ids.item_id(hit))]
    if mangled := sum(map(has_lost_digits, hits)):
        reason = "ids in the lists of queries whose last digits a spreadsheet has dropped"
        balance.leave_out("hits", reason, record.where, mangled)
        hits = [item for item in hits if not has_lost_digits(item)]
    spool.add(query_id, 4 * at, ["query", *_Query(at, text, hits, record.shopper(), record.where)])


def _put_event(record: Record, spool: SpooledRecords, balance: RecordBalance, options: UbiOptions, found: _Met) -> None:
    action, where = str(record.fields["action_name"]), record.where
    query_id, time = id_of(record.fields.get("query_id")), time_of(record.fields.get("timestamp"))
    meaning = options.actions.get(action_key(action), "ignore")
    if query_id and (told := record.told_query()):
        at = microseconds(time) if time else 0
        spool.add(query_id, 4 * at + 1, ["told", at, told, [], record.shopper(), where])
    item_id = options.item_ids.item_id(record.item_id(options.id_field))
    place = record.place()
    if meaning == "ignore":
        reason = "events of action {}, no item shown or acted on (unless --actions says so)"
        balance.leave_out_named("events", reason, action[:60], where, else_reason="events of further actions")
    elif query_id is None:
        balance.leave_out("events", "events without a query_id: they belong to no search", where)
    elif time is None:
        balance.leave_out("events", "events whose timestamp is missing or is no time", where)
    elif item_id is not None and has_lost_digits(item_id):
        reason = "events with an item id whose last digits a spreadsheet has dropped"
        balance.leave_out("events", reason, f"{where}: {item_id!r}")
    elif item_id is None:
        balance.leave_out_named(
            "events",
            "events of action {} that name no item",
            action[:60],
            where,
            else_reason="events that name no item",
        )
    else:
        if place is not None and place >= 0:
            found.places[record.application] = min(place, found.places.get(record.application, place))
        text = text_of(record.fields.get("user_query"))
        at = microseconds(time)
        event = _Event(at, meaning, item_id, place, record.session(), record.shopper(), text, record.application, where)
        spool.add(query_id, 4 * at + (2 if meaning == "impression" else 3), ["event", *event])


class _Searches:
    """Adds the events of one query after another."""

    def __init__(self, writer: ShopWriter, balance: RecordBalance, options: UbiOptions, lowest: dict[str, int]) -> None:
        self._writer, self._balance, self._options = writer, balance, options
        self._first = {name: min(place, 1) for name, place in lowest.items()}
        if options.positions_from is not None:
            self._first = dict.fromkeys(self._first, options.positions_from)

    def add(self, query_id: str, records: Iterator[list[Any]]) -> None:
        queries, told, events = [], [], []
        for kind, *values in islice(records, MOST_OF_A_SEARCH):
            match kind:
                case "query":
                    queries.append(_Query(*values))
                case "told":
                    told.append(_Query(*values))
                case _:
                    events.append(_Event(*values))
        for kind, *values in records:
            if kind != "told":
                reason = f"records of a query_id with over {MOST_OF_A_SEARCH:,} of them"
                self._balance.leave_out("queries" if kind == "query" else "events", reason, values[-1])
        searches = self._searches(query_id, queries, told, events)
        added = {search.text for search in searches if self._add_search(search)}
        for query in queries:
            if query.text in added or (query.text is None and added):
                self._balance.use("queries")
            else:
                reason = "queries without an event of an item, and without a list of what was found at a time"
                self._balance.leave_out("queries", reason, query.where)

    def _searches(
        self, query_id: str, queries: list[_Query], told: list[_Query], events: list[_Event]
    ) -> list[_Search]:
        """Several, where a query's id was used for more than one text."""
        searches: dict[str, _Search] = {}
        texts = [query for query in queries if query.text is not None] or told

        def search_of(text: str, query: _Query | None, time: int) -> _Search:
            if text not in searches:
                request_id = f"{query_id}/{len(searches) + 1}" if searches else query_id
                searches[text] = _Search(request_id, text, query and query.shopper, time)
            return searches[text]

        for query in queries:
            if query.text and query.text.strip():
                search = search_of(query.text, query, query.time)
                if len(query.hits) > len(search.hits):
                    search.hits, search.time = query.hits, query.time or search.time
        for event in events:
            before = [query for query in texts if query.time <= event.time]
            teller = before[-1] if before else texts[0] if texts else None
            text = event.text if event.text is not None else teller.text if teller else None
            if text is None:
                self._balance.leave_out("events", "events whose query_id no query has", event.where)
            elif not text.strip():
                self._balance.leave_out("events", "events of a search without words", event.where)
            else:
                search_of(text, teller, teller.time if teller else 0).events.append(event)
        return list(searches.values())

    def _add_search(self, search: _Search) -> bool:
        impressions = [event for event in search.events if event.kind == "impression"]
        actions = [event for event in search.events if event.kind != "impression"]
        if impressions and self._options.shown == "hits":
            for event in impressions:
                reason = "impressions, as --shown hits reads what was shown from the lists of the queries"
                self._balance.leave_out("events", reason, event.where)
            impressions = []
        shown: dict[str, int] = {}
        for event in impressions:
            place = self._place(event)
            if place is None:
                self._writer.change("impressions without a place, numbered as they came", event.where)
                place = len(shown) + 1
            shown.setdefault(event.item_id, place)
            self._add_event(search, event, place)
        if not impressions and self._options.shown != "events":
            shown = self._show_hits(search, actions)
        is_listed = bool(shown)
        for event in actions:
            place = self._place(event)
            if place is None:
                place = shown.get(event.item_id, 1)
                self._writer.change("actions without a place: that of their impression, else 1", event.where)
            if not is_listed and event.item_id not in shown:
                shown[event.item_id] = place
                self._writer.change("impressions made of actions, where nothing tells what was shown", event.where)
                self._add(search, event, "impression", event.time - SHOWN_BEFORE, place)
            self._add_event(search, event, place)
        return bool(shown or actions)

    def _show_hits(self, search: _Search, actions: list[_Event]) -> dict[str, int]:
        """Add the list that the engine returned as impressions; item → place."""
        times = [action.time for action in actions]
        time = (
            min([search.time, *(at - 1_000_000 for at in times)])
            if search.time
            else min(times, default=0) - SHOWN_BEFORE
        )
        if time <= 0 or not search.hits:
            return {}
        shown: dict[str, int] = {}
        by = actions[0] if actions else None
        for place, item_id in enumerate(search.hits, start=1):
            if item_id not in shown:
                shown[item_id] = place
                self._add(search, by, "impression", time, place, item_id)
        self._writer.change("impressions made of the lists that queries returned", search.request_id, count=len(shown))
        return shown

    def _place(self, event: _Event) -> int | None:
        """From 1."""
        first = self._first.get(event.application, 1)
        if event.place is None or event.place < first:
            return None
        if first == 0:
            name = f" of application {event.application[:60]!r}" if event.application else ""
            self._writer.change(f"places{name} counted from 0, so that 1 was added", event.where)
        return event.place + 1 - first

    def _add_event(self, search: _Search, event: _Event, place: int) -> None:
        self._balance.use("events")
        self._add(search, event, event.kind, event.time, place)

    def _add(
        self, search: _Search, event: _Event | None, kind: str, time: int, place: int, item_id: str | None = None
    ) -> None:
        shopper = (event and event.shopper) or search.shopper or (event and event.session)
        if shopper is None:
            self._writer.change("searches whose shopper nobody names, each a shopper of its own", search.request_id)
            shopper = search.request_id
        self._writer.add_event(
            time_at(time),
            event=kind,
            request_id=search.request_id,
            session_id=(event and event.session) or shopper,
            user_id=shopper,
            query=search.text,
            item_id=item_id or (event.item_id if event else None),
            position=place,
        )
