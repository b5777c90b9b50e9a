"""Throughput of a shop and a lake in a bucket beside those on this machine's disk: `python -m benchmarks.bucket` writes `benchmarks/bucket.md`.

One session of Spark on `local[2]` reads a delivered click log, and writes and reads a table of the lake, by the jobs' own functions, from and
to either in turn. The S3 server is the one of the tests, on this machine: it takes cores from what it serves, and its own throughput bounds
all that is measured here.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame

from jobs.lake_tables import read_published
from jobs.spark_session import read_table, start_session, write_table
from smar_model.lake.checkout import commit
from smar_model.lake.object_paths import AnyPath, place_of
from smar_model.lake.publishing import Attempt
from smar_model.lake.runs import Run
from smar_model.lake.stage import StageContext
from smar_model.settings import REPOSITORY, Spark, validate_settings
from smar_model.stages import STAGES
from tests.s3_server import BUCKET, running_s3, upload_folder

PAGE = REPOSITORY / "benchmarks" / "bucket.md"
DAY = date(2026, 11, 19)
WAYS = ("disk", "bucket")
RAW_BYTES = 128 << 20
CLICKS = (
    f"DATE '{DAY}' AS day",
    "concat('red dress ', id % 50000) AS query",
    "concat('item-', hash(id) % 100000) AS item_id",
    "1L + id % 7 AS impressions",
    "id % 3 AS clicks",
    "0L AS carts",
    "0L AS orders",
    "1.0D + id % 5 AS weight",
)
EVENTS = (
    f"timestamp_micros(unix_micros(TIMESTAMP '{DAY} 09:00:00') + id) AS event_time",
    "'click' AS event",
    "concat('request-', id DIV 12) AS request_id",
    "concat('session-', id DIV 100) AS session_id",
    "concat('user-', id DIV 300) AS user_id",
    "concat('red dress ', id % 50000) AS query",
    "concat('item-', hash(id) % 100000) AS item_id",
    "int(1 + id % 12) AS position",
)
MEASURED = {
    "log": "delivered click log, read and cast by contract",
    "write": "table of the lake, written (in the bucket also digested, by the workers)",
    "cold": "table of the lake, read the first time (from the bucket fetched and verified)",
    "again": "table of the lake, read again (of the bucket the executor's verified copy)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, running_s3() as variables:
        os.environ |= variables | {"SMAR_HOME": f"{scratch}/home"}
        raw = raw_throughput()
        session = start_session(Spark(), name="benchmark", scratch=Path(scratch))
        shop = Path(scratch) / "shop"
        events = session.range(0, options.rows, 1, 4).selectExpr(*EVENTS)
        events.write.parquet(str(shop / "click_log" / f"dt={DAY}"))
        roots: dict[str, AnyPath] = {"disk": shop, "bucket": place_of(upload_folder(variables, shop, "shop"))}
        clicks = session.range(0, options.rows, 1, 4).selectExpr(*CLICKS).persist()
        clicks.count()
        found: dict[str, dict[str, list[float]]] = {way: {name: [] for name in MEASURED} for way in WAYS}
        sizes: dict[str, float] = {}
        for number in range(options.rounds):
            for way in WAYS:
                os.environ.pop("SMAR_STORE", None)
                if way == "bucket":
                    os.environ["SMAR_STORE"] = f"s3://{BUCKET}/lake-{number}"
                measure(clicks, roots[way], found[way], sizes)
        session.stop()
    PAGE.write_text(page(found, sizes, raw, options), encoding="utf-8")
    print(PAGE)


def measure(clicks: DataFrame, root: AnyPath, found: dict[str, list[float]], sizes: dict[str, float]) -> None:
    session = clicks.sparkSession

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.monotonic()
        answer = work()
        found[name].append(time.monotonic() - started)
        return answer

    log = sorted((root / "click_log" / f"dt={DAY}").glob("*.parquet"), key=str)
    sizes["log"] = sum(file.stat().st_size for file in log)
    timed("log", lambda: _read_all(read_table(session, "click_log", log)))
    content: dict[str, Any] = {"shop": {"root": "shop", "visual_departments": ["Clothing"]}}
    content["training"] = {name: {"steps": 1, "batch": 8} for name in ("adapt_vision", "pretrain", "finetune")}
    settings = validate_settings(content, source="benchmark")
    run = Run(name="bucket", date=DAY, settings_source="", settings=settings, champion=None, promotion="never")
    attempt = Attempt("extract-clicks", "benchmark")
    context = StageContext(
        stage=STAGES["extract-clicks"], run=run, inputs={}, folder=attempt.folder, key="benchmark", attempt=attempt
    )
    written = timed("write", lambda: write_table(clicks, context, "clicks", rebalance=False))
    sizes["write"] = sizes["cold"] = sizes["again"] = sum(file.stat().st_size for file in written)
    for name in ("cold", "again"):
        timed(name, lambda: _read_all(read_published(session, "clicks", written)))
    attempt.discard()


def _read_all(frame: DataFrame) -> None:
    frame.write.format("noop").mode("overwrite").save()


def raw_throughput() -> dict[str, float]:
    """MB/s of the server itself, one large object at a time."""
    import obstore

    from smar_model.lake.object_store import open_store

    store, content, found = open_store(f"s3://{BUCKET}", "benchmark"), os.urandom(RAW_BYTES), {}
    started = time.monotonic()
    obstore.put(store, "raw", content)
    found["put"] = RAW_BYTES / 1e6 / (time.monotonic() - started)
    started = time.monotonic()
    assert len(obstore.get(store, "raw").bytes()) == RAW_BYTES
    found["get"] = RAW_BYTES / 1e6 / (time.monotonic() - started)
    obstore.delete(store, "raw")
    return found


def page(found: dict[str, Any], sizes: dict[str, float], raw: dict[str, float], options: argparse.Namespace) -> str:
    command = f"--rows {options.rows} --rounds {options.rounds}"
    load = ", ".join(f"{value:.0f}" for value in os.getloadavg())
    lines = [
        "# A shop and a lake in a bucket: throughput beside the disk",
        "",
        f"{date.today()}, commit {commit()}, {os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}. Written by:",
        "",
        f"    .venv/bin/python -m benchmarks.bucket {command}",
        "",
        f"{options.rows:,} rows, Spark on `local[2]`, medians of {options.rounds} round(s), either way in turn. The S3 server is the tests' (moto), one Python "
        f"process on the same cores: by itself it took {raw['put']:.0f} MB/s in and gave {raw['get']:.0f} MB/s out, one large object at a time. What it bounds "
        f"here a real store and a network bound elsewhere. Load of the machine at the end: {load}; only the ratios hold. "
        "Starting Python's workers and planning is in every figure of the bucket: with so few rows it weighs most.",
        "",
        "| | MB | disk, rows/s | disk, MB/s | bucket, rows/s | bucket, MB/s | bucket takes |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, words in MEASURED.items():
        disk, bucket = (statistics.median(found[way][name]) for way in WAYS)
        megabytes = sizes[name] / 1e6
        lines.append(
            f"| {words} | {megabytes:.1f} | {options.rows / disk:,.0f} | {megabytes / disk:.1f} | {options.rows / bucket:,.0f} | {megabytes / bucket:.1f} | "
            f"{bucket / disk:.1f} times |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
