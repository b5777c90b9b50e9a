"""The files of an index: written whole, refused unless whole.

index.json           what it is: model, items, dimension, factory, search parameters, recall, digests of the other files
index.faiss
index_items/         table: the items, in the order of its vectors
recall_queries.npy   (Q, K, 2D + 1) float32: real queries of K heads as the index is asked, and the share of S_m that routes each
query_tower.onnx     where `index.query_tower` says so (`query_tower.py`)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smar_model.errors import InputError
from smar_model.lake.digests import digest_file
from smar_model.network.model import model_digest
from smar_model.retrieval.query_tower import TOWER_FILE

QUERIES_FILE = "recall_queries.npy"


def write_index(
    folder: Path, index: faiss.Index, items: pa.Table, asked: np.ndarray, routes: np.ndarray, about: dict[str, Any]
) -> None:
    """Write all files of an index, `index.json` last.

    Args:
        items: index_items.
        asked: (Q, K, 2D) real queries of K heads.
        routes: (Q,) the share of S_m that routes each.
        about: what `index.json` says besides: model_digest, factory, search_parameters, trained_on, recall, shares (of all queries, in
            each bucket of routes), query_tower (with its file in the folder).
    """
    faiss.write_index(index, str(folder / "index.faiss"))
    (folder / "index_items").mkdir(exist_ok=True)
    pq.write_table(items, folder / "index_items" / "part-0.parquet")
    places = np.repeat(routes[:, None, None], asked.shape[1], axis=1)
    np.save(folder / QUERIES_FILE, np.concatenate([asked, places], axis=2).astype(np.float32))
    files = ["index.faiss", "index_items/part-0.parquet", QUERIES_FILE]
    files += [TOWER_FILE] if (folder / TOWER_FILE).is_file() else []
    digests = {name: digest_file(folder / name) for name in files}
    about = about | {"items": index.ntotal, "dimension": index.d, "files": digests}
    # Sorted, so that a refresh in which nothing has changed is the same index, by content.
    (folder / "index.json").write_text(json.dumps(about, indent=1, sort_keys=True), encoding="utf-8")


def open_index(folder: Path, model_folder: Path) -> tuple[dict[str, Any], faiss.Index, pa.Table]:
    """Manifest, index and items of a published index.

    Raises:
        InputError: a file is missing or damaged, or the index was built by another model.
    """
    try:
        manifest = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        # Indexes of earlier versions list no files.
        for name, digest in manifest.get("files", {}).items():
            if digest_file(folder / name) != digest:
                raise InputError(
                    f"{folder / name}: damaged: its content is not what index.json lists; build the index again"
                )
        index = faiss.read_index(str(folder / "index.faiss"))
        items = pq.read_table(folder / "index_items").sort_by("row")
        model, vectors, dimension = manifest["model_digest"], manifest["items"], manifest["dimension"]
    except InputError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, pa.ArrowException) as error:
        raise InputError(
            f"{folder}: not a whole index (index.json, index.faiss): {str(error).splitlines()[0]}"
        ) from error
    if model != model_digest(model_folder):
        raise InputError(f"{folder}: this index was built by another model than {model_folder}; build it again")
    if not index.ntotal == len(items) == vectors:
        raise InputError(f"{folder}: {index.ntotal} vectors for {len(items)} items; build it again")
    if index.d != dimension:
        raise InputError(f"{folder}: vectors of {index.d} dimensions, index.json says {dimension}; build it again")
    return manifest, index, items


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
