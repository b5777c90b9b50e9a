"""P(q) is calibrated by labels that the header has not learned from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from smar_model.data.token_tables import PairTokens, query_keys
from smar_model.evaluation.routing_quality import calibration_error
from smar_model.network.model import RetrievalModel
from smar_model.retrieval.network_queries import network_encoder
from smar_model.training.calibration import calibrate, fit_temperature, split_labels
from smar_model.training.model_files import load_model, save_model
from tests.network.small_models import small_model

WORDS = [f"w{n}" for n in range(99)]
QUERIES = [f"w{n % 99} w{n // 99}" for n in range(3_000)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, **{word: n + 1 for n, word in enumerate(WORDS)}}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


def draw_labels(logits: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return torch.bernoulli(logits.sigmoid(), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("factor", [6.0, 0.2])
def test_a_distorted_header_is_brought_back(factor: float) -> None:
    true = 3 * torch.randn(6_000, generator=torch.Generator().manual_seed(1))
    labels, distorted = draw_labels(true), factor * true
    temperature = fit_temperature(distorted[:3_000], labels[:3_000])
    assert temperature == pytest.approx(factor, rel=0.1)
    visual = labels[3_000:].numpy() > 0
    before, after = ((distorted[3_000:] / t).sigmoid().numpy() for t in (1, temperature))
    assert calibration_error(before, visual) > 0.05
    assert calibration_error(after, visual) < 0.025


def test_few_labels_move_little_and_the_order_of_queries_stays() -> None:
    assert fit_temperature(torch.zeros(0), torch.zeros(0)) == 1
    assert fit_temperature(torch.tensor([4.0, 5.0]), torch.ones(2)) == pytest.approx(1, abs=0.1)
    assert fit_temperature(torch.tensor([-40.0, -50.0, 40.0, 50.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])) > 10


def test_rare_queries_that_early_stopping_holds_out_keep_their_labels_from_the_header() -> None:
    clicks = [1 if n % 3 else 10 for n in range(len(QUERIES))]
    labels = pd.DataFrame({"label": [n % 2 for n in range(len(QUERIES))], "clicks": clicks}, index=QUERIES)
    learned, held_out = split_labels(labels)
    assert learned | held_out == labels["label"].to_dict()
    assert len(learned) + len(held_out) == len(QUERIES)
    assert len(held_out) == pytest.approx(len(QUERIES) * 2 / 3 / 16, rel=0.25)
    empty = np.zeros(0)
    pairs = PairTokens(ids=empty, keys=query_keys(QUERIES), rows=empty, starts=empty)
    unlearned = pairs.held_out(np.arange(len(QUERIES)))
    assert {
        query for query, out, n in zip(QUERIES, unlearned, clicks, strict=True) if out and n == 1
    } == held_out.keys()
    assert split_labels(labels[:0]) == ({}, {})


def distort(model: RetrievalModel, tokenizer: Tokenizer) -> tuple[dict[str, int], np.ndarray]:
    """Labels by an honest header (logits around 0, spread by 3), then a boastful one; the right P(q)."""
    with torch.no_grad():
        last, ids = model.header[-1], torch.tensor([[int(w[1:]) + 1 for w in q.split()] for q in QUERIES])
        logits = model.encode_queries(ids)[1]
        factor, shift = 3 / logits.std(), logits.mean()
        honest = factor * (logits - shift)
        last.weight *= 4 * factor
        last.bias.copy_(4 * factor * (last.bias - shift))
    return dict(zip(QUERIES, draw_labels(honest).int().tolist(), strict=True)), honest.sigmoid().numpy()


@pytest.mark.parametrize("routing", ["hard", "soft"])
def test_a_calibrated_model_is_saved_and_routes_identically(routing: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = small_model(routing=routing)
    labels, right = distort(model, tokenizer)
    file = tmp_path / "tokenizer.json"
    tokenizer.save(str(file))
    before = network_encoder(model, file).encode(QUERIES)
    assert np.abs(before[2] - right).mean() > 0.1
    found = calibrate(model, tokenizer, {query: labels[query] for query in QUERIES[::2]})
    assert found == {"gate_temperature": pytest.approx(4, rel=0.2), "gate_labels_held_out": len(QUERIES) / 2}
    after = network_encoder(model, file).encode(QUERIES)
    assert np.abs(after[2] - right).mean() < 0.03
    for index in (0, 1):  # what is asked stays: hard routing decides at .5, a soft share is what training has made it
        assert np.array_equal(after[index], before[index])
    save_model(model, tmp_path / "model", file)
    for mine, loaded in zip(after, network_encoder(load_model(tmp_path / "model"), file).encode(QUERIES), strict=True):
        assert np.array_equal(mine, loaded)


def test_without_routing_nothing_is_promised() -> None:
    model = small_model(variant="concat")
    assert model.probability(torch.tensor([-3.0, 3.0])).tolist() == [1.0, 1.0]
