"""A release that was exported, in another engine: Qdrant, in this process (its client's local mode)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
from qdrant_client import QdrantClient, models
from starlette.testclient import TestClient

Found = list[tuple[str, float]]
"""Items and scores, best first."""


def load_engine(export: Path, *, vectors: str = "stored_vector") -> QdrantClient:
    """A collection `items` of an export, its columns beside the vectors as payload, as docs/engines.md has it."""
    engine = QdrantClient(":memory:")
    rows = ds.dataset(export / "exported_items").to_table()
    stored = np.stack(rows[vectors].to_numpy())
    engine.create_collection(
        "items", vectors_config=models.VectorParams(size=stored.shape[1], distance=models.Distance.DOT)
    )
    payload = rows.drop_columns(["text_embedding", "multimodal_embedding", "stored_vector"]).to_pylist()
    engine.upload_collection("items", vectors=stored, payload=payload, ids=list(range(len(payload))))
    return engine


def ask_engine(
    engine: QdrantClient, server: TestClient, query: str, *, k: int = 10, department: str = "", **asked: Any
) -> Found:
    """The k best items by what `POST /encode` says of a query; the heads of one that has several put together here."""
    answer = server.post("/encode", json={"queries": [query], **asked})
    assert answer.status_code == 200, answer.text
    encoded, temperature = answer.json()["answers"][0], answer.json()["head_temperature"]
    only = models.Filter(must=[models.FieldCondition(key="department", match=models.MatchValue(value=department))])
    everything = engine.count("items").count
    by_head = [
        engine.query_points(
            "items",
            query=vector,
            limit=k if temperature is None else everything,
            query_filter=only if department else None,
        ).points
        for vector in encoded["vectors"]
    ]
    if temperature is None:
        return [(point.payload["item_id"], point.score) for point in by_head[0]]
    names = sorted(point.payload["item_id"] for point in by_head[0])
    scores = np.array([[{p.payload["item_id"]: p.score for p in head}[name] for name in names] for head in by_head])
    weights = np.exp((scores - scores.max(axis=0)) / temperature)
    joined = (weights * scores).sum(axis=0) / weights.sum(axis=0)
    return sorted(zip(names, joined.tolist(), strict=True), key=lambda found: (-found[1], found[0]))[:k]
