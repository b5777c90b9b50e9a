"""Items and their pictures: delivered → the catalogue as the model reads it, thumbnails, and a quarantine.

Tables: catalogue, offers, pictures, quarantine and quarantine_counts (sources `items` and `pictures`). Rules:
`sql/prepare_items.sql`; for pictures `missing_file`, `unreachable`, `too_large`, `undecodable`. An item keeps its text
whatever becomes of its pictures. Its time is when its text first stood so, as far as the catalogue of an earlier day tells.

Each content is decoded once, however many items show it, and not again while the newest earlier output that was made in
the same way holds its thumbnail. Pictures are read each time: that is cheap, and a digest of what they hold does not err.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageStat
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from jobs.lake_tables import at_hand, published_files, read_published
from jobs.spark_session import (
    count_rows,
    read_table,
    run_sql,
    spark_session,
    write_table,
)
from smar_model.data.earlier_rows import find_earlier
from smar_model.data.item_pictures import MAXIMUM_FRAMES
from smar_model.delivery.picture_fetching import fetch_pictures, forget_pictures, have_come, share_pictures
from smar_model.delivery.picture_formats import decode_picture
from smar_model.delivery.picture_stores import PictureStore, UnusablePicture, fetched_folder, fetched_name, is_url
from smar_model.lake.artifacts import Artifact, load_artifact
from smar_model.lake.object_paths import AnyPath
from smar_model.lake.runs import Run
from smar_model.lake.stage import StageContext
from smar_model.lake.stored_outputs import lake_url
from smar_model.settings import Pictures

JPEG_QUALITY = 92
PICTURES_PER_BATCH = 256
PICTURES_PER_TASK = 128
"""At least; large shops have four tasks a core, which even out pictures that differ in size."""
NEAR = 8
"""Largest difference between the signatures of near copies: re-encoding at quality 70 and 0.8 of the size changes a
value by 8 at most in 99 of 100 photographs. No four of 16,000 different products come as near."""
SAMPLES = 20
ROWS_PER_GROUP = 4_096
"""Rows of a row group of thumbnails: about 10 MB at 48 × 64 pixels. A trainer holds some of them at a time, to shuffle."""
MISSING_PICTURES = "missing_pictures.json"
"""In an output: the URLs of pictures that could not be fetched or used, if there are any."""
BY_URL = "file RLIKE '^(?i)https?://'"

READ = "item_id string, place int, file string, picture_digest string, reason string, detail string"
DECODED = (
    "picture_digest string, thumbnail binary, perceptual_hash bigint, signature array<int>, uniform boolean, "
    "reason string, detail string"
)

Read = Callable[[str], bytes]
Row = dict[str, Any]
"""Of a table, as Python values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What is kept of a picture; columns as in schemas/pictures.yaml."""

    thumbnail: bytes
    perceptual_hash: int
    signature: list[int]
    uniform: bool


def run(context: StageContext) -> dict[str, int | str]:
    """Write the tables; returns counts.

    Raises:
        InputError: the catalogue lacks a column, or a delivered file is damaged.
    """
    files, settings = context.shop.items(), context.settings.pictures
    with context.shop.pictures().opened(maximum_bytes=settings.maximum_bytes):
        pass  # a damaged zip or an unknown object store is told before Spark starts
    with spark_session(context) as spark:
        # Kept, and cut off from how the rows were mended: Spark would plan that anew inside every rule that reads them.
        items = read_table(spark, "items", files, zone=context.shop.zone, report=context.report)
        items.persist(StorageLevel.DISK_ONLY).createOrReplaceTempView("items")
        earlier_catalogue(spark, context).createOrReplaceTempView("earlier_catalogue")
        run_sql(spark, "prepare_items")
        listed = spark.table("listed_pictures")
        pictures_in, by_url = listed.selectExpr("count(*)", f"count_if({BY_URL})").first() or (0, 0)
        items_in = count_rows(files)
        context.report(f"{items_in:,} items, {pictures_in:,} pictures")
        bad_offers = count_bad_offers(spark, context)
        urls = listed.where(BY_URL).select("file").distinct().toArrow()["file"].to_pylist() if by_url else []
        reader = PictureReader.over(context, urls)
        # Cut off from how they came about: planning would grow with every view that reads them again.
        tasks = max(1, min(4 * spark.sparkContext.defaultParallelism, pictures_in // PICTURES_PER_TASK))
        read_pictures(listed.repartition(tasks), reader).localCheckpoint().createOrReplaceTempView("read_pictures")
        earlier = find_earlier(context, fetch=lake_url() is None)
        known = read_published(spark, "pictures", published_files(earlier, "pictures") if earlier else [])
        known.createOrReplaceTempView("earlier_pictures")
        run_sql(spark, "find_new_pictures")
        decoded = decode_pictures(spark.table("new_pictures").repartition(tasks), reader, settings).persist()
        decoded.createOrReplaceTempView("decoded_pictures")
        run_sql(spark, "judge_pictures", shared_by_items=settings.shared_by_items, near=NEAR)
        spark.table("judged_pictures").localCheckpoint().createOrReplaceTempView("judged_pictures")
        run_sql(spark, "prepare_pictures", samples=SAMPLES, maximum_frames=MAXIMUM_FRAMES)
        written = {
            table: write_table(spark.table(table), context, table, rows_per_group=rows)
            for table, rows in (
                ("pictures", ROWS_PER_GROUP),
                ("catalogue", None),
                ("offers", None),
                ("quarantine", None),
                ("quarantine_counts", None),
            )
        }
        unusable = spark.table("judged_pictures").where(f"reason IS NOT NULL AND {BY_URL}").select("file").distinct()
        missing = sorted(unusable.toArrow()["file"].to_pylist()) if by_url else []
        sums = "SELECT (SELECT count(*) FROM decoded_pictures), count(DISTINCT picture_digest) FROM read_pictures"
        pictures_decoded, distinct = spark.sql(sums).first() or (0, 0)
    metrics = (
        add_up(written, at_hand(context, written["quarantine_counts"]), items_in=items_in, pictures_in=pictures_in)
        | bad_offers
        | {
            "pictures_decoded": pictures_decoded,
            "pictures_reused": distinct - pictures_decoded,
        }
    )
    if not missing:
        return metrics
    # Hosts mend what they send: nothing is kept of it, and the next run looks again (`has_mended`).
    forget_pictures(missing)
    context.output(MISSING_PICTURES).write_text(json.dumps(missing, indent=0), encoding="utf-8")
    return metrics | {"missing_pictures_asked_on": str(context.run.date)}


def count_bad_offers(spark: SparkSession, context: StageContext) -> dict[str, int]:
    """Items whose price or currency is left empty as it cannot be one, by reason; none is named where there is none."""
    rows = spark.table("bad_offers").orderBy("reason").collect()
    for row in rows:
        context.report(f"{row['reason']}: left empty for {row['rows']:,} items, such as {row['example']}")
    return {f"items_with_{row['reason']}": row["rows"] for row in rows}


def has_mended(output: Artifact, run: Run) -> bool:
    """Whether a finished output may lack pictures by URL that can be had by now: it was made for an earlier day, or one of them comes."""
    if MISSING_PICTURES not in output.manifest["files"]:
        return False
    if output.metrics["missing_pictures_asked_on"] < str(run.date):
        return True
    missing = json.loads(output.file(MISSING_PICTURES).read_text(encoding="utf-8"))
    return have_come(missing, run.settings.pictures)


def add_up(
    written: dict[str, list[AnyPath]], quarantine_counts: list[Path], *, items_in: int, pictures_in: int
) -> dict[str, int]:
    """Counts of rows in, kept and in quarantine; a row that is in none of them is a fault of this job."""
    unused = pq.ParquetDataset(list(map(str, quarantine_counts))).read().to_pylist()
    quarantined = {kind: sum(row["rows"] for row in unused if row["source"] == kind) for kind in ("items", "pictures")}
    metrics = {
        "items_in": items_in,
        "items": count_rows(written["catalogue"]),
        "items_quarantined": quarantined["items"],
        "pictures_in": pictures_in,
        "pictures": count_rows(written["pictures"]),
        "pictures_quarantined": quarantined["pictures"],
        **{f"quarantined_{row['reason']}": row["rows"] for row in sorted(unused, key=lambda row: row["reason"])},
    }
    for kind in ("items", "pictures"):
        if metrics[f"{kind}_in"] != metrics[kind] + metrics[f"{kind}_quarantined"]:
            raise RuntimeError(f"prepare-items lost or doubled {kind}: {metrics}")
    return metrics


def earlier_catalogue(spark: SparkSession, context: StageContext) -> DataFrame:
    """The catalogue of the run of an earlier day that `smar start` found; without rows where there is none.

    Raises:
        InputError: it is gone since, or damaged.
    """
    earlier = context.run.earlier_catalogue
    if earlier is None:
        context.report("no earlier catalogue of this shop: an item's text is taken to have stood since its updated_at")
        return read_published(spark, "catalogue", [])
    return read_published(
        spark, "catalogue", published_files(load_artifact(context.stage.name, earlier.key), "catalogue")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureReader:
    """Reads pictures by name or URL, on any machine that sees the shop, and the home folder or the object store."""

    store: PictureStore
    fetched: AnyPath
    maximum_bytes: int
    failures: dict[str, tuple[str, str]]
    """URL → reason and detail, where a picture could not be fetched."""

    @classmethod
    def over(cls, context: StageContext, urls: list[str]) -> PictureReader:
        """Of the shop's pictures, and of those that are fetched first."""
        settings, shared = context.settings.pictures, lake_url()
        failures = fetch_pictures(urls, settings, context.report) if urls else {}
        return cls(
            store=context.shop.pictures(),
            fetched=share_pictures([u for u in urls if u not in failures], shared)
            if shared and urls
            else fetched_folder(),
            maximum_bytes=settings.maximum_bytes,
            failures=failures,
        )

    @contextmanager
    def opened(self) -> Iterator[Read]:
        """A function from a name to bytes; it raises UnusablePicture."""
        with self.store.opened(maximum_bytes=self.maximum_bytes) as read_named:

            def read(name: str) -> bytes:
                if not is_url(name):
                    return read_named(name)
                if name in self.failures:
                    raise UnusablePicture(*self.failures[name])
                return (self.fetched / fetched_name(name)).read_bytes()

            yield read


