"""How long `smar shop check` takes and how much memory: a made shop of any number of days and events, checked by a process of its own.

.venv/bin/python -m benchmarks.shop_check --days 10 --events 1000000
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smar_model.settings import REPOSITORY

ITEMS, SHOWN = 200_000, 12
LAST_DAY = date(2026, 11, 19)
WORDS = np.array(
    [
        "red",
        "blue",
        "green",
        "black",
        "white",
        "shirt",
        "dress",
        "shoe",
        "lamp",
        "mug",
        "chair",
        "rug",
        "slim",
        "wide",
        "long",
        "soft",
        "warm",
        "light",
        "dark",
        "plain",
    ],
    dtype=object,
)


def write_items(root: Path, chance: np.random.Generator) -> None:
    departments = np.array(["Clothing > A", "Home > B", "Garden > C"], dtype=object)
    columns = {
        "item_id": pa.array([f"item-{n:07}" for n in range(ITEMS)]),
        "title": pa.array([" ".join(words) for words in WORDS[chance.integers(0, len(WORDS), (ITEMS, 4))]]),
        "category": pa.array(departments[chance.integers(0, 3, ITEMS)]),
        "brand": pa.array(["Acme"] * ITEMS),
        "attributes": pa.array([[("colour", "red")]] * ITEMS, pa.map_(pa.string(), pa.string())),
        "images": pa.array([[]] * ITEMS, pa.list_(pa.string())),
        "updated_at": pa.array([datetime(2026, 10, 1, tzinfo=UTC)] * ITEMS, pa.timestamp("us", tz="UTC")),
    }
    (root / "pictures").mkdir(parents=True)
    pq.write_table(pa.table(columns), root / "items.parquet")


def write_day(root: Path, day: date, events: int, chance: np.random.Generator) -> None:
    """Requests with SHOWN impressions and a click each."""
    requests = events // (SHOWN + 1)
    request = np.repeat(np.arange(requests), SHOWN + 1)
    began = np.datetime64(str(day), "us").astype("int64") + chance.integers(0, 86_000_000_000, requests)
    after = np.tile(np.r_[np.arange(SHOWN) * 1_000, 20_000_000], requests)
    shown = chance.integers(0, ITEMS, (requests, SHOWN))
    queries = np.array([" ".join(words) for words in WORDS[chance.integers(0, len(WORDS), (150_000, 3))]], dtype=object)
    asked = (chance.pareto(1.2, requests) * 50).astype(int) % len(queries)

    def key(name: str, numbers: np.ndarray) -> pa.Array:
        return pa.array([f"{name}{n}" for n in numbers]).take(pa.array(request))

    columns = {
        "event_time": pa.array(np.repeat(began, SHOWN + 1) + after, pa.timestamp("us", tz="UTC")),
        "event": pa.array(np.tile(np.array(["impression"] * SHOWN + ["click"], dtype=object), requests)),
        "request_id": key(f"{day}-", np.arange(requests)),
        "session_id": key(f"s{day}-", np.arange(requests) // 2),
        "user_id": key("u", chance.integers(0, max(1, requests // 3), requests)),
        "query": pa.array(queries[asked][request]),
        "item_id": pa.array([f"item-{n:07}" for n in range(ITEMS)]).take(pa.array(np.c_[shown, shown[:, 2]].ravel())),
        "position": pa.array(np.tile(np.r_[np.arange(1, SHOWN + 1), 3], requests), pa.int32()),
    }
    folder = root / "click_log" / f"dt={day}"
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "part-0.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--events", type=int, default=1_000_000, help="a day")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, chance = Path(folder) / "shop", np.random.default_rng(0)
        write_items(root, chance)
        for n in range(given.days):
            write_day(root, LAST_DAY - timedelta(days=n), given.events, chance)
        command = ["/usr/bin/time", "-v", sys.executable, "-m", "smar_model.cli", "shop", "check", str(root)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    print("\n".join(done.stdout.splitlines()[1:]))
    for sign in ("Elapsed", "User time", "System time", "Maximum resident"):
        print(re.search(rf"{sign}.*", done.stderr)[0])  # type: ignore[index]


if __name__ == "__main__":
    main()
