"""Settings of a shop: where it lies, and who simulates its shoppers."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from smar_model.settings.section import Count, Section, Share


class Simulation(Section):
    """Shoppers who write the click log where a catalogue comes without one (`smar_model/shop/shoppers.py`)."""

    seed: int = 0
    items: Count = 1_500
    """Size of the catalogue: drawn, or sampled from the imported one."""
    archive: Literal["fashion-product-images-small", "fashion-product-images-224"] = "fashion-product-images-small"
    """Of `real_products`: the folder in SMAR_REAL_DATA with the fashion products; `…-small` has their pictures at 60×80 pixels, `…-224`
    fewer products at 224×224."""
    requests_per_day: Count = 1_500
    masked: dict[str, Share] = Field(default_factory=dict)
    """Attribute → share of items whose title, category leaf and seller's attributes lose it."""
    faults: Share = 0.0
    """Share of events that carry a fault real logs have: bots, repeats, malformed rows, unknown items."""
    held_back_words: Share = 0.0
    """Share of the synonyms of `smar_model/shop/synonyms.py`, by a hash of the word, that no shopper types before `held_back_from`; the
    other synonyms are typed on all days. 0: no shopper types any of them, on any day."""
    held_back_from: dt.date | None = None
    """First day on which shoppers type the words held back: a comparison's first evaluation day, which `smar compare` and `smar sweep`
    fill in. Of daily runs this is the day on which they are new; the runs after it train on them."""
    wrong_pictures: Share | dict[str, Share] = 0.0
    """Share of the items with pictures that show another item's, of another type, or their supplier's placeholder; of all items, or by
    department. Which, is in `truth/pictures.parquet`."""

    @model_validator(mode="after")
    def _held_back_until_when(self) -> Simulation:
        if self.held_back_words and self.held_back_from is None:
            raise ValueError("held_back_words needs held_back_from, the first day on which shoppers type these words")
        return self


class Shop(Section):
    root: Path
    """Folder in the layout of the README ("Your own shop")."""
    kind: Literal["own", "sample", "real_products"] = "own"
    """`own` is only read; `sample` is drawn; `real_products` is imported from SMAR_REAL_DATA. The last two
    have simulated shoppers, who write a day of the click log when a run needs it."""
    pictures: str | None = None
    """URI of an object store with the pictures (`s3://bucket/prefix`, `gs://…`, `file:///…`); credentials come from the
    environment. Unset: `pictures/` or `pictures.zip` in `root`."""
    time_zone: str | None = None
    """Zone of delivered times that say none, by its name in the tz database (`Europe/Berlin`). Unset: `time_zone` in `shop.yaml` in
    `root`; where neither is, such times are refused."""
    visual_departments: list[str] = Field(min_length=1)
    """First levels of `category` in which pictures matter: SMAR's "fashion"."""
    simulation: Simulation | None = None

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str | None) -> str | None:
        try:
            return name and ZoneInfo(name).key
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"no time zone {name!r} in the tz database; as in Europe/Berlin, or UTC") from None
