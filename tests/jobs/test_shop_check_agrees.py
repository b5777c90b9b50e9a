"""What `smar shop check` says will end in quarantine is what the jobs put there, by reason."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs import extract_click_days
from smar_model.data.query_text import normalise_query, visible_text
from smar_model.delivery import shop_figures
from smar_model.delivery.check_records import CheckBounds
from smar_model.delivery.odd_values import HIGHEST_PRICE
from smar_model.delivery.shop_check import check_shop
from smar_model.delivery.shop_figures import TextForms
from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.lake.artifacts import Artifact
from smar_model.settings import REPOSITORY
from tests.jobs.test_hostile_rows import ITEM_REASONS, LOG_REASONS, foretold
from tests.tiny_shop import (
    DAYS,
    run_stages,
    tiny_events,
    tiny_items,
    tiny_run,
    write_rows,
    write_tiny_shop,
)

BAD_OFFERS = ("bad_price", "bad_currency")


def at(day: date, **time: float) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC) + timedelta(**time)


def odd_events(day: date) -> list[dict[str, Any]]:
    """Events that break each rule of a day."""

    def event(request: str, kind: str = "impression", item: int = 1, position: int = 1, **more: Any) -> dict[str, Any]:
        row = {"event": kind, "request_id": request, "session_id": f"s-{request}", "user_id": f"u-{request}"}
        row |= {"query": "Odd shirt", "item_id": f"item-{item:03}", "position": position, "event_time": at(day)}
        return row | more

    events = [
        event("null", query=None),
        event("kind", "view"),
        event("zero", position=0),
        event("blank", query=" \u3000\t"),
        event("unseen", query="\u3164\ufe0f \u200b\u200d"),
    ]
    events += [event("long", query="x" * 501), event("wide", query="ﷺ" * 30), event("fits", query="é" * 500)]
    events += [
        event("late", event_time=at(day, hours=12, minutes=16)),
        event("just", event_time=at(day, hours=12, minutes=14)),
    ]
    events += [event("twice")] * 3 + [event("again"), event("again", event_time=at(day, seconds=3))]
    events += [event("case"), event("case", query="ODD  shirt")]
    events += [
        event("unshown", "click", item=2),
        event("early"),
        event("early", "click", event_time=at(day, seconds=-1)),
    ]
    events += [event("places", position=2), event("places", position=7, event_time=at(day, seconds=9))]
    events += [event("places", "click", position=7, event_time=at(day, seconds=5))]
    events += [event("midnight", "click", event_time=at(day, hours=-12, minutes=3)), event("gone", item=999)]
    for n in range(31):  # in one minute
        events.append(event(f"fast-{n}", user_id="fast", session_id="fast", event_time=at(day, seconds=n)))
    for n in range(5):
        events.append(event(f"hasty-{n}", session_id="hasty", event_time=at(day, minutes=n)))
        events.append(event(f"hasty-{n}", "click", session_id="hasty", event_time=at(day, minutes=n, milliseconds=900)))
        events.append(event(f"never-{n}", "click", session_id="never", item=3, event_time=at(day, minutes=n)))
    return events


def odd_items() -> list[dict[str, Any]]:
    def item(item_id: str | None, **more: Any) -> dict[str, Any]:
        return tiny_items()[0] | {"item_id": item_id, "images": []} | more

    rows = [
        item(None),
        item(" "),
        item("t", title="\u2003 "),
        item("unseen", title="\u200d\u3164\ufeff"),
        item("i" * 257),
        item("lt", title="x" * 1001),
    ]
    rows += [item("c", category=" > Shirts"), item("lc", category="a" * 1001), item("lb", brand="b" * 1001)]
    rows += [item("la", attributes=[("a", "x" * 60_000), ("b", "x" * 60_000)]), item("u", updated_at=None)]
    rows += [item("sp", attributes=[("a" * 200_000, " ")]), item("d"), item("d", title="Newer"), item("d")]
    newer = datetime(2026, 11, 2, tzinfo=UTC)
    rows += [
        item("negative", price=Decimal("-1"), currency="EUR"),
        item("both", price=Decimal("-0.5"), currency="US Dollar"),
        item("endless", price=Decimal("99999999999999.9999"), currency="eur"),
        item("coin", price=Decimal("1"), currency="€"),
        item("blank", price=Decimal("1"), currency=" "),
        item("good", price=Decimal("1"), currency=" eur "),
        item("mended", price=Decimal("-1"), currency="euro", updated_at=newer - timedelta(days=1)),
        item("mended", updated_at=newer),
        item("spoilt", updated_at=newer - timedelta(days=1), price=Decimal("2"), currency="EUR"),
        item("spoilt", updated_at=newer, price=Decimal("-2"), currency="EUR"),
        item("unused", title=None, price=Decimal("-1"), currency="?"),
    ]
    return rows


def write_odd_shop(root: Path) -> Path:
    write_tiny_shop(root)
    write_rows(root / "items.parquet", "items", tiny_items() + odd_items())
    for day in DAYS[:2]:
        write_rows(root / "click_log" / f"dt={day}" / "odd.parquet", "click_log", odd_events(day))
    return root


def quarantined(outputs: dict[str, Artifact]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {"items": Counter(), "click_log": Counter()}
    for output in outputs.values():
        for file in output.files("quarantine_counts"):
            for row in pq.read_table(file).to_pylist():
                if row["source"] in counts:
                    counts[row["source"]][row["reason"]] += row["rows"]
    return counts


def test_a_shop_with_every_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    root = write_odd_shop(tmp_path / "odd")
    told = foretold(root)
    outputs = run_stages(tiny_run(root, name=root.name), "prepare-items", "extract-clicks")
    assert told == quarantined(outputs)
    assert set(told["items"]) == ITEM_REASONS - {"bad_updated_at"} and set(told["click_log"]) == LOG_REASONS

    left_empty = {name: outputs["prepare-items"].metrics[f"items_with_{name}"] for name in BAD_OFFERS}
    check = check_shop(ShopInputs(root), CheckBounds(), TextForms(normalise=normalise_query, visible=visible_text))
    assert check.items and left_empty == {name: check.items.oddities[name].rows for name in BAD_OFFERS}
    assert left_empty == {"bad_price": 4, "bad_currency": 2}
    said = "\n".join(f"{fault.found}; {fault.mend}" for fault in check.warnings)
    assert "items have a negative or infinite price, which is left empty, as 'negative: -1.0000'" in said
    assert "items have a currency that is no ISO 4217 code, which is left empty, as 'both: US DOLLAR'" in said
    assert check.items.oddities["no_currency"].rows == 2, "of 'coin' and 'blank', beside EUR of 'good'"
    assert "items have a price without a currency, where others name one, as 'coin'" in said
    assert "several_currencies" not in check.items.oddities


def test_the_bounds_of_the_rules_are_those_of_the_job() -> None:
    names = ("SKEW_SECONDS", "BOT_CLICKS", "BOT_DWELL_SECONDS")
    assert [getattr(shop_figures, n) for n in names] == [getattr(extract_click_days, n) for n in names]
    assert f"BETWEEN 0 AND {HIGHEST_PRICE}" in (REPOSITORY / "sql" / "prepare_items.sql").read_text(encoding="utf-8")
    assert tiny_events(DAYS[0], tiny_items())
