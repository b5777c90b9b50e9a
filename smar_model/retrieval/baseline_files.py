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

FOLDER = "text_only"
_IDS, _TEXT = f"{FOLDER}/item_ids.npy", f"{FOLDER}/text.npy"


def write_baseline(folder: Path, embeddings: ItemEmbeddings) -> None:
    """Write the items into `folder`; the tower is put beside them."""
    np.save(folder / Path(_IDS).name, np.array([item.encode() for item in embeddings.item_ids]))
    np.save(folder / Path(_TEXT).name, np.asarray(embeddings.text, dtype=np.float32))


def has_baseline(judged: Artifact | None) -> bool:
    """Whether evaluate kept the baseline; older versions did not."""
    return judged is not None and _TEXT in judged.manifest["files"]


def baseline_folder(judged: Artifact) -> Path:
    """Where evaluate's output has the baseline, each file verified.

    Raises:
        DamagedOutput: one is not what evaluate published.
    """
    files = [judged.file(name) for name in judged.manifest["files"] if name.startswith(f"{FOLDER}/")]
    return files[0].parent


def read_items(folder: Path) -> ItemEmbeddings:
    """What `write_baseline` wrote.

    Raises:
        InputError: it is not whole.
    """
    try:
        ids, text = (np.load(folder / Path(name).name) for name in (_IDS, _TEXT))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: not whole: {error}; run evaluate again") from error
    return ItemEmbeddings(item_ids=[item.decode() for item in ids.tolist()], text=text, multimodal=text)
