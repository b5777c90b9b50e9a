"""Stage index: a FAISS index routed by P(q), its recall measured against exact search before it is published."""

from __future__ import annotations

import json
import math

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from smar_model.data.catalogue import read_catalogue
from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.lake.stage import StageContext
from smar_model.network.model import load_model, model_digest
from smar_model.retrieval.embed import load_embeddings
from smar_model.retrieval.search import QueryEncoder, routed_items

EXACT_LIMIT = 200_000
"""Up to here exact search answers one query in milliseconds on one core."""
PROBE_SHARE = 0.05
TEST_QUERIES = 1_000
TEST_DEPTH = 100


def choose_factory(items: int) -> str:
    """Exact for small catalogues; above, inverted lists of about 4√N cells."""
    return "Flat" if items <= EXACT_LIMIT else f"IVF{int(4 * math.sqrt(items))},Flat"


def build_index(vectors: np.ndarray, factory: str) -> faiss.Index:
    """Train and fill an inner-product index over (N, 2D) vectors.

    Raises:
        InputError: FAISS does not know the factory string, or has too few vectors to train it.
    """
    try:
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
    except RuntimeError as error:
        raise InputError(f"index.factory {factory!r} for {len(vectors)} items: {error}") from error
    if isinstance(index, faiss.IndexIVF):
        index.nprobe = max(1, round(index.nlist * PROBE_SHARE))
    return index


def recall_against_exact(index: faiss.Index, vectors: np.ndarray, asked: np.ndarray, depth: int) -> float:
    """Mean share of the exact `depth` nearest that the index finds, over the asked vectors (Q, 2D)."""
    depth = min(depth, len(vectors))
    exact = faiss.IndexFlatIP(vectors.shape[1])
    exact.add(vectors)
    _, wanted = exact.search(asked, depth)
    _, found = index.search(asked, depth)
    return float(np.mean([len(np.intersect1d(w, f)) / depth for w, f in zip(wanted, found, strict=True)]))


def run(context: StageContext) -> dict[str, float | str]:
    """Publish index.faiss, index.json and the table index_items; below the recall floor nothing is published."""
    settings = context.settings.index
    model_folder = context.input("finetune").folder / "model"
    embeddings = load_embeddings(context.input("embed").folder)
    vectors = routed_items(embeddings)
    factory = settings.factory or choose_factory(len(vectors))
    context.report(f"building {factory} over {len(vectors):,} items")
    index = build_index(vectors, factory)

    clicks = ds.dataset([str(f) for f in context.table("extract-clicks", "clicks")])
    days = ds.field("day").isin(context.run.training_days)
    queries = sorted(clicks.to_table(columns=["query"], filter=days)["query"].unique().to_pylist())
    picked = np.random.default_rng(0).permutation(len(queries))[:TEST_QUERIES]
    encoder = QueryEncoder(load_model(model_folder), model_folder / "tokenizer.json")
    asked, _, _ = encoder.encode([queries[i] for i in sorted(picked)])
    recall = recall_against_exact(index, vectors, asked, TEST_DEPTH)
    if recall < settings.minimum_recall:
        raise InputError(
            f"index {factory}: recall@{TEST_DEPTH} against exact search is {recall:.3f}, under "
            f"index.minimum_recall {settings.minimum_recall}; choose a finer index.factory"
        )

    faiss.write_index(index, str(context.output("index.faiss")))
    catalogue = (
        read_catalogue(context.table("prepare-items", "catalogue")).set_index("item_id").loc[embeddings.item_ids]
    )
    items = pa.table(
        {
            "row": pa.array(range(len(catalogue)), pa.int64()),
            "item_id": embeddings.item_ids,
            "title": catalogue["title"].tolist(),
            "department": catalogue["department"].tolist(),
            "images": [list(i) for i in catalogue["images"]],
        },
        schema=load_contract("index_items").arrow_schema(),
    )
    pq.write_table(items, context.output("index_items/part-0.parquet"))
    manifest = {
        "model_digest": model_digest(model_folder),
        "items": len(vectors),
        "dimension": vectors.shape[1],
        "factory": factory,
        "recall_at_100": recall,
    }
    context.output("index.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return {"recall_at_100": recall, "items": float(len(vectors)), "factory": factory}
