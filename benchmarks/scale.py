"""What a night costs at other sizes: the tables of docs/scale.md, from rates that this project measured.

    python benchmarks/scale.py

`RATES` are slopes, so that what a process takes to start does not count a million times; each says where it was measured. `SHOPS` and
`ASSUMED` are what a team would replace by its own.
"""

from __future__ import annotations

from dataclasses import dataclass

RATES = {
    # CPU µs an event, between 10 and 30 million events: benchmarks/data.md.
    "extract-clicks": (551.0 - 223.4) / 20.03,
    "check-data": (153.1 - 81.5) / 20.03,
    "assign-segments and label-fashion": (75.8 - 60.2 + 24.2 - 21.1) / 20.03,
    # CPU µs a query, between 9.8 and 17.2 million queries: benchmarks/data.md.
    "generate-queries": (108.1 - 76.3) / 7.33,
    # CPU µs an item: 200,000 items without pictures (benchmarks/data.md).
    "prepare-items": 47.1 / 0.2,
    # CPU µs a picture, two cores for 34.0 s and 13.1 s: 17,436 and 12,258 pictures (row `default` of `smar compare`).
    "decode pictures": 2 * 34.0 / 0.017436,
    "encode-pictures": 2 * 13.1 / 0.012258,
    # CPU µs an item and pair: benchmarks/embedding.md, training.md (two cores).
    "embed": 2 / 0.057544,
    "train, CPU": 2 / 0.010507,
    # GPU µs a pair: one H200, benchmarks/training.md.
    "train, GPU": 1 / 0.068993,
    # CPU µs an item, two cores for 5 s a million: benchmarks/search.md, `fill`.
    "fill the index": 2 * 5.0,
}
BYTES = {
    "event": 6.3,  # click_log of 876,802 events, 5.5 MB
    "thumbnail": 2_500.0,  # 30.6 MB for 12,258 pictures
    "patch tokens": 7_200.0,  # 88 MB, four views
    "embeddings": 2 * 128 * 4.0,
    "index file": 586.0,  # benchmarks/search.md
    "index memory": 970.0,
}
SEARCH_MS = 3.2
"""One query on one core in a million items at recall .99 in the worst fifth (benchmarks/search.md); it grows as the items do: with ten
times the items 9.7 times as long."""
ASSUMED = {"events a click": 14.0, "pairs an item, pretraining once a week": 20.0, "new or changed items a day": 0.01}
WEEK = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    name: str
    items: float
    clicks: float
    """A day."""
    cores: int
    gpus: int


SHOPS = (
    Shop(name="1M items, 10M clicks a day", items=1e6, clicks=1e7, cores=32, gpus=1),
    Shop(name="100M items, 10M clicks a day", items=1e8, clicks=1e7, cores=128, gpus=1),
    Shop(name="100M items, 1B clicks a day", items=1e8, clicks=1e9, cores=512, gpus=8),
    Shop(name="1B items, 1B clicks a day", items=1e9, clicks=1e9, cores=1024, gpus=16),
)


def hours(rate: str, amount: float) -> float:
    return RATES[rate] * amount / 3.6e9


def night(shop: Shop) -> dict[str, str]:
    """The figures of a usual day: pretraining is reused, and 1 % of the items are new."""
    events, changed = shop.clicks * ASSUMED["events a click"], shop.items * ASSUMED["new or changed items a day"]
    per_event = ("extract-clicks", "check-data", "assign-segments and label-fashion")
    spark = sum(hours(rate, events) for rate in per_event)
    spark += hours("prepare-items", shop.items) + hours("decode pictures", changed)
    other = hours("encode-pictures", changed) + hours("embed", shop.items) + hours("fill the index", shop.items)
    fine_tuning, pretraining = (
        hours("train, GPU", shop.clicks),
        shop.items * ASSUMED["pairs an item, pretraining once a week"],
    )
    wall = (spark + other) / shop.cores + fine_tuning / shop.gpus
    shards = max(1, round(shop.items / 1e6))
    terabytes = {
        "events of 30 days": 30 * events * BYTES["event"],
        "pictures": shop.items * (BYTES["thumbnail"] + BYTES["patch tokens"]),
        "embeddings and index": shop.items * (BYTES["embeddings"] + BYTES["index file"]),
    }
    return {
        "events a day": f"{events:,.0f}",
        "Spark, core-hours a day": f"{spark:,.1f}",
        "embedding and index, core-hours a day": f"{other:,.1f}",
        "fine-tuning, GPU-hours a day": f"{fine_tuning:,.2f}",
        "pretraining, GPU-hours a week": f"{hours('train, GPU', pretraining):,.1f}",
        "synthetic queries, core-hours a week": f"{hours('generate-queries', pretraining):,.1f}",
        "first day: all pictures, core-hours": f"{hours('decode pictures', shop.items) + hours('encode-pictures', shop.items):,.0f}",
        **{f"{name}, TB": f"{size / 1e12:,.2f}" for name, size in terabytes.items()},
        "index in memory, GB": f"{shop.items * BYTES['index memory'] / 1e9:,.0f}",
        "one query, all of one index, core-ms": f"{SEARCH_MS * shop.items / 1e6:,.0f}",
        f"shards for {SEARCH_MS:g} ms": f"{shards:,}",
        "the night, hours": f"{wall:,.1f} on {shop.cores:,} cores, {shop.gpus} GPU(s)",
    }


def main() -> None:
    columns = {shop.name: night(shop) for shop in SHOPS}
    print("| | " + " | ".join(columns) + " |")
    print("| --- |" + " ---: |" * len(columns))
    for figure in next(iter(columns.values())):
        print(f"| {figure} | " + " | ".join(column[figure] for column in columns.values()) + " |")


if __name__ == "__main__":
    main()
