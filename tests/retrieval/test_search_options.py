"""Departments and routing of `Searcher.search`, against what all items and plain products give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest

from smar_model.errors import InputError
from smar_model.lake.runs import Run
from smar_model.lake.stage import run_stage
from smar_model.retrieval.item_embeddings import load_embeddings
from smar_model.retrieval.parted_index import PartedIndex
from smar_model.retrieval.search import RoutedBy, Searcher
from smar_model.stages import STAGES
from tests.evaluation.published_run import publish_run
from tests.tiny_shop import ITEMS

QUERIES = ["red shirts", "novel", "w" * 10_000, "猫 \x00"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("options")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder / "var"))
        published = publish_run(folder / "shop", with_truth=False)
        for stage in ("embed", "index"):
            run_stage(STAGES[stage], published.run)
        yield published.run


@pytest.fixture(scope="module")
def searcher(run: Run) -> Searcher:
    return Searcher.load(run.output("finetune").folder / "model", run.output("index").folder)


@pytest.mark.parametrize("departments", [["Books"], ["Clothing", "Groceries"], ["Books", "Clothing", "Groceries"]])
@pytest.mark.parametrize("routing", [None, "text", "pictures", "hard", "soft"])
def test_a_department_s_items_are_those_of_all_items_that_are_in_it(
    searcher: Searcher, departments: list[str], routing: RoutedBy | None
) -> None:
    everything, _ = searcher.search(QUERIES, k=ITEMS, routing=routing)
    for k in (1, 3, ITEMS):
        found, _ = searcher.search(QUERIES, k=k, departments=departments, routing=routing)
        for hits, every in zip(found, everything, strict=True):
            wanted = [hit for hit in every if hit.department in departments][:k]
            assert [hit.item_id for hit in hits] == [hit.item_id for hit in wanted]
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in wanted], abs=1e-6)


def test_departments_are_counted_and_unknown_ones_named(searcher: Searcher) -> None:
    assert searcher.department_sizes == {"Clothing": 12, "Books": 6, "Groceries": 6}
    with pytest.raises(InputError, match="department 'Shoes': this index has no item in it; there are Clothing, Books"):
        searcher.search(["red shirt"], departments=["Books", "Shoes"])


def test_routing_weighs_text_and_pictures_as_it_says(run: Run, searcher: Searcher) -> None:
    embeddings = load_embeddings(run.output("embed").folder)
    asked, shares, _ = searcher.encoder.encode(QUERIES)
    heads, rows = asked[:, : asked.shape[1] // 2], {item: n for n, item in enumerate(embeddings.item_ids)}
    _, p = searcher.search(QUERIES)
    weights: dict[RoutedBy | None, np.ndarray] = {
        None: shares,
        "text": np.zeros(len(p)),
        "pictures": np.ones(len(p)),
        "hard": (p >= 0.5).astype(float),
        "soft": p,
    }
    for routing, share in weights.items():
        found, same = searcher.search(QUERIES, k=ITEMS, routing=routing)
        assert np.array_equal(same, p)
        for n, hits in enumerate(found):
            mixed = (1 - share[n]) * embeddings.text @ heads[n] + share[n] * embeddings.multimodal @ heads[n]
            assert [hit.score for hit in hits] == pytest.approx(mixed[[rows[h.item_id] for h in hits]], abs=1e-5)


@pytest.mark.parametrize(
    "factory", ["Flat", "IVF20,Flat", "IVF20,SQ8", "HNSW16,Flat", "HNSW16_SQ8", "IVF10,PQ4x4,RFlat", "OPQ8,IVF10,SQ8"]
)
def test_of_approximate_indexes_too_all_items_of_a_small_department_are_looked_at(factory: str) -> None:
    random = np.random.default_rng(0)
    vectors, asked = (random.normal(size=(n, 16)).astype(np.float32) for n in (2_000, 5))
    index = faiss.index_factory(16, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    chosen = random.permutation(len(vectors))[:12]
    bitmap = np.zeros(len(vectors), dtype=bool)
    bitmap[chosen] = True
    _, rows = PartedIndex([index]).search(asked, 12, np.packbits(bitmap, bitorder="little"))
    assert [sorted(found) for found in rows.tolist()] == [sorted(chosen.tolist())] * len(asked)


def test_an_index_that_cannot_be_searched_in_part_says_so(tmp_path: Path) -> None:
    index = faiss.index_factory(16, "LSH", faiss.METRIC_L2)
    index.add(np.eye(16, dtype=np.float32))
    with pytest.raises(InputError, match=r"cannot be searched by department or filter; choose another index\.factory"):
        PartedIndex([index]).search(np.eye(16, dtype=np.float32), 2, np.full(2, 255, dtype=np.uint8))
