"""Settings of a shop: where it lies, and who simulates its shoppers."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, PlainValidator, field_validator, model_validator

from smar_model.settings.section import Count, Section, Share

SCHEMES = ("s3://", "gs://", "az://")
"""Of object stores that a shop or the lake may lie in."""


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


class CompleteDay(Section):
    """How a day of the click log tells that all of it has been delivered: one of the two."""

    marker: Annotated[str, Field(pattern=r"^[^/\s]+$")] | None = None
    """Name of a file or object in the day's folder, such as `_SUCCESS`, that is written last; what it holds does not matter."""
    quiet_minutes: Count | None = None
    """The newest file of the day was written at least so long ago."""

    @model_validator(mode="after")
    def _one_of_them(self) -> CompleteDay:
        if (self.marker is None) == (self.quiet_minutes is None):
            raise ValueError("set one of marker and quiet_minutes")
        return self


def _folder_or_url(value: object) -> Path | str:
    if isinstance(value, Path) or (isinstance(value, str) and "://" not in value):
        return Path(value)
    if not isinstance(value, str):
        raise ValueError("name a folder, or the URL of an object store")
    if not value.startswith(SCHEMES) or not re.fullmatch(r"\w+://[^/?#\s]+(/[^?#]*)?", value):
        raise ValueError(f"an object store is named by a URL of {', '.join(SCHEMES)}, as in s3://bucket/prefix")
    return value.rstrip("/")


class Shop(Section):
    root: Annotated[Path | str, PlainValidator(_folder_or_url)]
    """Folder in the layout of the README ("Your own shop"), or the URL of an object store that has its files by the same names:
    `s3://bucket/prefix`, `gs://…`, `az://…`; keys and address come from the environment, as those of SMAR_STORE."""
    kind: Literal["own", "sample", "real_products"] = "own"
    """`own` is only read; `sample` is drawn; `real_products` is imported from SMAR_REAL_DATA. The last two
    have simulated shoppers, who write a day of the click log when a run needs it."""
    pictures: str | None = None
    """URI of an object store with the pictures (`s3://bucket/prefix`, `gs://…`, `file:///…`); credentials come from the
    environment. Unset: `pictures/` or `pictures.zip` in `root`."""
    time_zone: str | None = None
    """Zone of delivered times that say none, by its name in the tz database (`Europe/Berlin`). Unset: `time_zone` in `shop.yaml` in
    `root`; where neither is, such times are refused."""
    complete_day: CompleteDay | None = None
    """When a day of the click log is read; a day that is not complete yet is left out of a run, which says so. Unset: every day is
    taken to be complete."""
    visual_departments: list[str] = Field(min_length=1)
    """First levels of `category` in which pictures matter: SMAR's "fashion"."""
    simulation: Simulation | None = None

    @model_validator(mode="after")
    def _simulated_in_a_folder(self) -> Shop:
        if self.kind != "own" and isinstance(self.root, str):
            raise ValueError(
                f"a shop of kind {self.kind!r} is written into a folder; only one of kind 'own' may lie in an object store"
            )
        return self

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str | None) -> str | None:
        try:
            return name and ZoneInfo(name).key
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"no time zone {name!r} in the tz database; as in Europe/Berlin, or UTC") from None
