"""Recall of an index against exact search, by real queries of every share of S_m."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from smar_model.retrieval.index_building import BLOCK, Vectors, iterate_blocks
from smar_model.retrieval.index_files import Bucket, Recall
from smar_model.retrieval.query_encoder import QueryEncoder
from smar_model.retrieval.search import MEASURED_DEPTH

BUCKETS = (0.2, 0.4, 0.6, 0.8)
"""Bounds of the shares of S_m between which recall is measured apart."""
QUERIES_READ = 10_000
QUERIES_A_BUCKET = 200
ENOUGH_QUERIES = 50
"""A bucket with fewer does not count by itself."""
SAME_SCORE = 1e-6


def exact_search(vectors: Vectors, asked: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """The best of all vectors for queries (Q, 2D): scores and rows (Q, depth), best first."""
    depth = min(depth, len(vectors))
    best = faiss.ResultHeap(len(asked), depth, keep_max=True)
    for start, block in iterate_blocks(vectors):
        scores, rows = faiss.knn(asked, block, min(depth, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        best.add_result(scores, rows + start)
    best.finalize()
    return best.D, best.I


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallQueries:
    """Queries to measure an index by, and what exact search answers."""

    asked: np.ndarray
    """(Q, K, 2D) float32, of K heads."""
    routes: np.ndarray
    """(Q,): the share of S_m."""
    shares: np.ndarray
    """(B,) of all queries, in each bucket of routes."""
    scores: np.ndarray
    rows: np.ndarray
    """(Q·K, depth), best first."""

    def found(self, index: faiss.Index, vectors: Vectors) -> np.ndarray:
        """Share of each query's best that the index finds, (Q,). An item that scores as the last of the best is as good."""
        asked = self.asked.reshape(len(self.rows), -1)
        _, rows = index.search(asked, self.rows.shape[1])
        hit = np.stack([np.isin(f, wanted) for f, wanted in zip(rows, self.rows, strict=True)])
        query, place = np.nonzero(~hit & (rows >= 0))
        for start in range(0, len(query), BLOCK):
            part = slice(start, start + BLOCK)
            scores = np.einsum("nd,nd->n", vectors[rows[query[part], place[part]]], asked[query[part]])
            hit[query[part], place[part]] = scores >= self.scores[query[part], -1] - SAME_SCORE
        return hit.reshape(len(self.routes), -1).mean(1)

    def measure(self, index: faiss.Index, vectors: Vectors) -> Recall:
        found = self.found(index, vectors)
        return summarise(found, np.ones_like(found), self.routes, self.shares, depth=self.rows.shape[1])


def summarise(found: np.ndarray, wanted: np.ndarray, routes: np.ndarray, shares: np.ndarray, *, depth: int) -> Recall:
    """Recall by the share of S_m.

    Args:
        found: (Q,) of each query, how much of what is wanted.
        wanted: (Q,) how much that is, in the same unit; queries of which nothing is wanted do not count.
        routes, shares: as in RecallQueries.
    """
    bounds = (0.0, *BUCKETS, 1.0)
    place = np.where(wanted > 0, np.digitize(routes, BUCKETS), -1)
    buckets = []
    for b in range(len(bounds) - 1):
        inside = place == b
        if not inside.any():
            continue
        recall = float(found[inside].sum() / wanted[inside].sum())
        # Of a ratio of two sums; where as much is wanted of each query, the standard error of the mean.
        spread = math.sqrt(np.square(found[inside] - recall * wanted[inside]).sum()) / wanted[inside].sum()
        buckets.append(
            Bucket(
                lower=bounds[b],
                upper=bounds[b + 1],
                queries=int(inside.sum()),
                share=float(shares[b]),
                recall=recall,
                error=float(spread),
            )
        )
    overall = sum(b.share * b.recall for b in buckets) / sum(b.share for b in buckets)
    counted = [b for b in buckets if b.queries >= ENOUGH_QUERIES]
    return Recall(
        depth=depth,
        overall=overall,
        worst=min([overall, *(b.recall for b in counted)]),
        sure=min([overall, *(b.recall - b.error for b in counted)]),
        buckets=tuple(buckets),
    )


def draw_queries(encoder: QueryEncoder, queries: Sequence[str]) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Of distinct queries up to QUERIES_A_BUCKET from each bucket, and `asked`, `routes` and `shares` of RecallQueries.

    What `fill_buckets` adds comes after those of the texts.
    """
    random = np.random.default_rng(0)
    texts = [queries[i] for i in np.sort(random.permutation(len(queries))[:QUERIES_READ])]
    asked, routes, _ = encoder.encode(texts)
    place = np.digitize(routes, BUCKETS)
    counts = np.bincount(place, minlength=len(BUCKETS) + 1)
    chosen = [random.permutation(np.flatnonzero(place == b))[:QUERIES_A_BUCKET] for b in range(len(counts))]
    rows = np.sort(np.concatenate(chosen))
    asked, filled = fill_buckets(asked.reshape(len(texts), encoder.heads, -1)[rows], routes[rows])
    return [texts[row] for row in rows], asked, filled, counts / len(texts)


def fill_buckets(asked: np.ndarray, routes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Queries (Q, K, 2D) and their shares of S_m (Q,), and after them further ones: in a bucket that has some, but fewer than
    QUERIES_A_BUCKET, others of the queries are asked with a share of this bucket.

    A few dozen queries say too little about the worst of the next thousand, which are found too rarely.
    """
    random, bounds = np.random.default_rng(1), (0.0, *BUCKETS, 1.0)
    counts = np.bincount(np.digitize(routes, BUCKETS), minlength=len(BUCKETS) + 1)
    every, shares = [asked], [routes]
    for bucket in np.flatnonzero((counts > 0) & (counts < QUERIES_A_BUCKET)):
        others = random.integers(0, len(asked), QUERIES_A_BUCKET - counts[bucket])
        share = random.uniform(bounds[bucket], bounds[bucket + 1], len(others)).astype(routes.dtype)
        heads = asked[others, :, : asked.shape[2] // 2]
        every.append(np.concatenate([heads, share[:, None, None] * heads], axis=2))
        shares.append(share)
    return np.concatenate(every), np.concatenate(shares)


def recall_queries(
    vectors: Vectors,
    asked: np.ndarray,
    routes: np.ndarray,
    shares: np.ndarray,
    *,
    depth: int = MEASURED_DEPTH,
) -> RecallQueries:
    """Answer queries exactly."""
    flat = np.ascontiguousarray(asked.reshape(-1, asked.shape[-1]), dtype=np.float32)
    scores, rows = exact_search(vectors, flat, depth)
    return RecallQueries(asked=asked, routes=routes, shares=shares, scores=scores, rows=rows)
