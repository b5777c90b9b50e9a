"""What the figures of a delivery mean for a run: which of them would end it, and which a person should look at."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from statistics import median

from smar_model.checks.run_checks import JUDGED_FROM
from smar_model.delivery.check_records import CheckBounds, ShopCheck
from smar_model.delivery.delivery_faults import Fault
from smar_model.delivery.delivery_figures import DayFigures, Reason
from smar_model.delivery.json_lines import is_json_lines
from smar_model.delivery.picture_findings import FILES, NAMES
from smar_model.delivery.shop_layout import Layout
from smar_model.lake.object_paths import AnyPath
from smar_model.settings import Window

MENDING = {
    "no_item_id": "give each item its id",
    "no_title": "write a title; NaN and white space are none",
    "long_item_id": "an id has at most 256 bytes",
    "long_title": "a title has at most 1,000 characters",
    "no_category": "write a category, as `Apparel > Shirts`",
    "long_category": "a category has at most 1,000 characters",
    "long_brand": "a brand has at most 1,000 characters",
    "long_attributes": "attributes have at most 100,000 characters",
    "no_updated_at": "write when the row last changed",
    "bad_updated_at": "a time lies in the years 1 to 9999",
    "duplicate_item": "write each item once; of its rows the newest counts",
    "null_field": "fill in these columns",
    "unknown_event": "the kinds are impression, click, cart, order: rename yours",
    "bad_position": "the top is 1: if yours begin at 0, add 1",
    "empty_query": "leave out what was not searched for",
    "long_query": "a query has at most 500 characters",
    "wrong_day": "file each event under the day of its event_time in UTC",
    "duplicate_event": "write each event once",
    "replayed_event": "write each event once",
    "bot_rate": "no shopper asks so often; see settings.clicks",
    "bot_no_dwell": "no shopper clicks so soon",
    "bot_impossible": "sessions with five clicks or more of what was never shown, as robots click: log an impression for each item that a request shows, under the request_id of the click",
    "action_without_impression": "log an impression for each item that a request shows, under the request_id of the click",
    "action_before_impression": "an item is shown before it is clicked: look at the clocks",
    "unknown_item": "deliver the catalogue that holds these items, with the same ids",
}
"""Reason of the quarantine → how to mend it."""
PART_OF_CATALOGUE = "part of the catalogue cannot be read: mend that first"
_REPEATS = ("duplicate_event", "replayed_event")


def judge_figures(check: ShopCheck, layout: Layout, bounds: CheckBounds) -> None:
    """Add to a check what its figures say."""
    _judge_items(check, layout, bounds)
    if check.days:
        _judge_log(check, bounds)
        _judge_days(check, bounds)
        _judge_volume(check, bounds)
    _judge_judgments(check, layout)
    _judge_pictures(check, bounds)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _reasons(reasons: list[Reason]) -> str:
    return ", ".join(f"{reason.name} {reason.rows:,} (as {shown(reason)})" for reason in reasons)


def shown(reason: Reason) -> str:
    """A reason's example, and the file that it is in."""
    return f"{reason.example[:80]!r}" + (f" in {reason.file.name}" if reason.file else "")


def reasons_of_log(check: ShopCheck) -> list[Reason]:
    """Reasons of all days, each once. Without a catalogue, which is a fault of its own, that an item is unknown says nothing."""
    sums: dict[str, Reason] = {}
    for day in check.days:
        for reason in day.reasons:
            if reason.name == "unknown_item" and not check.has_catalogue:
                continue
            before = sums.get(reason.name)
            details = {detail.name: detail for detail in (before.details if before else ())}
            for detail in reason.details:
                known = details.get(detail.name)
                details[detail.name] = replace(known, rows=known.rows + detail.rows) if known else detail
            rows = reason.rows + (before.rows if before else 0)
            sums[reason.name] = replace(
                before or reason, rows=rows, details=tuple(sorted(details.values(), key=lambda d: -d.rows))
            )
    return sorted(sums.values(), key=lambda reason: -reason.rows)


def _advice(reasons: list[Reason]) -> str:
    return "; ".join(f"{reason.name}: {MENDING.get(reason.name, 'see docs')}" for reason in reasons[:3])


