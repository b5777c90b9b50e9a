"""A check of a shop as people read it in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from smar_model.delivery.check_records import ShopCheck
from smar_model.delivery.delivery_figures import Reason
from smar_model.delivery.delivery_rules import MENDING, PART_OF_CATALOGUE, reasons_of_log, shown
from smar_model.delivery.shop_check import SAMPLED_PICTURES

DEPARTMENTS_SHOWN, DETAILS_SHOWN = 12, 8


def render(check: ShopCheck) -> str:
    """All lines of a check: figures, quarantine, what was cast, what to look at, and last what has to be mended."""
    return "\n".join(_lines(check))


def _lines(check: ShopCheck) -> Iterator[str]:
    yield f"{check.root}"
    yield from _figures(check)
    yield from _quarantine(check)
    if check.casts:
        yield "\nRead as another type than it is stored as, without loss:"
        yield from (f"  {cast}" for cast in check.casts)
    if check.warnings:
        yield "\nTo look at:"
        yield from (f"  {warning}" for warning in check.warnings)
    if check.faults:
        yield f"\n{len(check.faults)} {'fault' if len(check.faults) == 1 else 'faults'}, to mend before a run:"
        yield from (f"  {fault}" for fault in check.faults)
    else:
        yield "\nNo faults: a run can read this shop."


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"


def _figures(check: ShopCheck) -> Iterator[str]:
    items = check.items
    if items and items.rows:
        yield f"\nItems: {items.items:,} usable of {items.rows:,} rows; {_share(items.with_pictures, items.items)} with a picture"
        urls = f", {items.by_url:,} of them by URL" if items.by_url else ""
        if items.pictures:
            yield f"  pictures listed: {items.pictures:,}{urls}"
        if check.opened_pictures:
            yield f"  pictures opened: {check.opened_pictures:,}, {check.usable_pictures:,} of them usable"
        if items.by_url and not any(name.startswith("http") for _, name in check.broken_pictures.values()):
            yield f"  pictures by URL are asked for with --fetch alone ({SAMPLED_PICTURES} of them)"
        yield f"  scripts of the titles: {_scripts(items.scripts, items.items)}"
        yield "  departments (items, with a picture, clicks):"
        for department in items.departments[:DEPARTMENTS_SHOWN]:
            shares = f"{_share(department.items, items.items)}, {_share(department.with_pictures, department.items)}"
            yield f"    {department.name[:60]}: {shares}, {department.clicks:,}"
        if (more := len(items.departments) - DEPARTMENTS_SHOWN) > 0:
            yield f"    and {more:,} more"
    if check.days:
        rows = sum(day.rows for day in check.days)
        clicks = sum(day.clicks for day in check.days)
        left_out = f"; not complete, and not read: {', '.join(map(str, check.incomplete))}" if check.incomplete else ""
        yield f"\nClick log: {rows:,} events on {len(check.days)} days, {check.days[0].day} to {check.days[-1].day}{left_out}"
        yield (
            f"  clicks that count: {clicks:,} of {check.clicked_queries:,} queries, "
            f"{clicks / max(1, check.clicked_queries):.1f} a query; {_share(check.queries_once, check.clicked_queries)} of the queries once"
        )
        yield f"  scripts of the queries: {_scripts(check.query_scripts, check.clicked_queries)}"
    if check.judgments:
        unknown = f", {check.judgments.unknown_items:,} of unknown items" if check.has_catalogue else ""
        yield f"\nJudgements: {check.judgments.rows:,} of {check.judgments.queries:,} queries{unknown}"


def _scripts(counts: dict[str, int], whole: int) -> str:
    return ", ".join(f"{script} {_share(n, whole)}" for script, n in list(counts.items())[:6]) or "none"


def _quarantine(check: ShopCheck) -> Iterator[str]:
    lines = [("items", reason) for reason in check.items.reasons] if check.items else []
    lines += [("click_log", reason) for reason in reasons_of_log(check)]
    if lines:
        yield "\nWill end in quarantine:"
    for table, reason in lines:
        mend = MENDING.get(reason.name, "")
        if reason.name == "unknown_item" and not check.whole_catalogue:
            mend = PART_OF_CATALOGUE
        yield f"  {table}: {reason.name} {reason.rows:,}{_told(check, table, reason)}, as {shown(reason)}; {mend}"


def _told(check: ShopCheck, table: str, reason: Reason) -> str:
    """What is wrong with the rows, and how many of them are among the faults too."""
    shown_ones = reason.details[:DETAILS_SHOWN]
    words = [f"{d.name} {d.rows:,}{f' in {d.file.name}' if d.file else ''}" for d in shown_ones]
    if len(reason.details) > DETAILS_SHOWN:
        words.append(f"and {len(reason.details) - DETAILS_SHOWN:,} others")
    columns = {"null_field": [d.name for d in reason.details], "no_updated_at": ["updated_at"]}.get(reason.name, [])
    told = [f"{check.bad_values[f'{table}.{c}']:,} of {c}" for c in columns if check.bad_values[f"{table}.{c}"]]
    if told:
        words.append(f"told of below as well: {', '.join(told)}")
    return f" ({'; '.join(words)})" if words else ""
