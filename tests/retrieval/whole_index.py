"""An index trained and filled at once, and how much it finds of what exact search does."""

from __future__ import annotations

import faiss
import numpy as np

from smar_model.retrieval.index_building import Vectors, fill_index, train_index
from smar_model.retrieval.index_recall import recall_queries


def build_index(vectors: Vectors, factory: str) -> faiss.Index:
    return fill_index(train_index(vectors, factory), vectors)


def recall_against_exact(index: faiss.Index, vectors: Vectors, asked: np.ndarray, depth: int) -> float:
    """Mean share of the exact `depth` best that the index finds, over the asked vectors (Q, 2D)."""
    queries = recall_queries(vectors, asked[:, None], np.zeros(len(asked)), depth=depth)
    return float(queries.found(index, vectors).mean())
