"""The text-only baseline as a server answers with it: evaluate, which embeds the run's catalogue with it to judge it, keeps that.

text_only/item_ids.npy      (N,) UTF-8 bytes, sorted
          text.npy          (N, D) float32, S_t
          query_tower.onnx  where its tower has layers (`query_tower.py`)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact
from smar_model.retrieval.item_embeddings import ItemEmbeddings
from smar_model.retrieval.query_tower import TOWER_FILE

FOLDER = "text_only"
_IDS, _TEXT = f"{FOLDER}/item_ids.npy", f"{FOLDER}/text.npy"


def write_baseline(folder: Path, embeddings: ItemEmbeddings) -> None:
    """Write the items into `folder`; the tower is put beside them."""
    np.save(folder / Path(_IDS).name, np.array([item.encode() for item in embeddings.item_ids]))
    np.save(folder / Path(_TEXT).name, np.asarray(embeddings.text, dtype=np.float32))


def has_baseline(judged: Artifact | None) -> bool:
    """Whether evaluate kept the baseline; older versions did not."""
    return judged is not None and _TEXT in judged.manifest["files"]


def read_baseline(judged: Artifact | None) -> tuple[ItemEmbeddings, Path] | None:
    """Items and the file of the tower, which need not be there, of what evaluate published; None: it kept none.

    Raises:
        InputError: a file is damaged.
    """
    if judged is None or not has_baseline(judged):
        return None
    tower = f"{FOLDER}/{TOWER_FILE}"
    file = judged.file(tower) if tower in judged.manifest["files"] else judged.folder / tower
    try:
        ids, text = np.load(judged.file(_IDS)), np.load(judged.file(_TEXT))
    except ValueError as error:
        raise InputError(f"{judged.folder / FOLDER}: not whole: {error}; run evaluate again") from error
    return ItemEmbeddings(item_ids=[item.decode() for item in ids.tolist()], text=text, multimodal=text), file
