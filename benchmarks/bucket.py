"""Throughput of a shop and a lake in a bucket beside those on this machine's disk: `python -m benchmarks.bucket` writes `benchmarks/bucket.md`.

Both ways run the same jobs over the same made shop, in processes of their own, in turn; the tables must have equal digests. The S3 server is
the one of the tests, on this machine: it takes cores from what it serves, and its own throughput bounds all that is measured here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import date
from pathlib import Path
from typing import Any

from smar_model.lake.checkout import commit
from smar_model.settings import REPOSITORY, Spark

PAGE = REPOSITORY / "benchmarks" / "bucket.md"
DAY = date(2026, 11, 19)
STAGES = ("prepare-items", "extract-clicks", "generate-queries")
TABLE = ("generate-queries", "synthetic_queries")
"""The largest one, which is read and written once more."""
WAYS = ("disk", "bucket")
RAW_BYTES = 256 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--days", type=int, default=3)
    parser.add_argument("--requests", type=int, default=15_000, help="a day, about 13 events each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        with redirect_stdout(sys.stderr):
            answer = measure(options.root, days=options.days)
        print(json.dumps(answer))
        return
    from jobs.make_shop import Size, make_shop
    from tests.s3_server import BUCKET, running_s3, upload_folder

    with tempfile.TemporaryDirectory() as scratch, running_s3() as variables:
        shop, size = (
            Path(scratch) / "shop",
            Size(items=options.items, days=options.days, requests_per_day=options.requests),
        )
        counts = make_shop(shop, size, last_day=DAY, spark=Spark())
        roots = {"disk": str(shop), "bucket": upload_folder(variables, shop, "shop")}
        raw = raw_throughput(variables)
        measured: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for number in range(options.rounds):
            for way in WAYS:
                home = Path(scratch) / f"{way}-{number}"
                environment = os.environ | variables | {"SMAR_HOME": str(home)}
                if way == "bucket":
                    environment["SMAR_STORE"] = f"s3://{BUCKET}/lake-{number}"
                command = [sys.executable, "-m", "benchmarks.bucket", "--way", way, "--root", roots[way]]
                command += ["--days", str(options.days)]
                done = subprocess.run(
                    command, env=environment, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True
                )
                measured[way].append(json.loads(done.stdout))
        digests = {json.dumps(found["content"], sort_keys=True) for of_way in measured.values() for found in of_way}
        assert len(digests) == 1, "the two ways made different tables"
        shop_bytes = sum(file.stat().st_size for file in shop.rglob("*") if file.is_file())
    PAGE.write_text(
        page(measured, raw, counts | {"days": options.days, "bytes": shop_bytes}, options), encoding="utf-8"
    )
    print(PAGE)


def measure(root: str, *, days: int) -> dict[str, Any]:
    """Seconds of each stage, and of reading and writing the largest table once more in a warm session."""
    from jobs.lake_tables import published_files, read_published
    from jobs.spark_session import start_session, write_table
    from smar_model.lake.publishing import Attempt
    from smar_model.lake.runs import Run, create_run
    from smar_model.lake.stage import StageContext, run_stage
    from smar_model.settings import validate_settings
    from smar_model.stages import STAGES as TABLE_OF_STAGES

    content = {
        "shop": {"root": root, "visual_departments": ["Clothing", "Shoes"]},
        "window": {"days": days},
        "training": {name: {"steps": 1, "batch": 8} for name in ("adapt_vision", "pretrain", "finetune")},
    }
    settings = validate_settings(content, source="benchmark")
    run = create_run(
        Run(name="bucket", date=DAY, settings_source="benchmark", settings=settings, champion=None, promotion="never")
    )
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.monotonic()
        found = work()
        seconds[name] = time.monotonic() - started
        return found

    with tempfile.TemporaryDirectory() as scratch:
        session = start_session(settings.spark, name="benchmark", scratch=Path(scratch))
        session.range(1_000_000).selectExpr("sum(id)").collect()
        made = {name: timed(name, lambda name=name: run_stage(TABLE_OF_STAGES[name], run)) for name in STAGES}
        stage, table = TABLE
        files = published_files(made[stage], table)
        timed("read cold", lambda: read_published(session, table, files).write.format("noop").mode("overwrite").save())
        timed("read again", lambda: read_published(session, table, files).write.format("noop").mode("overwrite").save())
        frame = read_published(session, table, files).persist()
        rows = frame.count()
        attempt = Attempt(stage, "benchmark")
        context = StageContext(
            stage=TABLE_OF_STAGES[stage], run=run, inputs={}, folder=attempt.folder, key="benchmark", attempt=attempt
        )
        written = timed("write", lambda: write_table(frame, context, table, rebalance=False, plain=("query",)))
        size = sum(file.stat().st_size for file in written)
        attempt.discard()
        session.stop()
    return {
        "seconds": seconds,
        "rows": rows,
        "bytes": size,
        "content": {name: artifact.manifest["content"] for name, artifact in made.items()},
    }


def raw_throughput(variables: dict[str, str]) -> dict[str, float]:
    """MB/s of the server itself, one large object at a time."""
    import obstore
    from obstore.store import S3Store

    from tests.s3_server import BUCKET

    store = S3Store(
        BUCKET,
        endpoint=variables["AWS_ENDPOINT_URL"],
        access_key_id=variables["AWS_ACCESS_KEY_ID"],
        secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        region=variables["AWS_DEFAULT_REGION"],
        client_options={"allow_http": True},
    )
    content, found = os.urandom(RAW_BYTES), {}
    started = time.monotonic()
    obstore.put(store, "raw", content)
    found["put"] = RAW_BYTES / 1e6 / (time.monotonic() - started)
    started = time.monotonic()
    assert len(obstore.get(store, "raw").bytes()) == RAW_BYTES
    found["get"] = RAW_BYTES / 1e6 / (time.monotonic() - started)
    obstore.delete(store, "raw")
    return found


def page(measured: dict[str, Any], raw: dict[str, float], shop: dict[str, int], options: argparse.Namespace) -> str:
    command = f"--items {options.items} --days {options.days} --requests {options.requests} --rounds {options.rounds}"
    rows, size = (measured["disk"][0][name] for name in ("rows", "bytes"))
    lines = [
        "# A shop and a lake in a bucket: throughput beside the disk",
        "",
        f"{date.today()}, commit {commit()}, {os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}. Written by:",
        "",
        f"    .venv/bin/python -m benchmarks.bucket {command}",
        "",
        f"A made shop of {shop['items']:,} items and {shop['events']:,} events on {shop['days']} days ({shop['bytes'] / 1e6:.1f} MB, no pictures), Spark on "
        f"`local[2]`; medians of {options.rounds} rounds (smallest to largest), in turn. All tables are equal by digest. The S3 server is the tests' (moto), one "
        f"Python process on the same cores: by itself it takes {raw['put']:.0f} MB/s in and gives {raw['get']:.0f} MB/s out, one large object at a time. What it "
        "bounds here a real store and a network would bound elsewhere.",
        "",
        "| stage, in a warm session | disk, s | bucket, s | times |",
        "| --- | ---: | ---: | ---: |",
    ]

    def seconds(way: str, name: str) -> tuple[float, str]:
        found = [each["seconds"][name] for each in measured[way]]
        middle = statistics.median(found)
        return middle, f"{middle:.2f} ({min(found):.2f} to {max(found):.2f})"

    for name in STAGES:
        (disk, told), (bucket, said) = seconds("disk", name), seconds("bucket", name)
        lines.append(f"| {name} | {told} | {said} | {bucket / disk:.2f} |")
    lines += [
        "",
        f"The table `{TABLE[1]}`, {rows:,} rows, {size / 1e6:.1f} MB as Parquet, read whole by Spark and written once more:",
        "",
        "| | disk, rows/s | disk, MB/s | bucket, rows/s | bucket, MB/s |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    named = {
        "read cold": "read, first time: fetched and verified by the workers",
        "read again": "read again: the executor's verified copy",
        "write": "written: digested and put by the workers",
    }
    for name, words in named.items():
        disk, bucket = seconds("disk", name)[0], seconds("bucket", name)[0]
        lines.append(
            f"| {words} | {rows / disk:,.0f} | {size / 1e6 / disk:.1f} | {rows / bucket:,.0f} | {size / 1e6 / bucket:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
