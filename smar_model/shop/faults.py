"""Faults that real logs and catalogues have, planted on purpose; what shoppers truly did stays beside them."""

from __future__ import annotations

import io
from datetime import date

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from smar_model.shop.catalogue import Catalogue

BOT_REQUESTS = 310
"""Requests that a bot makes in a day; it looks at the top of each list alone."""
MAXIMUM_BOTS = 3
SESSION_BOT_CLICKS = 6
PLACEHOLDERS = 12
"""Items that show the same placeholder: more than settings.pictures.shared_by_items."""
_BOT_SHARE = 0.85
"""Share of the faulty events that bots may take, where a whole bot fits in."""
_ROWS_PER_SESSION_BOT = 200
"""Other faulty rows for each session of each kind of session bot."""
_SECOND = 1_000_000
_ONE_DAY = 24 * 3600 * _SECOND
_FIELDS = ("event_time", "event", "request_id", "session_id", "user_id", "query", "item_id", "position")
_PERSONAL = ("for anna.meier@example.com", "call +49 30 1234567", "4111 1111 1111 1111")
KEPT = ("late_event", "personal_data")
"""Planted rows that are no fault: they must be kept."""
_STRANGERS = (
    *("null_field", "unknown_event", "bad_position", "empty_query", "long_query", "wrong_day"),
    *("action_without_impression", "unknown_item", *KEPT),
)
"""Kinds of rows under request, session and user ids of their own, which no truth knows."""


