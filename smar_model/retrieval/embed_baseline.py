"""Embeds a catalogue with a text-only baseline, in a process of its own: for a server whose run was judged by an older version, which kept
nothing to answer with (`baseline_files.py`).

    python -m smar_model.retrieval.embed_baseline MODEL_FOLDER FOLDER_TO_WRITE CATALOGUE_FILE...
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    from smar_model.retrieval.baseline_files import write_baseline
    from smar_model.retrieval.item_embedder import embed_catalogue
    from smar_model.retrieval.query_tower import TOWER_FILE
    from smar_model.retrieval.tower_export import export_where_needed
    from smar_model.training.model_files import load_model

    model_folder, folder, *files = map(Path, arguments)
    model = load_model(model_folder)
    write_baseline(folder, embed_catalogue(model, model_folder / "tokenizer.json", files, ()))
    export_where_needed(model, model_folder, folder / TOWER_FILE, "onnx")


if __name__ == "__main__":
    main(sys.argv[1:])