def _judge_items(check: ShopCheck, layout: Layout, bounds: CheckBounds) -> None:
    items = check.items
    if items is None or not layout.items:
        return
    place = layout.items[0] if len(layout.items) == 1 else layout.items[0].parent
    if not items.rows:
        if not any(fault.file in layout.items for fault in check.faults):
            check.faults.append(Fault(place, "holds no row", "deliver the catalogue"))
        return
    reasons = [r for r in items.reasons if r.name != "no_updated_at" or r.rows > check.refused_times]
    unused = sum(reason.rows for reason in reasons)
    if _share(unused, items.rows) > bounds.checks.maximum_quarantined:
        found = (
            f"{unused:,} of {items.rows:,} items would end in quarantine, more than "
            f"{bounds.checks.maximum_quarantined:.0%} (settings.checks.maximum_quarantined): {_reasons(reasons)}"
        )
        check.faults.append(Fault(place, found, _advice(reasons)))
    if items.items and items.digit_titles > items.items / 2:
        found = f"the titles of {items.digit_titles:,} of {items.items:,} items are digits alone"
        check.warnings.append(Fault(place, found, "see whether `title` is the right column"))
    if check.days and items.items:
        share = _share(check.items_before_cutoff, items.items)
        if share < bounds.checks.minimum_trainable_items:
            cutoff = check.window[-1] - timedelta(days=bounds.evaluation_days - 1)
            found = (
                f"only {check.items_before_cutoff:,} of {items.items:,} items have an updated_at before {cutoff}, the first day "
                "that is held out: what was written later is not trained on (settings.checks.minimum_trainable_items)"
            )
            check.faults.append(Fault(place, found, "write when the text last changed, not when it was exported"))


def _judge_log(check: ShopCheck, bounds: CheckBounds) -> None:
    log = check.root / "click_log"
    clicks, shown = sum(day.clicks for day in check.days), sum(day.raw_impressions for day in check.days)
    rows = sum(day.rows for day in check.days)
    if rows and not shown:
        found = "no event is an impression, so that no click can be told from chance"
        check.faults.append(Fault(log, found, MENDING["action_without_impression"]))
    if rows and not clicks and check.has_catalogue and check.whole_catalogue:
        check.faults.append(Fault(log, "no click counts", "see what ends in quarantine, and deliver clicks"))
    known = {day.day for day in check.days} | set(check.incomplete)
    if lacking := [day for day in check.window if day not in known and day >= check.days[0].day]:
        found = f"{len(lacking):,} {'day' if len(lacking) == 1 else 'days'} of the window {'is' if len(lacking) == 1 else 'are'} not there, as dt={lacking[0]}"
        check.faults.append(Fault(log, found, "deliver them, or choose another window (window.days)"))
    if bounds.window_days and (check.window[0] < check.days[0].day):
        found = f"begins on {check.days[0].day}, but the window of {bounds.window_days} days on {check.window[0]}"
        check.faults.append(Fault(log, found, "deliver more days, or set window.days to fewer"))
    if bounds.today and (future := [day.day for day in check.days if day.day > bounds.today + timedelta(days=1)]):
        found = f"{len(future)} {'day lies' if len(future) == 1 else 'days lie'} in the future, as dt={future[-1]}"
        check.warnings.append(Fault(log, found, "look at the tracker's clock, or at how days are written"))
    training = sum(d.clicks for d in check.days if d.day in check.window[: -bounds.evaluation_days or None])
    if clicks and check.whole_catalogue and training < bounds.checks.minimum_training_clicks:
        found = f"{training:,} clicks in the training days, fewer than {bounds.checks.minimum_training_clicks:,}"
        check.faults.append(Fault(log, f"{found} (settings.checks.minimum_training_clicks)", "deliver more days"))


def _judge_days(check: ShopCheck, bounds: CheckBounds) -> None:
    log, limits = check.root / "click_log", bounds.checks
    bad: dict[str, list[DayFigures]] = {"quarantine": [], "nulls": [], "no rows": [], "no clicks": [], "repeats": []}
    for day in (day for day in check.days if day.day in check.window):
        # Without a whole catalogue, which is a fault of its own, items are unknown for that.
        known = check.has_catalogue and check.whole_catalogue
        unused = sum(reason.rows for reason in day.reasons if known or reason.name != "unknown_item")
        nulls = sum(reason.rows for reason in day.reasons if reason.name == "null_field")
        if not day.rows:
            bad["no rows"].append(day)
        elif _share(unused, day.rows) > limits.maximum_quarantined:
            bad["quarantine"].append(day)
        elif _share(nulls, day.rows) > limits.maximum_nulls:
            bad["nulls"].append(day)
        elif not day.clicks and known:
            bad["no clicks"].append(day)
        if _share(sum(r.rows for r in day.reasons if r.name in _REPEATS), day.rows) > limits.maximum_repeated:
            bad["repeats"].append(day)
    for kind, words, setting in (
        ("quarantine", "of its events would end in quarantine", "maximum_quarantined"),
        ("nulls", "of its events lack a field", "maximum_nulls"),
        ("repeats", "of its events repeat another", "maximum_repeated"),
    ):
        if days := bad[kind]:
            known = check.has_catalogue and check.whole_catalogue
            of_day = [r for r in days[0].reasons if known or r.name != "unknown_item"]
            reasons = [r for r in of_day if kind != "nulls" or r.name == "null_field"]
            reasons = [r for r in reasons if kind != "repeats" or r.name in _REPEATS]
            most = getattr(limits, setting)
            found = (
                f"more than {most:.0%} {words} (settings.checks.{setting}), {sum(r.rows for r in reasons):,} of "
                f"{days[0].rows:,}: {_reasons(reasons)}{_more(days)}"
            )
            target = check.warnings if kind == "repeats" else check.faults
            target.append(Fault(_folder(log, days[0]), found, _advice(reasons)))
    if days := bad["no rows"]:
        unread = {fault.file.parent for fault in check.faults}
        days = [day for day in days if _folder(log, day) not in unread]
        if days:
            found = f"its files hold no events{_more(days)}"
            check.faults.append(Fault(_folder(log, days[0]), found, "deliver the day's log"))
    if days := bad["no clicks"]:
        found = f"no click of this day counts{_more(days)}"
        check.faults.append(Fault(_folder(log, days[0]), found, "a run wants clicks on each day of its window"))


