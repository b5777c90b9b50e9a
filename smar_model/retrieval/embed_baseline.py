"""Embeds a catalogue with a text-only baseline and keeps what a server answers with (`baseline_files.py`): for evaluate; and in a process of its
own for a server whose run was judged by an older version, which kept nothing.

    python -m smar_model.retrieval.embed_baseline MODEL_FOLDER FOLDER_TO_WRITE CATALOGUE_FILE...
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smar_model.network.model import RetrievalModel
    from smar_model.retrieval.item_embeddings import ItemEmbeddings


def embed_baseline(
    model: RetrievalModel, model_folder: Path, catalogue_files: Sequence[Path], folder: Path
) -> ItemEmbeddings:
    """Write items and, where it needs one, the exported tower into `folder`."""
    from smar_model.retrieval.baseline_files import write_baseline
    from smar_model.retrieval.item_embedder import embed_catalogue
    from smar_model.retrieval.query_tower import TOWER_FILE
    from smar_model.retrieval.tower_export import export_where_needed

    embeddings = embed_catalogue(model, model_folder / "tokenizer.json", catalogue_files, ())
    write_baseline(folder, embeddings)
    export_where_needed(model, model_folder, folder / TOWER_FILE, "onnx")
    return embeddings


def main(arguments: list[str]) -> None:
    from smar_model.training.model_files import load_model

    model_folder, folder, *files = map(Path, arguments)
    embed_baseline(load_model(model_folder), model_folder, files, folder)


if __name__ == "__main__":
    main(sys.argv[1:])
