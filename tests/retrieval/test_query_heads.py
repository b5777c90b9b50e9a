"""A query of several heads (DPSR): the index and exact search answer by the score over all heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from smar_model.network.losses import multi_head_scores
from smar_model.network.model import RetrievalModel
from smar_model.network.variants import HEAD_TEMPERATURE
from smar_model.retrieval.item_embeddings import ItemEmbeddings, routed_items
from smar_model.retrieval.network_queries import DenseRanker, network_encoder
from smar_model.retrieval.query_encoder import QueryEncoder
from smar_model.retrieval.ranking import NO_ROW, rank_scores
from smar_model.retrieval.search import Searcher
from tests.network.small_models import small_model
from tests.retrieval.whole_index import build_index

ITEMS = 300
QUERIES = ["red shirt", "blue", "shirt for every day", ""]


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["<pad>", "<other>", "red", "blue", "shirt", "for", "every", "day"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<other>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path_factory.mktemp("heads") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def model() -> RetrievalModel:
    return small_model(variant="dpsr")


@pytest.fixture(scope="module")
def encoder(model: RetrievalModel, tokenizer_file: Path) -> QueryEncoder:
    return network_encoder(model, tokenizer_file)


@pytest.fixture(scope="module")
def embeddings() -> ItemEmbeddings:
    vectors = np.random.default_rng(0).normal(size=(ITEMS, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return ItemEmbeddings(item_ids=[f"item-{n:03}" for n in range(ITEMS)], text=vectors, multimodal=vectors)


@pytest.fixture(scope="module")
def scores(encoder: QueryEncoder, embeddings: ItemEmbeddings) -> np.ndarray:
    """By the formula, from the heads alone."""
    heads = torch.from_numpy(encoder.encode(QUERIES)[0][:, :16]).reshape(len(QUERIES), 4, 16)
    return multi_head_scores(heads, torch.from_numpy(embeddings.text), HEAD_TEMPERATURE).numpy()


def test_exact_search_orders_by_the_score_over_all_heads(
    model: RetrievalModel, tokenizer_file: Path, embeddings: ItemEmbeddings, scores: np.ndarray
) -> None:
    found = DenseRanker(model, tokenizer_file, embeddings).rank(QUERIES, 20)
    wanted = rank_scores(scores, 20)
    assert found.scores == pytest.approx(wanted.scores, abs=1e-5)


def test_given_rows_are_scored_as_they_are_ranked(
    model: RetrievalModel,
    encoder: QueryEncoder,
    tokenizer_file: Path,
    embeddings: ItemEmbeddings,
    scores: np.ndarray,
) -> None:
    rows = np.random.default_rng(1).integers(0, ITEMS, (len(QUERIES), 7))
    rows[1, 3] = rows[2, :] = NO_ROW
    expected = np.where(rows == NO_ROW, -np.inf, np.take_along_axis(scores, rows, axis=1))
    exact = DenseRanker(model, tokenizer_file, embeddings)
    served = Searcher(encoder, build_index(routed_items(embeddings), "IVF4,Flat"), {"item_id": embeddings.item_ids})
    for ranker in (exact, served):
        assert ranker.score_rows(QUERIES, rows) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat"])
def test_the_index_finds_what_any_head_finds_and_scores_it_over_all(
    factory: str, encoder: QueryEncoder, embeddings: ItemEmbeddings, scores: np.ndarray
) -> None:
    index = build_index(routed_items(embeddings), factory)
    if factory != "Flat":
        index.nprobe = 4
    searcher = Searcher(encoder, index, {"item_id": embeddings.item_ids})
    everything = searcher.rank(QUERIES, ITEMS)
    assert everything.scores == pytest.approx(rank_scores(scores, ITEMS).scores, abs=1e-5)
    few = searcher.rank(QUERIES, 10)
    assert few.rows.shape == (len(QUERIES), 10)
    for query, (rows, found) in enumerate(zip(few.rows, few.scores, strict=True)):
        assert len(set(rows.tolist())) == 10
        assert found == pytest.approx(scores[query, rows], abs=1e-5)
        assert (np.diff(found) <= 0).all()
    # The best of all is the best of one of the heads, or close to it.
    assert few.scores[:, 0] == pytest.approx(scores.max(1), abs=0.02)
