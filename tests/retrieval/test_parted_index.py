"""An index in parts answers as one, and a part as far as its items go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import faiss
import numpy as np
import pytest

from smar_model.errors import InputError
from smar_model.lake.stage import run_stage
from smar_model.retrieval.index_building import build_parts, fill_index, parts_of, train_index
from smar_model.retrieval.index_recall import exact_search
from smar_model.retrieval.parted_index import PartedIndex, cut_rows
from smar_model.retrieval.ranking import order_candidates
from smar_model.retrieval.search import Searcher
from smar_model.retrieval.search_parameters import recall_by_speed, tune_search
from smar_model.stages import STAGES
from tests.evaluation.published_run import PublishedRun, publish_run
from tests.retrieval.test_index import QUERIES, REFINED, draw, mixed_queries, model_of, refresh, todays_items

ROWS, PARTS, DEPTH = 4_003, 4, 100


def parted(vectors: np.ndarray, trained: faiss.Index) -> PartedIndex:
    return PartedIndex(
        [fill_index(faiss.clone_index(trained), vectors, rows) for rows in cut_rows(len(vectors), PARTS)]
    )


def best(index: PartedIndex, asked: np.ndarray, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    scores, rows = index.search(asked, DEPTH, among)
    found = order_candidates(rows.astype(np.int32), scores)
    return found.scores[:, :DEPTH], found.rows[:, :DEPTH]


def test_cuts_cover_all_rows_at_whole_bytes() -> None:
    cuts = cut_rows(ROWS, PARTS)
    assert len(cuts) == PARTS and (cuts[0][0], cuts[-1][1]) == (0, ROWS)
    assert all(stop == start and stop % 8 == 0 for (_, stop), (start, _) in pairwise(cuts))
    assert cut_rows(24, 1) == [(0, 24)]
    assert cut_rows(12, 4) == [(0, 8), (8, 12)], "no part is empty"


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", "HNSW16", REFINED])
def test_four_parts_find_what_one_index_finds(factory: str) -> None:
    vectors, asked = draw(ROWS), draw(50, seed=2)
    trained = train_index(vectors, factory)
    if lists := faiss.try_extract_index_ivf(trained):
        lists.nprobe = 12
    whole, parts = PartedIndex([fill_index(faiss.clone_index(trained), vectors)]), parted(vectors, trained)
    assert (parts.ntotal, parts.d) == (ROWS, 16)
    among = np.packbits(np.random.default_rng(0).random(ROWS) < 0.3, bitorder="little")
    for selected in (None, among):
        one, four = best(whole, asked, selected), best(parts, asked, selected)
        if factory in {"Flat", "IVF16,Flat"}:
            np.testing.assert_array_equal(four[1], one[1])
            np.testing.assert_allclose(four[0], one[0], atol=1e-6)
        elif selected is None:
            _, exact = exact_search(vectors, asked, DEPTH)
            recall = [
                np.mean([np.isin(f, e).mean() for f, e in zip(rows, exact, strict=True)]) for _, rows in (one, four)
            ]
            assert recall[1] >= recall[0] and recall[1] > 0.5
    rows = np.array([4_002, 0, 1_500, 1_001])
    for index in (whole, parts):
        index.enable_lookup()
    np.testing.assert_array_equal(parts.reconstruct_batch(rows), whole.reconstruct_batch(rows))


def test_parts_are_filled_one_by_one_and_tuned_as_they_are_asked(tmp_path: Path) -> None:
    vectors = draw(ROWS)
    trained = train_index(vectors, REFINED)
    index = build_parts(trained, vectors, PARTS, tmp_path)
    assert trained.ntotal == 0 and index.ntotal == ROWS
    queries = mixed_queries(vectors, {0.0: 100, 0.9: 100})
    chosen = tune_search(index, vectors, queries, 0.9)
    files = [tmp_path / f"written-{n}" for n in range(PARTS)]
    for part, file in zip(parts_of(index), files, strict=True):
        faiss.write_index(part, str(file))
    opened = [faiss.read_index(str(file)) for file in files]
    assert {faiss.extract_index_ivf(part).nprobe for part in opened} == {int(chosen.split("=")[1].split(",")[0])}
    assert {part.k_factor for part in opened} == {float(chosen.rsplit("=", 1)[1])}
    found = queries.measure(index, vectors)
    assert found.worst >= 0.9 and len(recall_by_speed(index, vectors, queries, chosen)) > 1
    asked = draw(50, seed=2)
    scores, rows = index.search(asked, DEPTH)
    np.testing.assert_array_equal(best(PartedIndex(opened), asked)[1], rows)
    assert (np.diff(scores) <= 0).all()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder / "var"))
        yield folder


@pytest.fixture(scope="module")
def runs(home: Path) -> dict[int, PublishedRun]:
    """Parts → the same run, its index in so many."""
    made = {}
    for parts in (1, 3):
        run = publish_run(
            home / "shop", with_truth=False, name=f"parts-{parts}", variant="default", index={"parts": parts}
        )
        for stage in ("embed", "index"):
            run_stage(STAGES[stage], run.run)
        made[parts] = run
    return made


def index_of(made: PublishedRun) -> Path:
    return made.run.output("index").folder


def test_a_release_in_parts_answers_as_in_one(runs: dict[int, PublishedRun]) -> None:
    folder = index_of(runs[3])
    assert sorted(file.name for file in folder.glob("*.faiss")) == ["index-0.faiss", "index-1.faiss", "index-2.faiss"]
    assert json.loads((folder / "index.json").read_text())["parts"] == [8, 8, 8]
    one, three = (Searcher.load(model_of(made), index_of(made)) for made in runs.values())
    assert list(three.item_ids) == list(one.item_ids)
    for departments in ((), ("Clothing",), ("Books", "Groceries")):
        found, wanted = (s.search(QUERIES, k=24, departments=departments)[0] for s in (three, one))
        assert [[hit.item_id for hit in hits] for hits in found] == [[hit.item_id for hit in hits] for hits in wanted]
    assert three.department_sizes == one.department_sizes


def test_what_the_parts_find_merges_into_what_one_index_finds(runs: dict[int, PublishedRun]) -> None:
    whole = Searcher.load(model_of(runs[1]), index_of(runs[1]))
    parts = [Searcher.load(model_of(runs[3]), index_of(runs[3]), part=part) for part in range(3)]
    assert [len(part.item_ids) for part in parts] == [8, 8, 8]
    for query in QUERIES:
        merged = [hit for part in parts for hit in part.search([query], k=10)[0][0]]
        merged.sort(key=lambda hit: (-hit.score, hit.item_id))
        wanted = whole.search([query], k=10)[0][0]
        assert [hit.item_id for hit in merged[:10]] == [hit.item_id for hit in wanted]


def test_a_part_reads_its_own_files_alone(runs: dict[int, PublishedRun], tmp_path: Path) -> None:
    folder = tmp_path / "index"
    shutil.copytree(index_of(runs[3]), folder)
    (folder / "index-0.faiss").unlink()
    (folder / "index_items" / "part-0.parquet").write_bytes(b"cut off")
    Searcher.load(model_of(runs[3]), folder, part=1)
    with pytest.raises(InputError, match=r"index-0\.faiss"):
        Searcher.load(model_of(runs[3]), folder)
    with pytest.raises(InputError, match=r"has 3 part\(s\), from 0, so no part 3"):
        Searcher.load(model_of(runs[3]), folder, part=3)


def test_an_index_in_parts_is_refreshed_into_parts(runs: dict[int, PublishedRun]) -> None:
    made = {
        n: refresh(run, f"today-{n}", todays_items(), index={"parts": n})["refresh-index"] for n, run in runs.items()
    }
    one, three = (Searcher.load(model_of(runs[n]), made[n].folder) for n in (1, 3))
    assert len(three.index.parts) == 3 and three.manifest.recall.worst == 1.0
    np.testing.assert_array_equal(three.rank(QUERIES, 24).rows, one.rank(QUERIES, 24).rows)
