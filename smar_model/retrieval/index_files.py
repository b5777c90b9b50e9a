"""The files of an index: written whole, refused unless whole.

index.json           what it is: model, items, dimension, factory, search parameters, recall, digests of the other files
index.faiss          or, with `index.parts` above 1, index-0.faiss, index-1.faiss …: each with its stretch of the items
index_items/         table: the items, in the order of the vectors, a file for each part
recall_queries.npy   (Q, K, 2D + 1) float32: real queries of K heads as the index is asked, and the share of S_m that routes each
query_tower.onnx     where the model's query tower has layers, or 8 bits are asked for (`query_tower.py`)
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from smar_model.errors import InputError
from smar_model.lake.digests import digest_file
from smar_model.lake.records import parse_record
from smar_model.retrieval.query_tower import TOWER_FILE
from smar_model.training.model_folder import model_digest

QUERIES_FILE = "recall_queries.npy"


class _Record(BaseModel):
    """Part of index.json; what a later version adds is passed over."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)


class Bucket(_Record):
    """Queries whose share of S_m lies between two bounds."""

    lower: Annotated[float, Field(alias="from")]
    upper: Annotated[float, Field(alias="to")]
    queries: int
    """How many are asked."""
    share: float
    """Of all queries."""
    recall: float
    error: float
    """Standard error of the recall."""


class Recall(_Record):
    """Share of the best items of exact search that an index finds."""

    depth: int
    """How many best ones."""
    overall: float
    """Over all queries as they come."""
    worst: float
    """In the worst bucket with enough queries."""
    sure: float
    """Likewise, less its standard error."""
    buckets: tuple[Bucket, ...]
    floor: float | None = None
    """The least that settings allowed."""


class TowerCheck(_Record):
    """The query tower that is served against PyTorch's."""

    largest_difference: float
    best_items_kept: float


class IndexDescription(_Record):
    """How an index was made and how good it is. Indexes of earlier versions say less."""

    model_digest: str
    factory: str = ""
    search_parameters: str = ""
    """As FAISS's ParameterSpace reads them; of an index in parts those of each part, joined by " / ", unless all are the same."""
    part_parameters: tuple[str, ...] | None = None
    """Of each part, set when it is opened; None: there is one file, or an older version has set them in the files."""
    trained_on: int = 0
    """Items at the time."""
    query_tower: str = "pytorch"
    """What answers: `words`, `onnx`, `onnx_int8`; `pytorch` of older versions, which exported none unless asked to."""
    query_tower_check: TowerCheck | None = None
    recall: Recall | None = None
    shares: tuple[float, ...] = ()
    """Of all queries, in each bucket of routes."""


class IndexManifest(IndexDescription):
    """index.json."""

    items: int
    dimension: int
    """2D"""
    files: dict[str, str] = {}
    """The other files and their digests."""
    parts: tuple[int, ...] | None = None
    """Items of each part; None: there is one file."""
    currencies: tuple[str, ...] = ()
    """Of the prices of all parts, sorted; an empty one where a price says none."""


_FORM = TypeAdapter(IndexManifest)


def write_index(
    folder: Path,
    parts: Iterable[faiss.Index | Path],
    items: pa.Table,
    asked: np.ndarray,
    routes: np.ndarray,
    made: IndexDescription,
    *,
    cuts: Sequence[tuple[int, int]] | None = None,
) -> None:
    """Write all files of an index, `index.json` last.

    Args:
        parts: one, or as many as `cuts`: indexes, or files that hold one each, which are linked to.
        items: index_items, of all parts.
        cuts: first row and the one after the last of each part; None: one part.
        asked: (Q, K, 2D) real queries of K heads.
        routes: (Q,) the share of S_m that routes each.
        made: what `index.json` says besides. The file of an exported query tower is in the folder already.
    """
    cuts = cuts or [(0, len(items))]
    (folder / "index_items").mkdir(exist_ok=True)
    files: list[str] = []
    for number, (index, (start, stop)) in enumerate(zip(parts, cuts, strict=True)):
        names = _files_of(number if len(cuts) > 1 else None)
        if isinstance(index, Path):
            _link(index, folder / names[0])
        else:
            faiss.write_index(index, str(folder / names[0]))
        pq.write_table(items.slice(start, stop - start), folder / names[1])
        files = [*files, *names]
    places = np.repeat(routes[:, None, None], asked.shape[1], axis=1)
    np.save(folder / QUERIES_FILE, np.concatenate([asked, places], axis=2).astype(np.float32))
    files += [QUERIES_FILE, *([TOWER_FILE] if (folder / TOWER_FILE).is_file() else [])]
    about = {
        "items": len(items),
        "dimension": asked.shape[2],
        "files": {name: digest_file(folder / name) for name in files},
        "currencies": _currencies(items),
        "parts": [stop - start for start, stop in cuts] if len(cuts) > 1 else None,
    }
    manifest = IndexManifest.model_validate(dict(made) | about)
    # Sorted, so that a refresh in which nothing has changed is the same index, by content.
    content = manifest.model_dump(by_alias=True, exclude_none=True)
    (folder / "index.json").write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")


