"""Tables of a lake in an object store as a data source of Spark: each executor fetches and writes files itself, by obstore and Arrow.

Spark's own Parquet source needs a file system that all machines see, or a driver for each kind of store in Java. Here a partition is a file:
read, its content verified, once an executor; written, it is put under the attempt's folder, and the driver gets its size and digests. Keys and
address of the store come from the environment of each worker.
"""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark import TaskContext
from pyspark.sql.datasource import (
    DataSource,
    DataSourceArrowWriter,
    DataSourceReader,
    InputPartition,
    WriterCommitMessage,
)
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from smar_model.lake.object_paths import ObjectPath
from smar_model.lake.stored_parts import (
    StoredPart,
    remove_parts,
    store_part,
    stored_path,
    to_text,
    verified_copy,
)

NAME = "smar_lake"
GROUP_BYTES = 64 << 20
"""Of a row group before it is packed; of files by day together, as they are open beside one another."""


class LakeSource(DataSource):
    """Options to read: `url` of the store, `files` (JSON: name, bytes, SHA-256 of each). To write: what `PartWriting` says, in JSON."""

    @classmethod
    def name(cls) -> str:
        return NAME

    def reader(self, schema: StructType) -> DataSourceReader:
        files = [stored_path(self.options["url"], n, size=s, sha256=d) for n, s, d in json.loads(self.options["files"])]
        return _Reader(files, to_arrow_schema(schema))

    def writer(self, schema: StructType, overwrite: bool) -> DataSourceArrowWriter:
        return _Writer(PartWriting(**json.loads(self.options["writing"])))


@dataclass(frozen=True, slots=True, kw_only=True)
class PartWriting:
    """How a table is written."""

    url: str
    table: str
    attempts: Mapping[str, str]
    """Value of the column `by` → folder below the URL that such rows are written into; `""` where all go into one."""
    record: str
    """File of the driver's machine that lists what was written, once all of it is."""
    by: str | None = None
    """A column that is not written."""
    rows_per_group: int | None = None
    plain: tuple[str, ...] = ()
    """Columns without a dictionary."""


@dataclass
class _File(InputPartition):
    path: ObjectPath


class _Reader(DataSourceReader):
    def __init__(self, files: list[ObjectPath], schema: pa.Schema) -> None:
        self.files, self.schema = files, schema

    def partitions(self) -> list[InputPartition]:
        return [_File(path) for path in self.files]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        assert isinstance(partition, _File)
        with pq.ParquetFile(verified_copy(partition.path, _folder("smar_parts")), memory_map=True) as opened:
            for batch in opened.iter_batches():
                yield _conforming(batch, self.schema)


def _conforming(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The columns that are asked for; one that an older output lacks is null."""
    there = set(batch.schema.names)
    arrays = [
        _cast(batch.column(wanted.name), wanted.type) if wanted.name in there else pa.nulls(batch.num_rows, wanted.type)
        for wanted in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([column.with_nullable(True) for column in schema]))


def _cast(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    return array if array.type == wanted else array.cast(wanted)


@dataclass
class _Written(WriterCommitMessage):
    parts: list[StoredPart]


class _Writer(DataSourceArrowWriter):
    def __init__(self, writing: PartWriting) -> None:
        self.writing = writing

    def write(self, iterator: Iterator[pa.RecordBatch]) -> WriterCommitMessage:
        files: dict[str, _TableFile] = {}
        context = TaskContext.get()
        number = context.partitionId() if context else 0
        with tempfile.TemporaryDirectory(dir=_folder("smar_writing")) as folder:
            for batch in iterator:
                for key, rows in self._divided(batch):
                    if key not in files:
                        name = f"part-{number:05}-{uuid.uuid4().hex}.parquet"
                        files[key] = _TableFile(Path(folder) / name, self.writing)
                    files[key].add(rows)
            parts = [
                store_part(
                    file.closed(),
                    self.writing.url,
                    self.writing.attempts[key],
                    f"{self.writing.table}/{file.path.name}",
                )
                for key, file in files.items()
            ]
        return _Written(parts)

    def _divided(self, batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
        if batch.num_rows == 0:
            return
        if self.writing.by is None:
            yield "", batch
            return
        keys = batch.column(self.writing.by)
        rest = batch.drop_columns([self.writing.by])
        for key in pc.unique(keys):
            yield str(key), rest.filter(pc.equal(keys, key))

    def commit(self, messages: list[WriterCommitMessage | None]) -> None:
        parts = [part for message in messages if isinstance(message, _Written) for part in message.parts]
        Path(self.writing.record).write_text(to_text(parts), encoding="utf-8")

    def abort(self, messages: list[WriterCommitMessage | None]) -> None:
        remove_parts(self.writing.url, [p for m in messages if isinstance(m, _Written) for p in m.parts])


@dataclass(slots=True)
class _TableFile:
    """A Parquet file that is being written on this machine."""

    path: Path
    writing: PartWriting
    _writer: pq.ParquetWriter | None = None
    _batches: list[pa.RecordBatch] = field(default_factory=list)
    _bytes: int = 0
    _rows: int = 0

    def add(self, batch: pa.RecordBatch) -> None:
        if self._writer is None:
            self._writer = open_writer(self.path, batch.schema, self.writing.plain)
        self._batches.append(batch)
        self._bytes, self._rows = self._bytes + batch.nbytes, self._rows + batch.num_rows
        limit = GROUP_BYTES // len(self.writing.attempts)
        if self._bytes >= limit or self._rows >= (self.writing.rows_per_group or self._rows + 1):
            self._write(all_rows=False)

    def _write(self, *, all_rows: bool) -> None:
        assert self._writer is not None
        table, size = pa.Table.from_batches(self._batches), self.writing.rows_per_group
        whole = table.num_rows if all_rows or not size else table.num_rows // size * size
        if whole:
            self._writer.write_table(table.slice(0, whole), row_group_size=size or whole)
        rest = table.slice(whole)
        self._batches, self._bytes, self._rows = rest.to_batches(), rest.nbytes, rest.num_rows

    def closed(self) -> Path:
        if self._rows:
            self._write(all_rows=True)
        assert self._writer is not None
        self._writer.close()
        return self.path


def open_writer(path: Path, schema: pa.Schema, plain: tuple[str, ...] = ()) -> pq.ParquetWriter:
    """A writer of a file that reads as one that Spark has written: without Arrow's own note of the schema."""
    dictionary = [name for name in schema.names if name not in plain] if plain else True
    return pq.ParquetWriter(path, schema, store_schema=False, use_dictionary=dictionary)


def _folder(name: str) -> Path:
    """A folder that goes when Spark does, of the executor that this worker is one of."""
    folder = Path(os.environ.get("SPARK_LOCAL_DIRS", tempfile.gettempdir()).partition(",")[0]) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
