"""Shops of any size to measure and rehearse on: catalogue, click log and truth as native Spark expressions.

`sql/make_shop_items.sql` and `sql/make_shop_log.sql` say how; the words are the sample shop's. The same arguments give the
same rows on any cluster, and a day is the same in a shop of any number of days. Pictures (drawn with Pillow) are optional:
they cost about a hundred times the time of everything else.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from pyspark.sql import DataFrame, Row, SparkSession

from jobs.spark_session import run_sql, spark_schema, start_session
from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.settings import Spark
from smar_model.shop import sample_shop, shoppers
from smar_model.shop.drawing import draw_book, draw_device, draw_garment, draw_package
from smar_model.shop.shop_writer import LISTED_AT
from smar_model.shop.vocabulary import typed_forms

SLOTS, LOOKS, PATTERNS = 100, 20, 8
"""Radix of an item's number: places on the shelves, colours (or facts), patterns; shares are multiples of 1 / radix."""
PRIME = 2_654_435_761
"""Deals ranks of popularity to items: coprime to any catalogue's size."""
ITEMS_PER_FILE, REQUESTS_PER_FILE = 250_000, 100_000
VISIT_BLOCK = 100
"""Visits of a block; each block has exactly the shoppers' shares of visits by length."""
_PARTS = ("items", "items.parquet", "pictures", "pictures.zip", "click_log", "truth")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    items: int
    days: int
    requests_per_day: int
    """About 13 events each: a dozen impressions and what followed."""
    seed: int = 0
    pictures: bool = False


def make_shop(root: Path, size: Size, *, last_day: date, spark: Spark) -> dict[str, int]:
    """Write a shop (`items/`, `pictures/`, `click_log/`, `truth/`) below `root`, each folder whole; returns counts.

    An interrupted making leaves no catalogue, and may be begun again.

    Raises:
        InputError: `root` holds a shop, the catalogue is smaller than a list of results, or Java is missing.
    """
    if size.items < shoppers.LIST_LENGTH:
        raise InputError(f"--items {size.items}: a list shows {shoppers.LIST_LENGTH}; make at least as many")
    if present := [name for name in _PARTS if (root / name).exists()]:
        raise InputError(f"{root}: holds {', '.join(present)} already; choose another folder, or remove them")
    writing = root / ".writing"
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    active = SparkSession.getActiveSession()
    with tempfile.TemporaryDirectory(dir=writing, prefix=".spark-", ignore_cleanup_errors=True) as scratch:
        session = active or start_session(spark, name="make-shop", scratch=Path(scratch))
        try:
            counts = _write(session, writing, size, first_day=last_day - timedelta(days=size.days - 1))
        finally:
            if active is None:
                session.stop()
    # The catalogue comes last: without it there is no shop.
    for name in ("truth", "pictures", "click_log", "items"):
        os.rename(writing / name, root / name)
    shutil.rmtree(writing)
    return counts


def _write(session: SparkSession, folder: Path, size: Size, *, first_day: date) -> dict[str, int]:
    vocabulary = _vocabulary_views(session)
    session.range(0, size.items, 1, _files(size.items, ITEMS_PER_FILE)).createOrReplaceTempView("numbers")
    run_sql(
        session,
        "make_shop_items",
        **vocabulary,
        seed=size.seed,
        puffery=list(sample_shop.PUFFERY),
        materials=list(sample_shop.MATERIALS),
        names=list(sample_shop.NAME_WORDS),
        pictures=size.pictures,
        updated_at=LISTED_AT,
    )
    _write_table(session.table("items"), folder / "items", "items")
    # One file: readers of truth expect truth/items.parquet.
    _write_table(session.table("truth_items").coalesce(1), folder / "truth" / "items", "truth_items")
    next((folder / "truth" / "items").glob("part-*.parquet")).rename(folder / "truth" / "items.parquet")
    shutil.rmtree(folder / "truth" / "items")
    (folder / "pictures").mkdir()
    if size.pictures:
        looks = session.table("made_items").select("number", "category", "type", "fact_value", "pattern", "images")
        draw = _Drawer(folder=folder / "pictures", seed=size.seed)
        # Smaller tasks than the catalogue's files: drawing is slow.
        looks.repartition(_files(size.items, 5_000)).foreachPartition(draw)

    # Each task makes requests of one day, which become one file.
    files = size.days * _files(size.requests_per_day, REQUESTS_PER_FILE)
    session.range(0, size.days * size.requests_per_day, 1, files).createOrReplaceTempView("request_numbers")
    visits, places = _visit_block()
    hours = np.repeat(np.arange(24), shoppers.HOURS.astype(int)).tolist()
    fits = {
        name: [round(shoppers.CLICKS[name] * 1_000_000), round(shoppers.CARTS[name] * 100)] for name in shoppers.CLICKS
    }
    run_sql(
        session,
        "make_shop_log",
        **vocabulary,
        **fits,
        seed=size.seed,
        items=size.items,
        first_day=first_day,
        requests_per_day=size.requests_per_day,
        visits=visits,
        places=places,
        hours=hours,
        examination=[round(chance * 1_000_000) for chance in shoppers.EXAMINATION.tolist()],
        prime=PRIME,
        slot_types=_codes(session, "slots", "slot", "type"),
        look_colours=_codes(session, "looks", "look", "colour"),
        pattern_names=_codes(session, "patterns", "number", "pattern"),
    )
    _write_table(session.table("click_log"), folder / "click_log", "click_log", partition="dt")
    _write_table(session.table("truth_requests"), folder / "truth" / "requests", "truth_requests", partition="dt")
    events = session.read.parquet(str(folder / "click_log")).count()
    return {"items": size.items, "requests": size.days * size.requests_per_day, "events": events}


