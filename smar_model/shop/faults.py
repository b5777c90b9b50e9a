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
PLACEHOLDERS = 12
"""Items that show the same placeholder: more than settings.pictures.shared_by_items."""
_BOT_SHARE = 0.85
"""Share of the faulty events that bots may take, where a whole bot fits in."""
_ONE_DAY = 24 * 3600 * 1_000_000
_MALFORMED = ("null_item", "unknown_event", "null_query", "position_zero", "other_day")


def add_log_faults(events: pd.DataFrame, *, share: float, day: date, rng: np.random.Generator) -> pd.DataFrame:
    """Add faulty events in the given share of the good ones; the good ones stay as they are.

    Kinds: bots (users with `BOT_REQUESTS` requests), exact repeats of good events, and under request ids of their own,
    which no truth knows: items that the catalogue lacks, and malformed rows (null item, unknown event, null query,
    position 0, time on another day).
    """
    budget = round(share * len(events))
    bots = min(MAXIMUM_BOTS, int(_BOT_SHARE * budget) // BOT_REQUESTS)
    parts = [events, *(_bot(events, number, day, rng) for number in range(bots))]
    rest = max(budget - bots * BOT_REQUESTS, 0)
    repeats = rest // 3
    parts.append(events.iloc[np.sort(rng.permutation(len(events))[:repeats])])
    strangers = _copies(events, rest // 3, f"x{day:%Y%m%d}", rng)
    strangers["item_id"] = [f"unknown-{n}" for n in rng.integers(0, 50, len(strangers))]
    parts.append(strangers)

    malformed = _copies(events, rest - repeats - len(strangers), f"m{day:%Y%m%d}", rng)
    kind = np.array(_MALFORMED)[np.arange(len(malformed)) % len(_MALFORMED)]
    malformed.loc[kind == "null_item", "item_id"] = None
    malformed.loc[kind == "unknown_event", "event"] = "hover"
    malformed.loc[kind == "null_query", "query"] = None
    malformed.loc[kind == "position_zero", "position"] = np.int32(0)
    malformed.loc[kind == "other_day", "event_time"] -= 3 * _ONE_DAY
    parts.append(malformed)
    return pd.concat(parts, ignore_index=True)


def _copies(events: pd.DataFrame, count: int, prefix: str, rng: np.random.Generator) -> pd.DataFrame:
    copies = events.iloc[rng.integers(0, len(events), count)].reset_index(drop=True)
    copies["request_id"] = [f"{prefix}-{n:06d}" for n in range(count)]
    return copies


def _bot(events: pd.DataFrame, number: int, day: date, rng: np.random.Generator) -> pd.DataFrame:
    """A program that reads the top result of other people's queries, one every few minutes, all day long."""
    top = events[(events["event"] == "impression") & (events["position"] == 1)]
    bot = _copies(top, BOT_REQUESTS, f"b{day:%Y%m%d}-{number}", rng)
    midnight = int(events["event_time"].min() // _ONE_DAY * _ONE_DAY)
    bot["event_time"] = midnight + (np.arange(BOT_REQUESTS) + rng.random(BOT_REQUESTS)).astype("float64") * (
        _ONE_DAY / (BOT_REQUESTS + 1)
    )
    bot["event_time"] = bot["event_time"].astype("int64")
    bot["session_id"], bot["user_id"] = f"s{day:%Y%m%d}-bot{number}", f"bot{number}"
    return bot


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
