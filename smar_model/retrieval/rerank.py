"""Ordering the first results anew by a network that sees the query with each item (Beyond Text with q in the fusion)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from smar_model.data.sorted_keys import as_bytes
from smar_model.network.model import RetrievalModel
from smar_model.retrieval.item_embedder import BATCH, encode_pictures, sum_by_item
from smar_model.retrieval.item_embeddings import ItemEmbeddings
from smar_model.retrieval.query_encoder import QUERY_BATCH, QueryEncoder
from smar_model.retrieval.ranking import NO_ROW, Ranking, order_candidates


@torch.inference_mode()
def embed_images(model: RetrievalModel, item_ids: Sequence[str], picture_files: Sequence[Path]) -> torch.Tensor:
    """S_i of every item, (N, D): the mean over up to four pictures, or attended to as many as the network has frames."""
    embeddings = []
    with TemporaryDirectory() as scratch:
        shown = encode_pictures(model, picture_files, as_bytes(item_ids), Path(scratch) / "patches.npy")
        for start in range(0, len(item_ids), BATCH):
            rows = np.arange(start, min(start + BATCH, len(item_ids)))
            patches, owners, has = shown.of(model, rows)
            seen = model.encode_images(patches, has)[1]
            embeddings.append(torch.nn.functional.normalize(sum_by_item(seen, owners, len(rows)), dim=-1))
    return torch.cat(embeddings)


@torch.inference_mode()
def rerank(
    model: RetrievalModel,
    encoder: QueryEncoder,
    queries: Sequence[str],
    ranking: Ranking,
    items: ItemEmbeddings,
    images: torch.Tensor,
) -> Ranking:
    """The same items for each query, in the order of the model's `reranker`.

    Args:
        encoder: of the same model.
        images: S_i, in the order of `items`.
    """
    scores = np.full(ranking.rows.shape, -np.inf, dtype=np.float32)
    for start in range(0, len(queries), QUERY_BATCH):
        asked, _ = model.encode_queries(torch.from_numpy(encoder.tokenise(queries[start : start + QUERY_BATCH])))
        for number, query in enumerate(asked, start=start):
            found = ranking.rows[number] != NO_ROW
            rows = ranking.rows[number, found]
            texts = torch.from_numpy(items.text[rows])
            scores[number, found] = model.reranker(query[None], texts, images[rows])[0].numpy()
    return order_candidates(ranking.rows, scores)
