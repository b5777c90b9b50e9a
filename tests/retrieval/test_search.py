"""One index for both routes: what it answers, what it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from smar_model.errors import InputError
from smar_model.lake.runs import Run
from smar_model.lake.stage import run_stage
from smar_model.retrieval.item_embeddings import load_embeddings, routed_items
from smar_model.retrieval.network_queries import DenseRanker, network_encoder
from smar_model.retrieval.search import Searcher
from smar_model.stages import STAGES
from smar_model.training.model_files import load_model
from tests.tiny_shop import DATA_STAGES, run_stages, tiny_run

TRAINING = ("train-tokenizer", "adapt-vision", "encode-pictures", "pretrain", "finetune", "embed", "index")
QUERIES = ["red shirts", "blue novels", "", "cereals 猫 \x00", "w" * 5_000]


@pytest.fixture(scope="module")
def run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = shutil.copytree(tiny_data, tmp_path_factory.mktemp("search"), dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder / "var"))
        run = tiny_run(folder / "shop")
        run_stages(run, *DATA_STAGES, *TRAINING)
        yield run


@pytest.fixture(scope="module")
def searcher(run: Run) -> Searcher:
    return Searcher.load(run.output("finetune").folder / "model", run.output("index").folder)


def test_the_index_answers_as_exact_search_over_the_embeddings(run: Run, searcher: Searcher) -> None:
    folder = run.output("finetune").folder / "model"
    exact = DenseRanker(load_model(folder), folder / "tokenizer.json", load_embeddings(run.output("embed").folder))
    for served, naive in zip(searcher.rank(QUERIES, 10).scores, exact.rank(QUERIES, 10).scores, strict=True):
        assert served == pytest.approx(naive, abs=1e-5)


def test_given_items_have_the_scores_that_they_are_ranked_by(run: Run, searcher: Searcher) -> None:
    folder = run.output("finetune").folder / "model"
    exact = DenseRanker(load_model(folder), folder / "tokenizer.json", load_embeddings(run.output("embed").folder))
    for ranker in (searcher, exact):
        ranking = ranker.rank(QUERIES, 10)
        backwards = ranking.rows[:, ::-1]
        assert ranker.score_rows(QUERIES, backwards) == pytest.approx(ranking.scores[:, ::-1], abs=1e-5)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_routing_in_one_index_is_the_mixture_of_both_scores(p: float, run: Run) -> None:
    embeddings = load_embeddings(run.output("embed").folder)
    query = np.random.default_rng(0).normal(size=embeddings.text.shape[1]).astype(np.float32)
    stored = routed_items(embeddings) @ np.concatenate([query, p * query])
    assert stored == pytest.approx((1 - p) * embeddings.text @ query + p * embeddings.multimodal @ query, abs=1e-5)


def test_hits_carry_what_people_look_at(searcher: Searcher) -> None:
    hits, p = searcher.search(QUERIES, k=3)
    assert [len(h) for h in hits] == [3] * len(QUERIES)
    assert ((p >= 0) & (p <= 1)).all()
    assert hits[0][0].title.startswith("Plain")
    assert [h.score for h in hits[0]] == sorted((h.score for h in hits[0]), reverse=True)
    assert searcher.search([], k=3)[0] == []


def test_an_index_of_another_model_is_refused(run: Run) -> None:
    with pytest.raises(InputError, match="built by another model"):
        Searcher.load(run.output("pretrain").folder / "model", run.output("index").folder)


def test_below_the_recall_floor_nothing_is_published(run: Run) -> None:
    coarse = tiny_run(Path(run.settings.shop_root), "coarse", index={"factory": "LSH", "minimum_recall": 0.99})
    for stage in (*DATA_STAGES, *TRAINING[:-1]):
        run_stage(STAGES[stage], coarse)
    with pytest.raises(InputError, match=r"index LSH|index\.factory 'LSH'"):
        run_stage(STAGES["index"], coarse)
    assert coarse.find_output("index") is None


def test_the_same_text_is_the_same_query_whatever_its_case_and_spaces(run: Run) -> None:
    folder = run.output("finetune").folder / "model"
    asked, _, _ = network_encoder(load_model(folder), folder / "tokenizer.json").encode(["Red  Shirts ", "red shirts"])
    assert np.array_equal(asked[0], asked[1])