def read_pictures(listed: DataFrame, reader: PictureReader) -> DataFrame:
    """`listed` (item_id, place, file) with each picture's digest, or why it cannot be read; columns as in `READ`."""

    def digest(read: Read, row: Row) -> Row:
        return {"picture_digest": hashlib.sha256(read(row["file"] or "")).hexdigest()}

    return _for_each(listed, reader, digest, READ)


def decode_pictures(new: DataFrame, reader: PictureReader, settings: Pictures) -> DataFrame:
    """What is to be kept of each picture of `new` (picture_digest, file); columns as in `DECODED`."""
    size, uniform_below = (settings.width, settings.height), settings.uniform_below

    def decode(read: Read, row: Row) -> Row:
        content = read(row["file"])
        if hashlib.sha256(content).hexdigest() != row["picture_digest"]:
            raise RuntimeError(f"{row['file']}: changed while it was being read; run the stage again")
        look = look_at(content, size, uniform_below=uniform_below)
        return {name: getattr(look, name) for name in Look.__slots__}

    return _for_each(new, reader, decode, DECODED)


def _for_each(rows: DataFrame, reader: PictureReader, work: Callable[[Read, Row], Row], ddl: str) -> DataFrame:
    """Each row with what `work` makes of it, or the reason and detail of the UnusablePicture that it raises."""
    schema = to_arrow_schema(cast(StructType, StructType.fromDDL(ddl)))

    def run_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with reader.opened() as read:
            for batch in batches:
                for start in range(0, batch.num_rows, PICTURES_PER_BATCH):
                    made = batch.slice(start, PICTURES_PER_BATCH).to_pylist()
                    for row in made:
                        try:
                            row |= work(read, row)
                        except UnusablePicture as error:
                            row |= {"reason": error.reason, "detail": error.detail}
                    yield pa.RecordBatch.from_pylist(made, schema=schema)

    return rows.mapInArrow(run_batches, ddl)