def _link(file: Path, to: Path) -> None:
    """Another name of a file that nobody writes to any more; a copy where the file system has no such links."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)


def _currencies(items: pa.Table) -> list[str]:
    if "price" not in items.column_names:
        return []
    priced = items.filter(pc.is_valid(items["price"]))
    return sorted({code or "" for code in priced["currency"].unique().to_pylist()})


def _files_of(part: int | None) -> tuple[str, str]:
    """Files of a part, or of an index that has none."""
    name = "index.faiss" if part is None else f"index-{part}.faiss"
    return name, f"index_items/part-{part or 0}.parquet"


def open_index(
    folder: Path, model_folder: Path, *, part: int | None = None, made_for: str | None = None
) -> tuple[IndexManifest, list[faiss.Index], pa.Table]:
    """Manifest, the parts of a published index one after the other, and their items.

    Args:
        part: number of the only part that is opened, with its items; None: all.
        made_for: digest of the model, where all files of both folders have been verified already; None: they are verified here.

    Raises:
        InputError: a file is missing or damaged, the index was built by another model, or it has no such part.
    """
    try:
        content = (folder / "index.json").read_bytes()
        manifest: IndexManifest = parse_record(
            content, _FORM, path=folder / "index.json", what_to_do="build the index again"
        )
        parts = _parts_of(folder, manifest, part)
        others = {file for n in range(len(manifest.parts or ())) for file in _files_of(n)} - {
            file for files, _ in parts for file in files
        }
        # Indexes of earlier versions list no files.
        for name, digest in manifest.files.items():
            if made_for is None and name not in others and digest_file(folder / name) != digest:
                raise InputError(
                    f"{folder / name}: damaged: its content is not what index.json lists; build the index again"
                )
        indexes = [faiss.read_index(str(folder / files[0])) for files, _ in parts]
        chosen = manifest.part_parameters or ()
        for index, parameters in zip(indexes, chosen if part is None else chosen[part : part + 1], strict=False):
            set_parameters(index, parameters)
        items = _read_items([folder / files[1] for files, _ in parts])
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, pa.ArrowException) as error:
        raise InputError(
            f"{folder}: not a whole index (index.json, index.faiss): {str(error).splitlines()[0]}"
        ) from error
    if manifest.model_digest != (made_for or model_digest(model_folder)):
        raise InputError(f"{folder}: this index was built by another model than {model_folder}; build it again")
    vectors = [index.ntotal for index in indexes]
    if vectors != [size for _, size in parts] or sum(vectors) != len(items):
        raise InputError(f"{folder}: {sum(vectors)} vectors for {len(items)} items; build it again")
    if any(index.d != manifest.dimension for index in indexes):
        raise InputError(
            f"{folder}: vectors of {indexes[0].d} dimensions, index.json says {manifest.dimension}; build it again"
        )
    return manifest, indexes, items


def set_parameters(index: faiss.Index, parameters: str) -> None:
    """Set search parameters as FAISS's ParameterSpace reads them; "" leaves the index as it is."""
    if parameters:
        space: Any = faiss.ParameterSpace()
        space.set_index_parameters(index, parameters)


def _read_items(files: Sequence[Path]) -> pa.Table:
    """Table index_items. `pq.read_table` would import pandas."""
    tables = []
    for file in files:
        with pq.ParquetFile(file) as opened:
            tables.append(opened.read())
    return pa.concat_tables(tables).sort_by("row")


def describe_index(folder: Path) -> tuple[IndexManifest, list[tuple[Path, Path]]]:
    """Manifest of an index whose files have been verified already, and the files of its vectors and of its items, part by part; nothing is opened.

    Raises:
        InputError: `index.json` is missing or damaged.
    """
    file = folder / "index.json"
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); build the index again") from None
    manifest: IndexManifest = parse_record(content, _FORM, path=file, what_to_do="build the index again")
    return manifest, [(folder / vectors, folder / items) for (vectors, items), _ in _parts_of(folder, manifest, None)]


def _parts_of(folder: Path, manifest: IndexManifest, part: int | None) -> list[tuple[tuple[str, str], int]]:
    """Files and number of items of the parts that are asked for."""
    parts = [(_files_of(number), size) for number, size in enumerate(manifest.parts or ())]
    parts = parts or [(_files_of(None), manifest.items)]
    if part is None:
        return parts
    if part >= len(parts):
        raise InputError(
            f"{folder}: has {len(parts)} part(s), from 0, so no part {part}; set index.parts and release a new index"
        )
    return [parts[part]]


def read_recall_queries(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """`asked` and `routes` as `write_index` was given them.

    Raises:
        InputError: the index was made before they were kept.
    """
    try:
        kept = np.load(folder / QUERIES_FILE)
    except FileNotFoundError:
        raise InputError(
            f"{folder}: made by an older version, which kept no queries to measure a refreshed index by; release a new model"
        ) from None
    return np.ascontiguousarray(kept[..., :-1]), kept[:, 0, -1]
