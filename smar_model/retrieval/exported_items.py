"""The items of an index with their exact embeddings as Parquet, for another engine (`docs/engines.md`).

    export.json                    what it is: model, index, dimension, how a score is computed, the files with their digests
    exported_items/part-*.parquet  table exported_items, in the order of the index

A block of rows is in memory at a time. The folder appears under its name when all of it is on the disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Literal

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract, read_parquet_schema
from smar_model.lake.digests import digest_file
from smar_model.lake.durable_files import flush_files, make_folder, named_in_errors
from smar_model.lake.process_identity import temporary_beside
from smar_model.network.variants import HEAD_TEMPERATURE, Variant
from smar_model.retrieval.index_files import describe_index
from smar_model.retrieval.item_embeddings import open_embeddings

TABLE, DESCRIPTION = "exported_items", "export.json"
ROWS_A_GROUP = 1 << 14
"""With D = 128, 32 MB of embeddings."""
ROWS_A_FILE = 1 << 20
_NUMBERS = {"text_embedding": 1, "multimodal_embedding": 1, "stored_vector": 2}
"""Column → its length in D."""
_SHARES = {
    "soft": "the share of pictures that the model was trained to mix by, 0 to 1",
    "hard": "1 where P(q) >= 0.5, else 0",
    "none": "the same for all queries: 1, or 0 for a model without pictures",
}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class ExportedFile(_Record):
    rows: int
    digest: str
    """SHA-256."""


class ExportedRelease(_Record):
    """Which release the items are of."""

    version: str
    """Number in the registry, by which `POST /encode` is asked."""
    run: str
    model_digest: str
    index_digest: str


class Export(ExportedRelease):
    """export.json"""

    table: str = TABLE
    embeddings_from: Literal["embeddings", "flat index"]
    items: int
    dimension: int
    """D, of S_t, S_m and Q."""
    vector_dimension: int
    """2D, of the stored vector and of what an index is asked."""
    heads: int
    """K vectors a query."""
    head_temperature: float | None
    """β, by which the scores of several heads are put together; None: there is one."""
    routing: Literal["soft", "hard", "none"]
    share: str
    """What p is."""
    score: str
    files: dict[str, ExportedFile]


class ExactVectors:
    """S_t and S_m of an index's items, by rows, from where they are exact."""

    def __init__(self, index_folder: Path, embeddings: Path | None) -> None:
        """`embeddings`: folder of what `embed` or `embed-release` published for this index; None: the index itself, if it is flat.

        Raises:
            InputError: the embeddings are not of this index's shape, or the index keeps codes in the place of vectors.
        """
        manifest, parts = describe_index(index_folder)
        self.count, self.dimension = manifest.items, manifest.dimension // 2
        self._ids: np.ndarray | None = None
        self._flat: list[faiss.Index] = []
        if embeddings:
            self._ids, _, self._vectors = open_embeddings(embeddings)
            shape = self._vectors[0].shape
            if shape != (self.count, self.dimension):
                raise InputError(
                    f"{embeddings}: embeddings of {shape[0]:,} items by {shape[1]}, the index has {self.count:,} by {self.dimension}"
                )
            return
        for file, _ in parts:
            self._flat.append(faiss.read_index(str(file)))
            if not isinstance(self._flat[-1], faiss.IndexFlat):
                raise InputError(f"{file}: holds codes ({manifest.factory}), from which vectors come inexact")

    def read(self, start: int, item_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """S_t and S_m (N, D) of the rows from `start` on, which these items have.

        Raises:
            InputError: they are other items'.
        """
        stop = start + len(item_ids)
        if self._ids is not None:
            if [item.decode() for item in self._ids[start:stop].tolist()] != list(item_ids):
                raise InputError(f"rows {start} to {stop}: the embeddings are of other items than the index has")
            return np.asarray(self._vectors[0][start:stop]), np.asarray(self._vectors[-1][start:stop])
        stored, first = [], 0
        for part in self._flat:
            low, high = max(start - first, 0), min(stop - first, part.ntotal)
            if low < high:
                stored.append(part.reconstruct_n(low, high - low))
            first += part.ntotal
        text, difference = np.split(np.concatenate(stored), 2, axis=1)
        return text, text + difference


def export_items(
    to: Path, release: ExportedRelease, variant: Variant, index_folder: Path, embeddings: Path | None
) -> Export:
    """Write all items of an index, with all columns of its table; `embeddings` as `ExactVectors` takes it.

    Raises:
        InputError: `to` is a file or holds something, the embeddings are of other items, or the index holds codes; nothing is written.
    """
    vectors = ExactVectors(index_folder, embeddings)
    with _made_whole(to) as folder:
        files = _write_table(folder, vectors, [items for _, items in describe_index(index_folder)[1]])
        joined = "score of the item = Σ_k softmax_k(score_k / head_temperature) · score_k over the K heads"
        export = Export(
            **release.model_dump(),
            embeddings_from="embeddings" if embeddings else "flat index",
            items=vectors.count,
            dimension=vectors.dimension,
            vector_dimension=2 * vectors.dimension,
            heads=variant.heads,
            head_temperature=HEAD_TEMPERATURE if variant.heads > 1 else None,
            routing=variant.routing,
            share=_SHARES[variant.routing],
            score="inner product of stored_vector = [S_t ; S_m − S_t] with [Q ; p·Q], which POST /encode gives as `vectors`; "
            f"never cosine{f'; {joined}' if variant.heads > 1 else ''}",
            files=files,
        )
        (folder / DESCRIPTION).write_text(export.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return export


@contextmanager
def _made_whole(to: Path) -> Iterator[Path]:
    """A hidden folder that gets the name `to` once the block has ended well.

    Raises:
        InputError: `to` is there already and is no empty folder.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"{to}: is there already; name a new or an empty folder, one for each export")
    folder = temporary_beside(to.absolute())
    try:
        make_folder(to.absolute().parent)
        folder.mkdir()
    except OSError as error:
        raise InputError(
            f"{to}: cannot be made: {error.strerror or error}; name a folder where this user may write"
        ) from None
    try:
        with named_in_errors(folder):
            yield folder
        flush_files([file for file in folder.rglob("*") if file.is_file()], root=folder)
        folder.replace(to)
        flush_files([], root=to.absolute())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_table(folder: Path, vectors: ExactVectors, item_files: Sequence[Path]) -> dict[str, ExportedFile]:
    """Write the files of the table; returns them by their path in the folder."""
    (folder / TABLE).mkdir()
    schema = _schema(item_files, vectors.dimension)
    rows: dict[str, int] = {}
    for number, tables in groupby(_tables(item_files, vectors, schema), key=lambda found: found[0] // ROWS_A_FILE):
        name = f"{TABLE}/part-{number:05}.parquet"
        texts = [field.name for field in schema if field.name not in _NUMBERS]
        with pq.ParquetWriter(folder / name, schema, compression="zstd", use_dictionary=texts) as writer:
            for start, table in tables:
                writer.write_table(table, row_group_size=ROWS_A_GROUP)
                rows[name] = start + len(table) - sum(count for other, count in rows.items() if other != name)
    if sum(rows.values()) != vectors.count:
        raise InputError(
            f"{item_files[0].parent}: {sum(rows.values()):,} items for {vectors.count:,} vectors; build the index again"
        )
    return {name: ExportedFile(rows=count, digest=digest_file(folder / name)) for name, count in rows.items()}


def _tables(item_files: Sequence[Path], vectors: ExactVectors, schema: pa.Schema) -> Iterator[tuple[int, pa.Table]]:
    """The first row and the rows of one block after the other."""
    start = 0
    for block in _item_blocks(item_files):
        text, multimodal = vectors.read(start, block["item_id"].to_pylist())
        numbers = {
            "text_embedding": text,
            "multimodal_embedding": multimodal,
            # The same operation as where an index is filled, so that the numbers are the same ones.
            "stored_vector": np.hstack([text, multimodal - text]),
        }
        columns = [_fixed(numbers[f.name]) if f.name in numbers else block[f.name] for f in schema]
        yield start, pa.table(columns, names=schema.names).cast(schema)
        start += len(block)


def _item_blocks(item_files: Sequence[Path]) -> Iterator[pa.Table]:
    for file in item_files:
        with pq.ParquetFile(file) as items:
            for batch in items.iter_batches(ROWS_A_GROUP):
                yield pa.Table.from_batches([batch])


def _schema(item_files: Sequence[Path], dimension: int) -> pa.Schema:
    """The contract's columns with the length of each list of numbers, then those that the index's table has besides."""
    contract = load_contract(TABLE).arrow_schema()
    fields = [
        pa.field(f.name, pa.list_(pa.float32(), _NUMBERS[f.name] * dimension), nullable=False)
        if f.name in _NUMBERS
        else f
        for f in contract
    ]
    further = [f for f in read_parquet_schema(item_files[0]) if f.name not in {"row", *contract.names}]
    return pa.schema([*fields, *(pa.field(f.name, f.type, nullable=f.nullable) for f in further)])


def _fixed(numbers: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(numbers, np.float32).reshape(-1)), numbers.shape[1]
    )
