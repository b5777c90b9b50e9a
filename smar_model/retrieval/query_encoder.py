"""Queries to what an index is asked: one code path for evaluation, the command line and serving. Needs no PyTorch.

An item is stored as [S_t ; S_m − S_t], a query asks [Q ; p·Q]: the inner product is Q·S_t + p·Q·(S_m − S_t), which is
Q·S_m for p = 1 and Q·S_t for p = 0 (design, decision 5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from smar_model.data.text_tokens import encode_queries, load_numbers, load_tokenizer
from smar_model.network.variants import HEAD_TEMPERATURE
from smar_model.retrieval.query_tower import QueryTower, open_tower
from smar_model.retrieval.ranking import NO_ROW
from smar_model.training.model_folder import QuerySide, read_query_side

QUERY_BATCH = 512


class QueryEncoder:
    """Query texts to what the index is asked, [Q ; p·Q]."""

    def __init__(self, side: QuerySide, tower: QueryTower, tokenizer_file: Path) -> None:
        self.side, self.tower = side, tower
        self.tokenizer = load_tokenizer(tokenizer_file)
        self.catalogue_numbers = load_numbers(tokenizer_file)

    @classmethod
    def load(cls, model_folder: Path, exported_tower: Path) -> QueryEncoder:
        """Of a released model; `exported_tower` as `open_tower` takes it.

        Raises:
            InputError: a file is missing or damaged.
        """
        side = read_query_side(model_folder)
        return cls(side, open_tower(model_folder, exported_tower), model_folder / "tokenizer.json")

    @property
    def heads(self) -> int:
        return self.side.variant.heads

    def tokenise(self, queries: Sequence[str]) -> np.ndarray:
        """Token ids (B, L) int64."""
        return encode_queries(self.tokenizer, queries, self.side.query_length, self.catalogue_numbers)

    def encode(self, queries: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Routed queries (B, 2D), of K heads (B·K, 2D), the share of S_m that routes them (B,) and P(q) (B,); all float32."""
        routed, routes, probabilities = [], [], []
        for start in range(0, len(queries), QUERY_BATCH):
            embeddings, logits = self._run_tower(self.tokenise(queries[start : start + QUERY_BATCH]))
            p = self.side.route(logits)
            heads = embeddings.reshape(len(logits) * self.heads, -1)
            routed.append(np.concatenate([heads, np.repeat(p, self.heads)[:, None] * heads], axis=1))
            routes.append(p)
            probabilities.append(self.side.probability(logits))
        if not routed:
            return np.zeros((0, 2 * self.side.dimension), np.float32), np.zeros(0, np.float32), np.zeros(0, np.float32)
        return np.concatenate(routed), np.concatenate(routes), np.concatenate(probabilities)

    def _run_tower(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if len(ids) == 1:
            return self.tower(ids)
        # Each text once: the same text is the same query to the last bit, which two rows of a batch need not be.
        distinct, places = np.unique(ids, axis=0, return_inverse=True)
        embeddings, logits = self.tower(distinct)
        places = places.reshape(-1)
        return embeddings[places], logits[places]

    def join_heads(self, each: np.ndarray) -> np.ndarray:
        """Scores of every head, (B·K, N), to those of the queries (B, N): Σ_k softmax_k(x_k / β) x_k, as `network.losses.soft_maximum`."""
        if self.heads == 1:
            return each
        by_head = each.reshape(-1, self.heads, each.shape[1])
        weights = np.exp((by_head - by_head.max(axis=1, keepdims=True)) / np.float32(HEAD_TEMPERATURE))
        return (weights / weights.sum(axis=1, keepdims=True) * by_head).sum(axis=1)


def score_rows(
    encoder: QueryEncoder, vectors: Callable[[np.ndarray], np.ndarray], queries: list[str], rows: np.ndarray
) -> np.ndarray:
    """`Ranker.score_rows` over stored vectors: rows (N,) → (N, 2D)."""
    scores = np.full(rows.shape, -np.inf, dtype=np.float32)
    distinct, place = np.unique(np.array(queries, dtype=str), return_inverse=True)
    asked = encoder.encode(distinct.tolist())[0].reshape(len(distinct), encoder.heads, -1)
    for query, wanted in enumerate(rows):
        known = wanted != NO_ROW
        if known.any():
            scores[query, known] = encoder.join_heads(asked[place[query]] @ vectors(wanted[known]).T)[0]
    return scores
