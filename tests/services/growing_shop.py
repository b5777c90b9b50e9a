"""The sample shop as a shop that is delivered to: the test decides when which day of its log comes, how large and how good."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from smar_model.settings import REPOSITORY, Simulation, load_settings, validate_settings
from smar_model.shop.open_shop import make_shop
from smar_model.shop.shop_writer import write_parquet
from smar_model.shop.shoppers import Shoppers


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowingShop:
    root: Path
    simulation: Simulation
    visual_departments: list[str]

    def deliver(self, days: Iterable[date], *, requests_per_day: int) -> None:
        """Let the shoppers write days of the log, in the place of what is there."""
        shoppers = Shoppers.load(
            self.root,
            simulation=self.simulation.model_copy(update={"requests_per_day": requests_per_day}),
            visual_departments=self.visual_departments,
        )
        for day in days:
            shoppers.write_day(self.root, day)

    def shuffle(self, days: Iterable[date]) -> None:
        """Deal the items of each day's log out anew: every list keeps its length, places and clicks, but an export has joined
        the events with the wrong items."""
        for day in days:
            for file in self.log_files(day):
                table = pq.read_table(file)
                items = sorted({item for item in table["item_id"].to_pylist() if item is not None})
                dealt = dict(zip(items, Random(str(day)).sample(items, len(items)), strict=True))
                shuffled = pa.array(
                    [dealt.get(item) for item in table["item_id"].to_pylist()], table.schema.field("item_id").type
                )
                write_parquet(file, table.set_column(table.schema.get_field_index("item_id"), "item_id", shuffled))

    def log_files(self, day: date) -> list[Path]:
        return sorted((self.root / "click_log" / f"dt={day}").glob("*.parquet"))


def make_growing_shop(root: Path) -> GrowingShop:
    """The sample shop's catalogue and pictures, without a log."""
    content = load_settings(REPOSITORY / "configs" / "sample_shop.yaml").model_dump(mode="json")
    content["shop"]["root"] = str(root)
    settings = validate_settings(content, source="tests")
    assert settings.shop.simulation
    make_shop(settings)
    return GrowingShop(
        root=root, simulation=settings.shop.simulation, visual_departments=settings.shop.visual_departments
    )


def write_growing_settings(
    path: Path, shop: GrowingShop, *, days: int, tracking_uri: str, **changes: dict[str, Any]
) -> Path:
    """The sample shop's settings for the shop as its own, with a window of so many days."""
    content = yaml.safe_load((REPOSITORY / "configs" / "sample_shop.yaml").read_text(encoding="utf-8"))
    content["shop"] = {"root": str(shop.root), "kind": "own", "visual_departments": shop.visual_departments}
    content["window"] = {"days": days, "evaluation_days": 1}
    content["release"] = {"tracking_uri": tracking_uri, "model": "shop", "experiment": "shop"}
    for section, values in changes.items():
        content[section] = content.get(section, {}) | values
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path
