"""Queries through the network itself, in PyTorch: to judge a model that has no index, and what is served of one that has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from smar_model.network.model import RetrievalModel
from smar_model.retrieval.item_embeddings import ItemEmbeddings, routed_items
from smar_model.retrieval.query_encoder import QUERY_BATCH, QueryEncoder, score_rows
from smar_model.retrieval.query_tower import QueryTower
from smar_model.retrieval.ranking import Ranking, concatenate_rankings, rank_scores
from smar_model.training.model_files import load_model
from smar_model.training.model_folder import QuerySide


def network_tower(model: RetrievalModel) -> QueryTower:
    """A model's own query tower and header."""
    model.eval()

    @torch.inference_mode()
    def run(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        embeddings, logits = model.encode_queries(torch.from_numpy(ids))
        return embeddings.numpy(), logits.numpy()

    return run


def load_network_tower(model_folder: Path) -> QueryTower:
    """Raises InputError: the model is not whole."""
    return network_tower(load_model(model_folder))


def network_encoder(model: RetrievalModel, tokenizer_file: Path) -> QueryEncoder:
    side = QuerySide(
        variant=model.variant,
        query_length=model.shape.query_length,
        dimension=model.shape.network.dimension,
        header_temperature=float(model.header_temperature),
    )
    return QueryEncoder(side, network_tower(model), tokenizer_file)


class DenseRanker:
    """Exact search over embeddings in memory: for models without a served index, and to judge an index by."""

    def __init__(self, model: RetrievalModel, tokenizer_file: Path, embeddings: ItemEmbeddings) -> None:
        self.encoder = network_encoder(model, tokenizer_file)
        self.item_ids = embeddings.item_ids
        self.items = routed_items(embeddings)

    def rank(self, queries: list[str], depth: int) -> Ranking:
        asked, _, _ = self.encoder.encode(queries)
        step = QUERY_BATCH * self.encoder.heads
        parts = [
            rank_scores(self.encoder.join_heads(asked[start : start + step] @ self.items.T), depth)
            for start in range(0, max(1, len(asked)), step)
        ]
        return concatenate_rankings(parts)

    def score_rows(self, queries: list[str], rows: np.ndarray) -> np.ndarray:
        return score_rows(self.encoder, lambda wanted: self.items[wanted], queries, rows)