def look_at(content: bytes, size: tuple[int, int], *, uniform_below: float) -> Look:
    """Decode a picture's file: upright, RGB, on white, fitted into `size` (width, height; pixels).

    Raises:
        UnusablePicture: `too_large` (over MAXIMUM_PIXELS, told from the header) or `undecodable`.
    """
    fitted = decode_picture(content, size)
    thumbnail = Image.new("RGB", size, "white")
    thumbnail.paste(fitted, (round((size[0] - fitted.width) / 2), round((size[1] - fitted.height) / 2)))
    buffer = io.BytesIO()
    # No chroma subsampling: at this size it would smear colours.
    thumbnail.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    # Without the padding, which would make any picture of another shape look varied.
    grey, box = fitted.convert("L"), Image.Resampling.BOX
    return Look(
        thumbnail=buffer.getvalue(),
        perceptual_hash=_perceptual_hash(fitted, grey),
        signature=np.asarray(fitted.resize((6, 8), box), dtype=int).ravel().tolist(),
        uniform=ImageStat.Stat(grey).stddev[0] < uniform_below,
    )


def _perceptual_hash(fitted: Image.Image, grey: Image.Image) -> int:
    """Difference hash (where the luminance of 9 × 8 points rises or falls by more than 8 from left to right) and the mean
    colour in 8 steps, as 64 bits."""
    points = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    rises = np.diff(points, axis=1)
    colour = np.asarray(fitted.resize((1, 1), Image.Resampling.BOX)) // 32
    marks = (rises > 8).tobytes() + (rises < -8).tobytes() + colour.tobytes()
    return int.from_bytes(hashlib.blake2b(marks, digest_size=8).digest(), "big", signed=True)