def _files(rows: int, rows_per_file: int) -> int:
    return -(-rows // rows_per_file)


def _write_table(frame: DataFrame, folder: Path, table: str, *, partition: str | None = None) -> None:
    schema = spark_schema(load_contract(table))
    if partition:
        schema = schema.add(partition, frame.schema[partition].dataType)
    writer = frame.to(schema).write.option("compression", "zstd")
    (writer.partitionBy(partition) if partition else writer).parquet(str(folder))


def _vocabulary_views(session: SparkSession) -> dict[str, int | str]:
    """Views `slots`, `looks` and `patterns`; returns the parameters that both SQL files share."""
    departments = _shares(sample_shop.DEPARTMENTS, SLOTS)
    slots = []
    for department, count in departments.items():
        wares = sample_shop.WARES.get(department)
        if wares:
            types = _shares(dict.fromkeys(wares.types, 1.0), count)
            shelves = {kind: kind.capitalize() for kind in types}
            more = {"fact": wares.fact, "facts": list(wares.values), "brands": list(wares.brands)}
            genders = {kind: ["unisex"] for kind in types}
        else:
            garments = sample_shop.CLOTHING if department == "Clothing" else sample_shop.SHOES
            types = _shares({kind: garment.weight for kind, garment in garments.items()}, count)
            shelves = {kind: garment.shelf for kind, garment in garments.items()}
            more = {"fact": "colour", "facts": [""], "brands": list(sample_shop.FASHION_BRANDS)}
            genders = {kind: list(garment.genders) for kind, garment in garments.items()}
        for kind, times in types.items():
            row = Row(
                slot=0,
                category=f"{department} > {shelves[kind]}",
                visual=wares is None,
                type=kind,
                type_words=list(typed_forms("type", kind)),
                genders=genders[kind],
                **more,
            )
            slots += [row] * times
    # Neighbouring numbers are of different types: 37 is coprime to the number of slots.
    numbered = [Row(**{**row.asDict(), "slot": 37 * n % SLOTS}) for n, row in enumerate(slots)]
    session.createDataFrame(numbered).createOrReplaceTempView("slots")
    colours = _numbered(sample_shop.COLOUR_WEIGHTS, LOOKS)
    looks = [Row(look=n, colour=c, words=list(typed_forms("colour", c))) for n, c in enumerate(colours)]
    session.createDataFrame(looks).createOrReplaceTempView("looks")
    patterns = [
        Row(number=n, pattern=p, words=list(typed_forms("pattern", p)))
        for n, p in enumerate(_numbered(sample_shop.PATTERN_WEIGHTS, PATTERNS))
    ]
    session.createDataFrame(patterns).createOrReplaceTempView("patterns")
    return {"slots": SLOTS, "looks": LOOKS, "patterns": PATTERNS, "code_letters": "ABKLMRSTX"}


def _shares(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers of sum `total` in proportion to the weights, by largest remainder, at least one each."""
    scale = (total - len(weights)) / sum(weights.values())
    counts = {name: 1 + int(weight * scale) for name, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda name: (int(weights[name] * scale) - weights[name] * scale, name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def _numbered(weights: Mapping[str, float], total: int) -> list[str]:
    return [name for name, count in _shares(weights, total).items() for _ in range(count)]


def _codes(session: SparkSession, view: str, number: str, value: str) -> list[int]:
    """A number for each row of a vocabulary view, equal for equal values."""
    values = [row[value] for row in session.table(view).orderBy(number).collect()]
    return [values.index(v) for v in values]


def _visit_block() -> tuple[list[int], list[int]]:
    """Visit, and place in the visit, of each request of a block."""
    lengths = _numbered({str(n): share for n, share in shoppers.VISIT_LENGTHS.items()}, VISIT_BLOCK)
    visits = [visit for visit, length in enumerate(lengths) for _ in range(int(length))]
    places = [place for length in lengths for place in range(int(length))]
    return visits, places


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawer:
    """Draws the pictures of a partition's items into files."""

    folder: Path
    seed: int

    def __call__(self, rows: Iterable[Row]) -> None:
        for row in rows:
            rng = np.random.default_rng([self.seed, 0x5A, row["number"]])
            department = row["category"].split(" > ")[0]
            wares = {"Books": draw_book, "Grocery": draw_package, "Electronics": draw_device}
            if department in wares:
                picture = wares[department](rng)
            else:
                picture = draw_garment(row["type"], row["fact_value"], row["pattern"], rng)
            path = self.folder / row["images"][0]
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(picture)
