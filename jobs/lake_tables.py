"""Published tables as jobs read and write them: on this machine by Spark's own Parquet source, in an object store by `lake_source.py`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import cast

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from jobs.lake_source import NAME, LakeSource, PartWriting, open_writer
from smar_model.lake.artifacts import Artifact
from smar_model.lake.contracts import load_contract
from smar_model.lake.object_paths import AnyPath, ObjectPath
from smar_model.lake.publishing import READ
from smar_model.lake.stage import StageContext
from smar_model.lake.stored_outputs import damaged_output, lake_url, stored_files
from smar_model.lake.stored_parts import DamagedPart, StoredPart, from_text, store_part, stored_path, verified_copy


def published_files(artifact: Artifact, table: str) -> list[AnyPath]:
    """Files of a published table: on this machine and verified, or in the object store, to be verified where they are read."""
    stored = stored_files(artifact, table)
    return list(artifact.files(table) if stored is None else stored)


def read_published(session: SparkSession, table: str, files: Iterable[AnyPath]) -> DataFrame:
    """Read a table that a stage published; one without files (no rows, or expired) is empty."""
    schema = cast(StructType, StructType.fromDDL(load_contract(table).spark_schema()))
    paths: list[str] = []
    stored: dict[str, list[tuple[str, int, str]]] = {}
    for file in files:
        if isinstance(file, ObjectPath):
            assert file.known
            stored.setdefault(file.url, []).append((file.inner, file.known.st_size, file.known.sha256))
        else:
            paths.append(str(file))
    frames = [session.read.schema(schema).parquet(*paths)] if paths else []
    for url, listed in stored.items():
        session.dataSource.register(LakeSource)
        options = {"url": url, "files": json.dumps(listed)}
        frames.append(session.read.format(NAME).schema(schema).options(**options).load())
    frame = frames[0] if frames else session.createDataFrame([], schema)
    for other in frames[1:]:
        frame = frame.unionAll(other)
    return frame


def at_hand(context: StageContext, files: Iterable[AnyPath]) -> list[Path]:
    """Files of a published table for this process itself to read: those of the object store as verified copies, which go with the attempt.

    Raises:
        DamagedOutput: one is gone, or is not what was published.
    """
    try:
        return [verified_copy(f, context.folder / READ) if isinstance(f, ObjectPath) else f for f in files]
    except DamagedPart as damaged:
        raise damaged_output(damaged) from None


def write_to_store(
    frame: DataFrame,
    context: StageContext,
    table: str,
    *,
    rows_per_group: int | None = None,
    plain: tuple[str, ...] = (),
) -> list[ObjectPath]:
    """Let the executors write a table into the object store, below the attempt's folder; returns its files, one of no rows if there are none."""
    attempt = context.attempt
    assert attempt is not None
    parts = write_parts(
        frame, context, table, attempts={"": attempt.stored_folder}, rows_per_group=rows_per_group, plain=plain
    )
    if not parts:
        # As Spark's own writer does: a table without rows is a table.
        empty = context.folder / ".empty.parquet"
        open_writer(empty, to_arrow_schema(frame.schema)).close()
        parts = [store_part(empty, _url(), attempt.stored_folder, f"{table}/part-00000.parquet")]
    attempt.parts[table] = parts
    return stored_paths(parts)


def write_parts(
    frame: DataFrame,
    context: StageContext,
    table: str,
    *,
    attempts: Mapping[str, str],
    by: str | None = None,
    rows_per_group: int | None = None,
    plain: tuple[str, ...] = (),
) -> list[StoredPart]:
    """Let the executors write a table into the folders of attempts, by a column where there are several; returns what they have written."""
    record = context.folder / f".{table}.parts.json"
    writing = PartWriting(
        url=_url(),
        table=table,
        attempts=attempts,
        record=str(record),
        by=by,
        rows_per_group=rows_per_group,
        plain=plain,
    )
    frame.sparkSession.dataSource.register(LakeSource)
    frame.write.format(NAME).option("writing", json.dumps(asdict(writing))).mode("append").save()
    return sorted(from_text(record.read_text(encoding="utf-8")), key=lambda part: part.name)


def stored_paths(parts: Iterable[StoredPart]) -> list[ObjectPath]:
    return [stored_path(_url(), f"{part.attempt}/{part.name}", size=part.bytes, sha256=part.sha256) for part in parts]


def _url() -> str:
    url = lake_url()
    assert url
    return url
