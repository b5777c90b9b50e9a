"""Signs of a sick model that ranking metrics show late: collapsed embeddings, items found everywhere, a gate that cannot tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import skew

from smar_model.evaluation.evaluation_record import Hub, Hubness
from smar_model.evaluation.evaluation_set import EvaluationSet
from smar_model.evaluation.relevance import Relevance
from smar_model.evaluation.routing_quality import encode_texts

if TYPE_CHECKING:
    from smar_model.lake.stage import StageContext

MOST_PAIRS, MOST_ITEMS = 10_000, 50_000
"""Pairs of queries and wanted items, and items, by which the space is judged."""


def embedding_health(embeddings: np.ndarray, *, seed: int, pairs: int = 10_000) -> dict[str, float]:
    """Whether the directions of (N, D) vectors use their space.

    Returns:
        `norm`, `smallest_norm` and `largest_norm`; the others are of directions alone:
        `mean_cosine` of random pairs (near 1: all look the same).
        `effective_rank`, the exponential of the entropy of the singular values' shares (Roy and Vetterli 2007), between 1 and
        D. Not centred: a collapse to one vector must show as rank 1.
        `uniformity`, the logarithm of the mean of exp(−2 · squared distance) over random pairs (Wang and Isola 2020, arXiv
        2005.10242): 0 when collapsed, the lower the more evenly spread.
    """
    count = len(embeddings)
    random = np.random.default_rng(seed)
    first = random.integers(0, count, pairs)
    second = (first + random.integers(1, max(count, 2), pairs)) % count
    norms = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    values = directions(embeddings)
    cosine = np.einsum("pd,pd->p", values[first], values[second])
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(values.T @ values), 0, None))
    shares = singular[singular > 0] / singular.sum()
    return {
        "norm": float(norms.mean()),
        "smallest_norm": float(norms.min()),
        "largest_norm": float(norms.max()),
        "mean_cosine": float(cosine.mean()),
        "effective_rank": float(np.exp(-(shares * np.log(shares)).sum())),
        "uniformity": float(np.log(np.exp(-2 * (2 - 2 * cosine)).mean())),
    }


def directions(vectors: np.ndarray) -> np.ndarray:
    """Unit vectors, float64: S_m is shorter than 1 where an item's confidence in its picture is folded into it."""
    values = vectors.astype(np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def alignment(queries: np.ndarray, items: np.ndarray) -> float:
    """Mean squared distance of (P, D) queries from the items wanted for them (Wang and Isola 2020): 0 to 4, 2 by chance."""
    return float(((directions(queries) - directions(items)) ** 2).sum(axis=1).mean())


def gap(first: np.ndarray, second: np.ndarray) -> float:
    """Distance of the centres of two clouds of unit vectors, the modality gap of Liang et al. 2022 (arXiv 2203.02053)."""
    return float(np.linalg.norm(directions(first).mean(axis=0) - directions(second).mean(axis=0)))


def near_duplicates(embeddings: np.ndarray, *, seed: int, cosine: float = 0.9999, sample: int = 1_000) -> float:
    """Share of items (of a sample) that have another one at this cosine or above: search cannot tell the two apart."""
    count = len(embeddings)
    drawn = directions(embeddings[np.random.default_rng(seed).permutation(count)[:sample]]).astype(np.float32)
    twins = np.zeros(len(drawn), dtype=int)
    for start in range(0, count, 20_000):
        others = directions(embeddings[start : start + 20_000]).astype(np.float32)
        twins += (drawn @ others.T >= cosine).sum(axis=1)
    return float((twins > 1).mean())  # each finds itself


def hubness(rows: np.ndarray, relevant: np.ndarray, *, item_ids: Sequence[str], worst: int = 10) -> Hubness:
    """Whether some items appear everywhere (Radovanović et al. 2010, "Hubs in space").

    Args:
        rows: (Q, k) results of distinct queries, negative where there is none.
        relevant: (Q, k) whether each fits its query.
        item_ids: the catalogue's.
    """
    inside, items = rows >= 0, len(item_ids)
    found = np.bincount(rows[inside], minlength=items)
    fits = np.bincount(rows[inside & relevant], minlength=items)
    order = np.lexsort((np.arange(items), -(found - fits)))[:worst]
    return Hubness(
        k=rows.shape[1],
        skewness=float(skew(found)) if found.std() else 0.0,
        never=float((found == 0).mean()),
        expected=float(found.mean()),
        worst=[Hub(found=int(found[r]), fits=int(fits[r]), item_id=item_ids[r]) for r in order if found[r] > fits[r]],
    )


def measure_space(
    context: StageContext, queries: EvaluationSet
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Kind of embedding → figures, and the distances between the centres of two kinds."""
    from smar_model.retrieval.item_embeddings import load_embeddings
    from smar_model.training.model_files import load_model

    context.report("health of the embeddings")
    embeddings = load_embeddings(context.input("embed").folder)
    seed = context.settings.evaluation.seed
    vectors = {"text": embeddings.text, "multimodal": embeddings.multimodal}
    drawn = np.sort(np.random.default_rng(seed).permutation(len(embeddings.item_ids))[:MOST_ITEMS])
    health = {
        name: embedding_health(v[drawn], seed=seed) | {"near_duplicates": near_duplicates(v, seed=seed)}
        for name, v in vectors.items()
    }
    gaps = {"text to multimodal": gap(embeddings.text[drawn], embeddings.multimodal[drawn])}
    folder = context.input("finetune").folder / "model"
    distinct, place = np.unique(queries.queries.astype(str), return_inverse=True)
    asked, _ = encode_texts(load_model(folder), folder / "tokenizer.json", distinct.tolist())
    if asked.ndim == 2:  # of several heads none is the query
        health["queries"] = embedding_health(asked, seed=seed)
        wanting, wanted = _wanted_pairs(queries.found, seed=seed)
        for name, v in vectors.items():
            health[name]["alignment"] = alignment(asked[place[wanting]], v[wanted])
            gaps[f"queries to {name}"] = gap(asked, v[drawn])
    return health, gaps


def _wanted_pairs(relevance: Relevance, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Queries' numbers and rows of items wanted for them, at most MOST_PAIRS."""
    counts = relevance.counts()
    numbers = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(numbers)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = relevance.rows[np.repeat(relevance.starts[relevance.set_of_query], counts) + within]
    drawn = np.random.default_rng(seed).permutation(len(rows))[:MOST_PAIRS]
    return numbers[drawn], rows[drawn]
