"""Items and their pictures: delivered → the catalogue as the model reads it, thumbnails, and a quarantine.

Tables: catalogue, pictures, quarantine (sources `items` and `pictures`). Rules: `sql/prepare_items.sql`; for pictures
`missing_file`, `too_large`, `undecodable`. An item keeps its text whatever becomes of its pictures.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from PIL import Image, ImageOps
from pyspark.sql import DataFrame

from jobs.spark_session import count_quarantined, count_rows, read_table, run_sql, spark_session, write_table
from smar_model.errors import InputError
from smar_model.lake.shop_inputs import PictureStore
from smar_model.lake.stage import StageContext

MAXIMUM_PIXELS = 50_000_000
JPEG_QUALITY = 92
PICTURES_PER_BATCH = 256

DECODED = pa.schema(
    [
        ("item_id", pa.string()),
        ("file", pa.string()),
        ("frame", pa.int32()),  # place among the item's usable pictures
        ("picture_digest", pa.string()),
        ("thumbnail", pa.binary()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
DECODED_DDL = (
    "item_id string, file string, frame int, picture_digest string, thumbnail binary, reason string, detail string"
)


class UnusablePicture(Exception):
    """Why a picture goes to quarantine: `reason` and `detail`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def run(context: StageContext) -> dict[str, int]:
    """Write the tables; returns counts.

    Raises:
        InputError: the catalogue lacks a column, or a delivered file is damaged.
    """
    files, store = context.shop.items(), context.shop.pictures()
    require_readable(store)
    size = (context.settings.pictures.width, context.settings.pictures.height)
    with spark_session(context) as spark:
        read_table(spark, "items", files).createOrReplaceTempView("items")
        run_sql(spark, "prepare_items")
        listed = spark.table("usable_items").selectExpr("sum(size(images))").first()
        pictures_in = int((listed and listed[0]) or 0)
        context.report(f"{count_rows(files):,} items, {pictures_in:,} pictures to decode")
        # Each picture is decoded once, though three tables are made of the result.
        decoded = decode_pictures(spark.table("usable_items"), store, size).persist()
        decoded.createOrReplaceTempView("decoded_pictures")
        run_sql(spark, "prepare_pictures")
        written = {
            table: write_table(spark.table(table), context, table) for table in ("pictures", "catalogue", "quarantine")
        }
        decoded.unpersist()
    reasons = count_quarantined(written["quarantine"])
    broken = {reason: count for (source, reason), count in reasons.items() if source == "pictures"}
    unused = {reason: count for (source, reason), count in reasons.items() if source == "items"}
    metrics = {
        "items_in": count_rows(files),
        "items": count_rows(written["catalogue"]),
        "items_quarantined": sum(unused.values()),
        "pictures_in": pictures_in,
        "pictures": count_rows(written["pictures"]),
        "pictures_quarantined": sum(broken.values()),
        **{f"quarantined_{reason}": count for reason, count in sorted((unused | broken).items())},
    }
    for kind in ("items", "pictures"):
        if metrics[f"{kind}_in"] != metrics[kind] + metrics[f"{kind}_quarantined"]:
            raise RuntimeError(f"prepare-items lost or doubled {kind}: {metrics}")
    return metrics


def require_readable(store: PictureStore) -> None:
    """Open a zip's table of contents.

    Raises:
        InputError: it is damaged.
    """
    if store.path.is_file():
        try:
            zipfile.ZipFile(store.path).close()
        except (zipfile.BadZipFile, OSError) as error:
            raise InputError(f"{store.path}: not a whole zip file ({error}); copy it again") from error


def decode_pictures(items: DataFrame, store: PictureStore, size: tuple[int, int]) -> DataFrame:
    """Thumbnails of every picture that `items` (item_id, images) list, columns as in `DECODED`.

    An item's pictures stay together, so that `frame` counts its usable ones from 0. Four tasks a core even out
    shops whose pictures differ in size.
    """
    partitions = 4 * items.sparkSession.sparkContext.defaultParallelism
    return (
        items.select("item_id", "images")
        .repartition(partitions, "item_id")
        .mapInArrow(_decoder(store, size), DECODED_DDL)
    )


def _decoder(
    store: PictureStore, size: tuple[int, int]
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def decode(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows: list[dict[str, Any]] = []
        with ExitStack() as stack:
            read = open_store(store, stack)
            for batch in batches:
                for item in batch.to_pylist():
                    frame = 0
                    for file in item["images"]:
                        row = {"item_id": item["item_id"], "file": file}
                        try:
                            content = read(file or "")
                            row |= {"thumbnail": make_thumbnail(content, size), "frame": frame}
                            row["picture_digest"] = hashlib.sha256(content).hexdigest()
                            frame += 1
                        except UnusablePicture as error:
                            row |= {"reason": error.reason, "detail": error.detail}
                        rows.append(row)
                    if len(rows) >= PICTURES_PER_BATCH:
                        yield pa.RecordBatch.from_pylist(rows, schema=DECODED)
                        rows = []
        yield pa.RecordBatch.from_pylist(rows, schema=DECODED)

    return decode


def open_store(store: PictureStore, stack: ExitStack) -> Callable[[str], bytes]:
    """A function from a picture's name to its bytes; it raises UnusablePicture."""
    if store.path.is_dir():
        return lambda name: _read_from_folder(store.path, name)
    archive = stack.enter_context(zipfile.ZipFile(store.path))

    def read(name: str) -> bytes:
        try:
            return archive.read(name)
        except KeyError:
            raise UnusablePicture("missing_file", f"not in {store.path.name}") from None
        except Exception as error:  # a damaged entry: wrong checksum, broken stream, unknown compression
            raise UnusablePicture("undecodable", f"{type(error).__name__}: {error}") from error

    return read


def _read_from_folder(root: Path, name: str) -> bytes:
    inner = PurePosixPath(name)
    if inner.is_absolute() or ".." in inner.parts:
        raise UnusablePicture("missing_file", f"outside {root.name}/: names are relative to it")
    path = root / inner
    if not os.path.isfile(path):  # unlike Path.is_file, also False for names that no file can have
        raise UnusablePicture("missing_file", f"not in {root.name}/")
    return path.read_bytes()


def make_thumbnail(content: bytes, size: tuple[int, int]) -> bytes:
    """Turn a picture's file into a JPEG of `size` (width, height; pixels): upright, RGB, padded with white.

    Raises:
        UnusablePicture: `too_large` (over MAXIMUM_PIXELS, told from the header) or `undecodable`.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAXIMUM_PIXELS:
                raise UnusablePicture("too_large", f"{image.width} × {image.height} pixels")
            # JPEG files are decoded at a fraction of their size, at least twice the thumbnail's.
            image.draft(None, (2 * max(size), 2 * max(size)))
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                layer = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
            fitted = ImageOps.pad(upright.convert("RGB"), size, method=Image.Resampling.LANCZOS, color="white")
        buffer = io.BytesIO()
        # No chroma subsampling: at this size it would smear colours.
        fitted.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        return buffer.getvalue()
    except UnusablePicture:
        raise
    except Image.DecompressionBombError as error:
        raise UnusablePicture("too_large", str(error)) from error
    except Exception as error:  # decoders meet arbitrary bytes and raise nearly anything
        raise UnusablePicture("undecodable", f"{type(error).__name__}: {error}") from error
