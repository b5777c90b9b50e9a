"""An index in parts answers as one, and a part as far as its items go."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact
from smar_model.lake.publishing import Attempt
from smar_model.lake.stage import run_stage
from smar_model.retrieval.embedding_rows import write_row_digests
from smar_model.retrieval.index_building import fill_index, train_index
from smar_model.retrieval.index_files import set_parameters
from smar_model.retrieval.index_parts import (
    Plan,
    do_step,
    fill_part,
    filled,
    gather,
    kept_best,
    merge_best,
    tune_part,
    tuned,
)
from smar_model.retrieval.index_recall import exact_search, recall_queries
from smar_model.retrieval.item_embeddings import create_embeddings
from smar_model.retrieval.parted_index import PartedIndex, cut_rows
from smar_model.retrieval.ranking import order_candidates
from smar_model.retrieval.search import Searcher
from smar_model.retrieval.search_parameters import SPEEDS
from smar_model.stages import STAGES
from tests.evaluation.published_run import PublishedRun, publish_run
from tests.retrieval.test_index import QUERIES, REFINED, draw, model_of, refresh, todays_items
from tests.retrieval.whole_index import shares_of

ROWS, PARTS, DEPTH = 4_003, 4, 100


def parted(vectors: np.ndarray, trained: faiss.Index) -> PartedIndex:
    return PartedIndex(
        [fill_index(faiss.clone_index(trained), vectors[slice(*rows)]) for rows in cut_rows(len(vectors), PARTS)]
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


class Whole:
    """All parts asked as one, as `RecallQueries` asks an index."""

    def __init__(self, parts: PartedIndex) -> None:
        self.parts = parts

    def search(self, asked: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        scores, rows = self.parts.search(asked, depth)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def test_each_part_is_tuned_to_find_its_share_and_all_find_the_floor(
    home: Path, runs: dict[int, PublishedRun], tmp_path: Path
) -> None:
    vectors, floor = draw(ROWS), 0.9
    trained = train_index(vectors, REFINED)
    asked = draw(300, seed=3)
    asked[:100] = vectors[:100] + 0.05 * asked[:100]
    routes = np.repeat([0.0, 0.5, 0.9], 100)
    plan = Plan(
        items=ROWS,
        parts=PARTS,
        asked=asked[:, None],
        routes=routes,
        shares=shares_of(routes),
        served=asked[:10],
        made={},
        difference=0.0,
        kept=(),
    )

    def publish_vectors(folder: Path) -> None:
        (folder / "embeddings").mkdir()
        arrays = create_embeddings(
            folder / "embeddings", np.array([b"-"] * ROWS), np.zeros((ROWS, 2), np.uint64), dimension=8, kinds=2
        )
        arrays[0][:], arrays[1][:] = vectors[:, :8], vectors[:, 8:] + vectors[:, :8]
        for array in arrays:
            array.flush()
        write_row_digests(folder / "embeddings", arrays)

    def publish_plan(folder: Path) -> None:
        plan.write(folder)
        faiss.write_index(trained, str(folder / "trained.faiss"))

    made = runs[3]
    embed = publish("embed", "vectors", publish_vectors)
    planned = publish("index-checkpoint", "planned", publish_plan)
    context = made.context("index", tmp_path)
    context.key = uuid.uuid4().hex
    fills = [
        do_step(context, filled(n), lambda folder, n=n: fill_part(folder, embed, planned, n)) for n in range(PARTS)
    ]
    tunes = [
        do_step(context, tuned(n), lambda folder, n=n: tune_part(folder, embed, planned, fills, n, floor=floor))
        for n in range(PARTS)
    ]
    again = [do_step(context, tuned(n), lambda folder: pytest.fail("it is there already")) for n in range(PARTS)]
    assert [one.key for one in again] == [one.key for one in tunes]
    used, around = gather(plan, fills, tunes)
    assert used.recall.worst >= floor and len(used.parameters) == PARTS and len(around) == len(SPEEDS) + 1
    assert around[0].recall.overall < used.recall.overall < around[-1].recall.overall + 1e-9
    assert kept_best(plan, fills) == 1.0

    opened = []
    for fill, parameters in zip(fills, used.parameters, strict=True):
        opened.append(faiss.read_index(str(fill.file("index.faiss"))))
        set_parameters(opened[-1], parameters)
    exact = recall_queries(vectors, plan.asked, routes, plan.shares)
    np.testing.assert_array_equal(merge_best(plan, fills)[1][: len(asked)], exact.rows)
    whole: Any = Whole(PartedIndex(opened))
    assert exact.measure(whole, vectors).overall == pytest.approx(used.recall.overall, abs=1e-9)
    assert [one.ntotal for one in opened] == [stop - start for start, stop in cut_rows(ROWS, PARTS)]


def publish(stage: str, key: str, write: Callable[[Path], None]) -> Artifact:
    attempt = Attempt(stage, key)
    write(attempt.folder)
    return attempt.publish(metrics={}, inputs={}, settings={})


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
