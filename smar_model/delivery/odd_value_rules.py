"""What values that no rule refuses, and that hardly anybody means, say to a person: things to look at."""

from __future__ import annotations

from smar_model.delivery.check_records import CheckBounds, ShopCheck
from smar_model.delivery.delivery_faults import Fault
from smar_model.delivery.delivery_figures import FilePositions, Oddity
from smar_model.delivery.shop_layout import Layout
from smar_model.lake.object_paths import AnyPath, is_below, name_below

_LOST_VALUE = "leave a value empty that is not known (in pandas, fill it in before `astype(str)`)"
_LETTERS = "read the export as what it is (UTF-8), and save it as UTF-8"
_PLAIN = "write plain text: without tags, with `&` for `&amp;`"
ITEMS = {
    "future_time": (
        "an updated_at in the future",
        "look at the clock, or at how days are written: no run trains on them",
    ),
    "time_of_1970": ("an updated_at in 1970", "seconds or milliseconds taken for another unit?"),
    "id_of_a_spreadsheet": (
        "an item_id as spreadsheets write long numbers",
        "format the column as text before it is exported: digits are lost",
    ),
    "id_with_a_fraction": ("an item_id with a fraction", "write ids as text or whole numbers, as the log does"),
    "markup": ("a title with HTML", _PLAIN),
    "mojibake": ("a title whose letters were read in another encoding", _LETTERS),
    "hidden": ("a title with control characters", "take them out; the model does not see them"),
    "separator": ("a category without `>` and with another sign in its place", "write paths as `Apparel > Shirts`"),
    "no_value_title": ("a title that stands for none", _LOST_VALUE),
    "no_value_category": ("a category that stands for none", _LOST_VALUE),
    "no_value_brand": ("a brand that stands for none", _LOST_VALUE),
    "spaces": ("an item_id that is another item's but for blanks at its ends", "write ids without them"),
    "bad_price": (
        "a negative or infinite price, which is left empty",
        "write what the item costs, or nothing: such items are found by no filter by price",
    ),
    "bad_currency": (
        "a currency that is no ISO 4217 code, which is left empty",
        "write three letters, as EUR",
    ),
    "several_currencies": (
        "a price in another currency than the most common one",
        "deliver one currency if that is not meant: with several a filter must name its own, as price<50EUR",
    ),
    "no_currency": (
        "a price without a currency, where others name one",
        "write it: a price without one is taken to be in the only currency that there is, and where there are several no filter by price finds it",
    ),
    "one_title": ("one and the same title", "see whether `title` is the right column"),
}
"""Name of an oddity → what so many items have, and what to do."""
EVENTS = {
    "time_of_1970": ("an event_time in 1970", "seconds or milliseconds taken for another unit?"),
    "spaces": ("an item_id that the catalogue has without blanks at its ends", "write ids as the catalogue does"),
    "encoded_query": ("a query that is encoded as in URLs", "decode it: `red%20shirt` is `red shirt`"),
    "markup_query": ("a query with HTML", _PLAIN),
    "mojibake_query": ("a query whose letters were read in another encoding", _LETTERS),
    "no_value_request_id": (
        "a request_id that stands for none",
        "give each request its id: those under one id are one",
    ),
    "no_value_session_id": (
        "a session_id that stands for none",
        "give each session its id: those under one id are one",
    ),
    "no_value_user_id": (
        "a user_id that stands for none",
        "write another id for each shopper: those under one id are one",
    ),
    "no_value_query": ("a query that stands for none", _LOST_VALUE),
}
"""Likewise of events."""


def judge_odd_values(check: ShopCheck, layout: Layout, bounds: CheckBounds) -> None:
    """Add to a check what its odd values say."""
    items, log = check.items, check.root / "click_log"
    if items and layout.items:
        place = layout.items[0] if len(layout.items) == 1 else layout.items[0].parent
        for name, odd in items.oddities.items():
            what, mend = ITEMS[name]
            check.warnings.append(Fault(place, f"{_of(odd, items.rows)} items have {what}, {_as(odd, place)}", mend))
    rows = sum(day.rows for day in check.days)
    odd_ones: dict[str, Oddity] = {}
    for day in check.days:
        for name, odd in day.oddities.items():
            odd_ones[name] = odd_ones[name].with_more(odd) if name in odd_ones else odd
    if several := odd_ones.pop("several_queries", None):
        found = f"{_of(several, sum(day.requests for day in check.days))} request_ids have several queries, {_as(several, log)}"
        mend = "a request is one list of results: give each an id of its own, not the session's"
        check.warnings.append(Fault(log, found, mend))
    for name, odd in odd_ones.items():
        what, mend = EVENTS[name]
        check.warnings.append(Fault(log, f"{_of(odd, rows)} events have {what}, {_as(odd, log)}", mend))
    _judge_positions(check, log)
    _judge_pictures(check, bounds)


def _of(odd: Oddity, whole: int) -> str:
    return f"{odd.rows:,} of {whole:,} ({odd.rows / max(1, whole):.1%})"


def _as(odd: Oddity, place: AnyPath) -> str:
    inside = (
        f" in {name_below(odd.file, place)}" if odd.file and is_below(odd.file, place) and odd.file != place else ""
    )
    return f"as {odd.example[:80]!r}{inside}"


def _judge_positions(check: ShopCheck, log: AnyPath) -> None:
    files: list[FilePositions] = [file for day in check.days for file in day.positions if file.lowest is not None]
    from_0 = [file for file in files if file.count_from_0]
    if not from_0:
        return
    if len(from_0) == len(files):
        check.faults.append(Fault(log, "positions count from 0 in all files: the top of each list is lost", "add 1"))
    else:
        found = f"positions count from 0 in {len(from_0):,} of {len(files):,} files"
        check.warnings.append(Fault(from_0[0].file, found, "add 1: the top of each list is lost"))


def _judge_pictures(check: ShopCheck, bounds: CheckBounds) -> None:
    place, bound = check.root / "pictures", bounds.pictures.shared_by_items
    setting = f"more than {bound} items (settings.pictures.shared_by_items)"
    names, most, example = check.shared_pictures
    if names:
        found = f"{names:,} pictures are listed by {setting} each, as {example[:80]!r} by {most:,}"
        check.warnings.append(Fault(place, found, "it says nothing of an item: leave placeholders out of `images`"))
    alike, example = check.alike_pictures
    listed = check.items.pictures - check.items.by_url if check.items else 0
    if alike > 2 and alike * listed > bound * max(1, check.opened_pictures):
        found = f"{alike:,} of {check.opened_pictures:,} sampled pictures are one and the same, as {example[:80]!r}, so that {setting} have it"
        check.warnings.append(Fault(place, found, "it says nothing of an item: leave placeholders out of `images`"))
    plain, example = check.one_colour_pictures
    if plain:
        found = f"{plain:,} of {check.opened_pictures:,} sampled pictures are of nearly one colour, as {example[:80]!r}"
        check.warnings.append(Fault(place, found, "nothing can be seen on them: leave them out of `images`"))
