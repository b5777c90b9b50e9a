"""The space that a run's items and queries are embedded in: is it used, do queries lie near what they want, how far are the kinds apart?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from smar_model.evaluation.diagnostics import alignment, embedding_health, gap, near_duplicates
from smar_model.evaluation.evaluation_set import EvaluationSet
from smar_model.evaluation.relevance import Relevance
from smar_model.evaluation.routing_quality import encode_texts

if TYPE_CHECKING:
    from smar_model.lake.stage import StageContext

MOST_PAIRS, MOST_ITEMS = 10_000, 50_000
"""Pairs of queries and wanted items, and items, by which the space is judged."""


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