def _judge_volume(check: ShopCheck, bounds: CheckBounds) -> None:
    """The last day beside those before it, as check-data compares them. A run to an earlier day may be good, so no fault."""
    window = check.window if bounds.window_days else check.window[-Window().days :]
    days = [day for day in check.days if day.day in window]
    if len(days) < 2 or days[-1].day != window[-1]:
        return
    limits, last, before = bounds.checks, days[-1], days[:-1]
    for kind in ("impressions", "clicks"):
        counts = [getattr(day, kind) for day in before]
        mean, found = sum(counts) / len(counts), getattr(last, kind)
        if mean < JUDGED_FROM:
            continue
        ratio = found / mean
        told = f"{found:,} {kind} on this last day, {ratio:.2f} of the mean of the days before ({mean:,.0f}; median {median(counts):,.0f})"
        for setting, ends in (("possible_volume", True), ("usual_volume", False)):
            least, most = getattr(limits, setting)
            if not least <= ratio <= most:
                what = "a run to this day ends at check-data" if ends else "check-data warns of it"
                text = f"{told}: outside {least:g} to {most:g}, so that {what} (settings.checks.{setting})"
                advice = "deliver the whole day, once, or run to the day before"
                check.warnings.append(Fault(_folder(check.root / "click_log", last), text, advice))
                break


def _folder(log: AnyPath, day: DayFigures) -> AnyPath:
    return log / f"dt={day.day}"


def _more(days: list[DayFigures]) -> str:
    return f" (and {len(days) - 1} more {'day' if len(days) == 2 else 'days'} like it)" if len(days) > 1 else ""


def _judge_judgments(check: ShopCheck, layout: Layout) -> None:
    figures, file = check.judgments, layout.judgments
    if figures is None or file is None:
        return
    if figures.bad_grades:
        found = f"{figures.bad_grades:,} grades are not from 0 to 3: {figures.bad_example}"
        check.faults.append(Fault(file, found, "0 irrelevant, 1 complement, 2 substitute, 3 exact"))
    if figures.empty:
        first = "line" if is_json_lines(file) else "row"
        lacking = ", ".join(f"{n:,} lack {c} (as {first} {place})" for c, (n, place) in figures.empty.items())
        check.faults.append(Fault(file, f"of {figures.rows:,} rows {lacking}", "fill them in, or leave them out"))
    if figures.unknown_items and check.has_catalogue:
        found = f"{figures.unknown_items:,} of {figures.rows:,} judgements are of items that the catalogue does not have, as {figures.unknown_example[:80]!r}"
        advice = "they count for nothing; deliver these items, or write their ids as the catalogue does"
        if not check.whole_catalogue:
            advice = PART_OF_CATALOGUE
        none_known = figures.unknown_items == figures.rows and check.whole_catalogue
        (check.faults if none_known else check.warnings).append(Fault(file, found, advice))
    if figures.repeated:
        found = (
            f"{figures.repeated:,} judgements repeat a query and item, {figures.contradicted:,} of them with another grade, "
            f"as {figures.repeated_example}"
        )
        check.warnings.append(Fault(file, found, "write one grade for each"))


def _judge_pictures(check: ShopCheck, bounds: CheckBounds) -> None:
    place, most = check.root / "pictures", bounds.checks.maximum_broken_pictures
    listed = check.items.pictures if check.items else 0
    missing = sum(count for count, _ in check.missing_pictures.values())
    too_many = _share(missing, listed) > most
    limit = f" ({missing:,} lead nowhere, more than {most:.0%}: settings.checks.maximum_broken_pictures)"
    for kind, (count, example) in check.missing_pictures.items():
        what, advice = NAMES[kind]
        found = f"{count:,} of {listed:,} pictures that `images` names {what}, as {example[:80]!r}"
        (check.faults if too_many else check.warnings).append(Fault(place, found + limit * too_many, advice))
    count = sum(n for n, _ in check.broken_pictures.values())
    too_many = _share(count, check.opened_pictures) > most
    for kind, (number, example) in check.broken_pictures.items():
        what, advice = FILES.get(kind, (f"not to be fetched ({kind})", "see whether the address is right"))
        found = f"{number:,} of {check.opened_pictures:,} sampled pictures are {what}, as {example[:80]!r}"
        (check.faults if too_many else check.warnings).append(Fault(place, found, advice))
