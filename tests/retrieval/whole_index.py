"""An index trained and filled at once, and how much it finds of what exact search does."""

from __future__ import annotations

import faiss
import numpy as np

from smar_model.retrieval.index_building import Vectors, fill_index, train_index
from smar_model.retrieval.index_recall import BUCKETS, recall_queries


def build_index(vectors: Vectors, factory: str) -> faiss.Index:
    return fill_index(train_index(vectors, factory), vectors)


def shares_of(routes: np.ndarray) -> np.ndarray:
    """Share of the queries in each bucket, as they come."""
    return np.bincount(np.digitize(routes, BUCKETS), minlength=len(BUCKETS) + 1) / len(routes)


def recall_against_exact(index: faiss.Index, vectors: Vectors, asked: np.ndarray, depth: int) -> float:
    """Mean share of the exact `depth` best that the index finds, over the asked vectors (Q, 2D)."""
    routes = np.zeros(len(asked))
    queries = recall_queries(vectors, asked[:, None], routes, shares_of(routes), depth=depth)
    return float(queries.found(index, vectors).mean())