def add_log_faults(events: pd.DataFrame, *, share: float, day: date, rng: np.random.Generator) -> pd.DataFrame:
    """Add faulty events in the given share of the good ones; the good ones stay as they are.

    Returns:
        The good events, then the planted ones, with a column `fault`: the reason under which extract-clicks must find
        the row, one of `KEPT`, or null for good ones. A small share has no room for every kind.
    """
    budget = round(share * len(events))
    bots = min(MAXIMUM_BOTS, int(_BOT_SHARE * budget) // BOT_REQUESTS)
    parts = [events.assign(fault=None), *(_bot(events, number, day, rng) for number in range(bots))]
    rest = max(budget - bots * BOT_REQUESTS, 0)
    sessions = -(-rest // _ROWS_PER_SESSION_BOT) if rest >= 2 * 3 * SESSION_BOT_CLICKS else 0
    for number in range(sessions):
        parts += [_hasty_session(events, number, day, rng), _impossible_session(events, number, day, rng)]
    rest -= sessions * 3 * SESSION_BOT_CLICKS

    shown = events[(events["event"] == "impression")]
    kinds = ("duplicate_event", "replayed_event", "action_before_impression", *_STRANGERS)
    many = {kind: rest // len(kinds) + (n < rest % len(kinds)) for n, kind in enumerate(kinds)}
    parts.append(_draw(events, many["duplicate_event"], rng).assign(fault="duplicate_event"))
    # A batch delivered twice, the second time with the time of its delivery.
    replayed = _draw(events, many["replayed_event"], rng).assign(fault="replayed_event")
    replayed["event_time"] += 300 * _SECOND
    parts.append(replayed)
    early = _early_clicks(events, many["action_before_impression"], rng)
    parts.append(early)
    many["wrong_day"] += many["action_before_impression"] - len(early)  # where visits are few
    parts += [_strangers(shown, kind, many[kind], day, rng) for kind in _STRANGERS]
    return pd.concat(parts, ignore_index=True)


def _draw(events: pd.DataFrame, count: int, rng: np.random.Generator) -> pd.DataFrame:
    """Different events."""
    return events.iloc[np.sort(rng.permutation(len(events))[:count])].copy()


def _early_clicks(events: pd.DataFrame, count: int, rng: np.random.Generator) -> pd.DataFrame:
    """Clicks before their impression, on items that were not clicked, one a session."""
    clicked = events.loc[events["event"] == "click", ["request_id", "item_id"]].assign(clicked=True)
    shown = events[events["event"] == "impression"].merge(clicked, on=["request_id", "item_id"], how="left")
    shown = shown[shown["clicked"].isna()].drop(columns="clicked")
    early = _draw(shown, len(shown), rng) if count else shown
    early = early.iloc[rng.permutation(len(early))].drop_duplicates("session_id").head(count)
    early["event_time"] -= 5 * _SECOND
    return early.assign(event="click", fault="action_before_impression")


def _strangers(shown: pd.DataFrame, kind: str, count: int, day: date, rng: np.random.Generator) -> pd.DataFrame:
    """Impressions that nobody saw, each spoilt in the way of its kind."""
    rows = _copies(shown, count, f"{kind}-{day:%Y%m%d}", rng).assign(fault=kind)
    numbers = np.arange(count)
    if kind == "null_field":
        for n, field in enumerate(_FIELDS):
            spoilt = numbers % len(_FIELDS) == n
            rows[field] = rows[field].astype("Int64" if field in ("event_time", "position") else object).mask(spoilt)
    elif kind == "unknown_event":
        rows["event"] = "hover"
    elif kind == "bad_position":
        rows["position"] = np.int32(0) - (numbers % 2).astype("int32")
    elif kind == "empty_query":
        rows["query"] = " \t\u3000"
    elif kind == "long_query":
        rows["query"] = "all that I ever wanted " * 30
    elif kind == "wrong_day":
        rows["event_time"] -= 3 * _ONE_DAY
    elif kind == "action_without_impression":
        rows["event"] = np.array(["click", "cart", "order"], dtype=object)[numbers % 3]
        # Not soon after midnight, when the list may have been shown on the day before.
        rows["event_time"] = _midnight(shown) + rng.integers(3600 * _SECOND, 23 * 3600 * _SECOND, count)
    elif kind == "unknown_item":
        rows["item_id"] = [f"unknown-{n}" for n in rng.integers(0, 50, count)]
    elif kind == "late_event":
        rows["event_time"] = _midnight(shown) + np.where(numbers % 2, _ONE_DAY + 60 * _SECOND, -60 * _SECOND)
    elif kind == "personal_data":
        rows["query"] += np.array([f" {text}" for text in _PERSONAL], dtype=object)[numbers % len(_PERSONAL)]
    return rows


def _copies(events: pd.DataFrame, count: int, prefix: str, rng: np.random.Generator) -> pd.DataFrame:
    """Copies under ids of their own."""
    copies = events.iloc[rng.integers(0, len(events), count)].reset_index(drop=True)
    for column in ("request_id", "session_id", "user_id"):
        copies[column] = [f"{column[0]}-{prefix}-{n:06d}" for n in range(count)]
    return copies


def _midnight(events: pd.DataFrame) -> int:
    return int(events["event_time"].min() // _ONE_DAY * _ONE_DAY)


def _bot(events: pd.DataFrame, number: int, day: date, rng: np.random.Generator) -> pd.DataFrame:
    """A program that reads the top result of other people's queries: one every few minutes all day long, every third
    bot all within ten minutes."""
    top = events[(events["event"] == "impression") & (events["position"] == 1)]
    bot = _copies(top, BOT_REQUESTS, f"bot{day:%Y%m%d}-{number}", rng)
    span, start = (600 * _SECOND, 12 * 3600 * _SECOND) if number % 3 == 2 else (_ONE_DAY, 0)
    moment = (np.arange(BOT_REQUESTS) + rng.random(BOT_REQUESTS)) * (span / (BOT_REQUESTS + 1))
    bot["event_time"] = _midnight(events) + start + moment.astype("int64")
    bot["session_id"], bot["user_id"] = f"s{day:%Y%m%d}-bot{number}", f"bot{number}"
    return bot.assign(fault="bot_rate")


def _hasty_session(events: pd.DataFrame, number: int, day: date, rng: np.random.Generator) -> pd.DataFrame:
    """A session that clicks on whatever is on top, a fifth of a second after it came."""
    top = events[(events["event"] == "impression") & (events["position"] == 1)]
    name = f"hasty{day:%Y%m%d}-{number}"
    shown = _copies(top, SESSION_BOT_CLICKS, name, rng).assign(session_id=f"s-{name}", user_id=name)
    clicks = shown.assign(event="click", event_time=shown["event_time"] + _SECOND // 5)
    return pd.concat([shown, clicks], ignore_index=True).assign(fault="bot_no_dwell")


def _impossible_session(events: pd.DataFrame, number: int, day: date, rng: np.random.Generator) -> pd.DataFrame:
    """A session that puts into the cart what no list showed it."""
    name = f"impossible{day:%Y%m%d}-{number}"
    carts = _copies(events, SESSION_BOT_CLICKS, name, rng).assign(session_id=f"s-{name}", user_id=name, event="cart")
    carts["event_time"] = _midnight(events) + rng.integers(3600 * _SECOND, 23 * 3600 * _SECOND, SESSION_BOT_CLICKS)
    return carts.assign(fault="bot_impossible")


def add_catalogue_faults(catalogue: Catalogue, *, share: float, seed: int) -> dict[str, list[str]]:
    """Spoil a catalogue in place: `share` of the products, at least one of each kind, lose the use of their main
    picture: it is cut off, its file is missing, the product names none, or it is one plain colour. Others, twelve where
    there are enough, show a placeholder, every third in a quality of its own. Returns kind → item ids."""
    products = sorted((p for p in catalogue.products if p.images), key=lambda p: p.item_id)
    each = max(1, round(share * len(products) / 4))
    order = np.random.default_rng([seed, 0xBAD]).permutation(len(products))
    kinds = {
        kind: [products[n] for n in order[k * each : (k + 1) * each]]
        for k, kind in enumerate(("cut", "missing", "none", "uniform"))
    }
    kinds["placeholder"] = [products[n] for n in order[4 * each :][: max(1, min(PLACEHOLDERS, len(products) // 20))]]
    for number, product in enumerate(kinds["uniform"]):
        catalogue.pictures[product.images[0]] = _jpeg(Image.new("RGB", (96, 128), (40 * number % 256, 90, 120)))
    for number, product in enumerate(kinds["placeholder"]):
        catalogue.pictures[product.images[0]] = _jpeg(_placeholder(), quality=80 + number if number % 3 == 2 else 90)
    for product in kinds["cut"]:
        content = catalogue.pictures[product.images[0]]
        catalogue.pictures[product.images[0]] = content[: len(content) // 3]
    for product in kinds["missing"]:
        del catalogue.pictures[product.images[0]]
    for product in kinds["none"]:
        for name in product.images:
            del catalogue.pictures[name]
        product.images = []
    return {kind: sorted(p.item_id for p in members) for kind, members in kinds.items()}


def _placeholder() -> Image.Image:
    image = Image.new("RGB", (96, 128), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((20, 40, 76, 88), fill=(205, 205, 210))
    pen.ellipse((36, 48, 60, 72), fill=(150, 150, 160))
    return image


def _jpeg(image: Image.Image, *, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
