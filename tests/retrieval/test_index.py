"""The index: what is chosen, what is measured, what is refused, and that a refresh is a full build."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pytest

from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact
from smar_model.lake.runs import Run, create_run
from smar_model.lake.stage import run_stage
from smar_model.retrieval import embed as embedding
from smar_model.retrieval import index as indexing
from smar_model.retrieval import index_building, index_items, index_recall, search_parameters
from smar_model.retrieval.index_building import RoutedItems, choose_factory
from smar_model.retrieval.index_recall import RecallQueries, exact_search, fill_buckets, recall_queries
from smar_model.retrieval.item_embedder import embed_catalogue
from smar_model.retrieval.item_embeddings import ItemEmbeddings, load_embeddings, routed_items
from smar_model.retrieval.network_queries import DenseRanker
from smar_model.retrieval.search import Searcher
from smar_model.retrieval.search_parameters import tune_search
from smar_model.stages import REFRESH_STAGES, STAGES
from smar_model.training.model_files import load_model
from smar_model.training.model_folder import model_digest
from tests.earlier_models import a_release
from tests.evaluation.published_run import PublishedRun, publish_run, write_items
from tests.retrieval.whole_index import build_index, recall_against_exact, shares_of
from tests.tiny_shop import LAST_DAY, published, tiny_items, tiny_settings

REFINED = "IVF16,PQ16x4fs,Refine(SQfp16)"
QUERIES = ["red shirt", "blue novel for every day", ""]


def draw(rows: int, dimension: int = 16, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def draw_embeddings(rows: int) -> ItemEmbeddings:
    text, multimodal = draw(rows, 8), draw(rows, 8, seed=1)
    return ItemEmbeddings(item_ids=[f"i{n:05}" for n in range(rows)], text=text, multimodal=multimodal)


@pytest.mark.parametrize(
    ("items", "floor", "factory"),
    [
        (50_000, 0.99, "Flat"),
        (100_000, 0.99, "IVF256,PQ128x4fs,Refine(SQfp16)"),
        (1_000_000, 0.95, "IVF1024,PQ128x4fs,Refine(SQfp16)"),
        (1_000_000, 0.9999, "Flat"),
    ],
)
def test_the_factory_follows_the_size_and_the_recall_asked_for(items: int, floor: float, factory: str) -> None:
    assert choose_factory(items, 256, floor) == factory


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", REFINED])
def test_blocks_of_stored_embeddings_make_the_index_of_all_at_once(
    factory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = draw_embeddings(3_000)
    whole = build_index(routed_items(embeddings), factory)
    monkeypatch.setattr(index_building, "BLOCK", 700)
    pieces = build_index(RoutedItems(embeddings), factory)
    asked = draw(20, seed=2)
    for found, wanted in zip(pieces.search(asked, 10), whole.search(asked, 10), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_exact_search_over_blocks_is_a_sort_of_all_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_building, "BLOCK", 64)
    vectors, asked = draw(1_000), draw(30, seed=2)
    scores, rows = exact_search(vectors, asked, 17)
    naive = np.argsort(-(asked @ vectors.T), axis=1)[:, :17]
    np.testing.assert_array_equal(rows, naive)
    np.testing.assert_allclose(scores, np.take_along_axis(asked @ vectors.T, naive, axis=1), atol=1e-6)


def test_an_item_with_the_score_of_the_last_is_as_good_as_it() -> None:
    vectors = np.repeat(draw(50), 4, axis=0)  # each four times: which copies are the best 10 is arbitrary
    backwards = faiss.IndexIDMap(faiss.IndexFlatIP(16))
    backwards.add_with_ids(vectors[::-1].copy(), np.arange(200)[::-1].copy())
    assert recall_against_exact(backwards, vectors, draw(30, seed=2), 10) == 1.0
    assert recall_against_exact(build_index(vectors[:100], "Flat"), vectors, draw(30, seed=2), 10) < 0.9


def mixed_queries(vectors: np.ndarray, counts: dict[float, int], *, shares: Any = None) -> RecallQueries:
    """Those routed by 0 lie beside an item; the others lie anywhere."""
    routes = np.repeat(list(counts), list(counts.values()))
    asked = draw(len(routes), seed=3)
    near = routes == 0
    asked[near] = vectors[: near.sum()] + 0.05 * asked[near]
    shares = shares_of(routes) if shares is None else shares
    return recall_queries(vectors, asked[:, None], routes, shares, depth=5)


def test_the_worst_bucket_with_enough_queries_decides() -> None:
    vectors = draw(3_000)
    index = build_index(vectors, "IVF16,Flat")
    index.nprobe = 2
    most = np.array([0.98, 0, 0.01, 0, 0.01])
    found = mixed_queries(vectors, {0.0: 60, 0.5: 60, 0.9: 20}, shares=most).measure(index, vectors)
    easy, hard, few = (bucket.recall for bucket in found.buckets)
    assert hard < easy - 0.1
    assert found.worst == hard, "20 queries are too few to count"
    assert found.overall == pytest.approx(0.98 * easy + 0.01 * hard + 0.01 * few)
    assert mixed_queries(vectors, {0.0: 60, 0.5: 20}).measure(index, vectors).worst > hard


def test_thin_buckets_are_filled_with_other_queries_asked_with_their_share() -> None:
    heads, routes = np.stack([draw(300), draw(300, seed=1)], axis=1), np.full(300, 0.95, np.float32)
    routes[:3] = [0.45, 0.5, 0.59]
    asked = np.concatenate([heads, routes[:, None, None] * heads], axis=2)
    filled, shares = fill_buckets(asked, routes)
    assert (filled[:300] == asked).all()
    assert len(filled) == len(shares) == 300 + 197, "empty buckets stay empty, those with enough as they are"
    assert ((shares[300:] > 0.4) & (shares[300:] < 0.6)).all()
    np.testing.assert_allclose(filled[300:, :, 16:], shares[300:, None, None] * filled[300:, :, :16])
    assert {row.tobytes() for row in filled[300:, 0, :16]} <= {row.tobytes() for row in heads[:, 0]}
    assert len(fill_buckets(asked[3:], routes[3:])[0]) == 297


@pytest.mark.parametrize("floor", [0.7, 0.9])
def test_search_parameters_are_the_cheapest_of_all_that_reach_the_floor(floor: float) -> None:
    vectors = draw(4_000)
    index = build_index(vectors, REFINED)
    queries = mixed_queries(vectors, {0.0: 100, 0.9: 100})
    chosen = tune_search(index, vectors, queries, floor)
    aim, space = floor + search_parameters.MARGIN * (1 - floor), faiss.ParameterSpace()
    assert queries.measure(index, vectors).worst >= aim, "they are set"
    enough = {}
    for broad in range(1, 17):
        for factor in search_parameters.K_FACTORS:
            name = f"nprobe={broad},k_factor_rf={factor:g}"
            space.set_index_parameters(index, name)
            found = queries.measure(index, vectors)
            if found.worst >= aim and min(b.recall - b.error for b in found.buckets) >= floor:
                scanned = 4_000 / 16 * faiss.extract_index_ivf(index).code_size * broad
                enough[name] = scanned + search_parameters.RANDOM_READ * 100 * factor * 2 * 16
    tried = {
        name for name in enough if int(name.split(",")[0].split("=")[1]) in (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 16)
    }
    assert chosen == min(tried, key=enough.__getitem__)


def test_a_floor_out_of_reach_gets_the_most_thorough_search() -> None:
    vectors = draw(4_000)
    index = build_index(vectors, "IVF16,PQ4x4fs")
    assert tune_search(index, vectors, mixed_queries(vectors, {0.9: 60}), 0.99) == "nprobe=16"
    assert tune_search(build_index(vectors, "Flat"), vectors, mixed_queries(vectors, {0.9: 60}), 0.99) == ""
    graph = build_index(vectors, "HNSW16")
    assert tune_search(graph, vectors, mixed_queries(vectors, {0.9: 60}), 0.9).startswith("efSearch=")
    assert mixed_queries(vectors, {0.9: 60}).measure(graph, vectors).worst >= 0.9


def test_recall_by_speed_rises_with_the_lists_looked_at_and_changes_nothing() -> None:
    vectors = draw(4_000)
    index = build_index(vectors, REFINED)
    queries = mixed_queries(vectors, {0.0: 60, 0.9: 60})
    chosen = tune_search(index, vectors, queries, 0.9)
    before = queries.measure(index, vectors)
    points = search_parameters.recall_by_speed(index, vectors, queries, chosen)
    assert queries.measure(index, vectors) == before, "the parameters in use are still in use"
    in_use = next(p for p in points if p["parameters"] == chosen)
    assert in_use["worst"] == before.worst
    recalls = [p["recall"] for p in points]
    assert recalls == sorted(recalls) and recalls[0] < recalls[-1]
    assert all(p["ms"] > 0 for p in points)
    flat = build_index(vectors, "Flat")
    assert [p["recall"] for p in search_parameters.recall_by_speed(flat, vectors, queries, "")] == [1.0]


def test_a_factory_that_cannot_be_built_is_named() -> None:
    with pytest.raises(InputError, match=r"index\.factory 'IVF5000,Flat' for 100 items"):
        build_index(draw(100), "IVF5000,Flat")
    with pytest.raises(InputError, match=r"index\.factory 'Nonsense'"):
        build_index(draw(100), "Nonsense")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("index")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder / "var"))
        yield folder


@pytest.fixture(scope="module")
def released(home: Path) -> PublishedRun:
    made = publish_run(home / "shop", with_truth=False, name="released", variant="default")
    for stage in ("embed", "index"):
        run_stage(STAGES[stage], made.run)
    return made


def model_of(made: PublishedRun) -> Path:
    return made.run.output("finetune").folder / "model"


def test_what_is_published_says_what_it_is(released: PublishedRun) -> None:
    artifact = released.run.output("index")
    manifest = json.loads(artifact.file("index.json").read_text())
    assert manifest["factory"] == "Flat"
    assert manifest["recall"]["worst"] == manifest["recall"]["overall"] == 1.0
    assert manifest["recall"]["floor"] == released.run.settings.index.minimum_recall
    assert sum(bucket["queries"] for bucket in manifest["recall"]["buckets"]) > 10
    assert set(manifest["files"]) == set(artifact.manifest["files"]) - {"index.json"}
    assert artifact.metrics["recall_at_100"] == artifact.metrics["recall_at_100_worst"] == 1.0
    searcher = Searcher.load(model_of(released), artifact.folder)
    exact = DenseRanker(
        load_model(model_of(released)),
        model_of(released) / "tokenizer.json",
        load_embeddings(released.run.output("embed").folder),
    )
    assert list(searcher.item_ids) == exact.item_ids
    assert searcher.items["title"][1:4] == [searcher.items["title"][n] for n in (1, 2, 3)]
    np.testing.assert_array_equal(searcher.rank(QUERIES, 10).rows, exact.rank(QUERIES, 10).rows)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(
            (n, d)
            for n in ("index.faiss", "index_items/part-0.parquet", "recall_queries.npy")
            for d in ("bit", "cut", "gone")
        ),
        ("index.json", "cut"),
        ("index.json", "gone"),
    ],
)
def test_a_damaged_file_is_named(name: str, damage: str, released: PublishedRun, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    shutil.copytree(released.run.output("index").folder, folder)
    content = bytearray((folder / name).read_bytes())
    if damage == "gone":
        (folder / name).unlink()
    else:
        content[len(content) // 2] ^= 4
        (folder / name).write_bytes(content if damage == "bit" else content[: len(content) // 2])
    with pytest.raises(InputError) as error:
        Searcher.load(model_of(released), folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_an_index_of_another_dimension_or_number_of_items_is_refused(released: PublishedRun, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    shutil.copytree(released.run.output("index").folder, folder)
    manifest = json.loads((folder / "index.json").read_text()) | {"files": {}}  # as indexes of earlier versions are
    (folder / "index.json").write_text(json.dumps(manifest))
    Searcher.load(model_of(released), folder)
    faiss.write_index(build_index(draw(24, 12), "Flat"), str(folder / "index.faiss"))
    with pytest.raises(InputError, match=r"vectors of 12 dimensions, index\.json says 32"):
        Searcher.load(model_of(released), folder)
    (folder / "index.json").write_text(json.dumps(manifest | {"dimension": 12}))
    with pytest.raises(InputError, match="vectors of 12 dimensions, the model asks with 32"):
        Searcher.load(model_of(released), folder)
    faiss.write_index(build_index(draw(23, 32), "Flat"), str(folder / "index.faiss"))
    with pytest.raises(InputError, match="23 vectors for 24 items"):
        Searcher.load(model_of(released), folder)


def test_below_the_floor_in_a_bucket_nothing_is_published(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = publish_run(home / "shop", with_truth=False, name="coarse", variant="default", index={"factory": "Flat"})
    run_stage(STAGES["embed"], made.run)
    before = published("index")
    monkeypatch.setattr(index_recall, "ENOUGH_QUERIES", 5)
    monkeypatch.setattr(indexing, "ENOUGH_QUERIES", 5)
    monkeypatch.setattr(RecallQueries, "found", lambda self, index, vectors: np.linspace(0.9, 0.99, len(self.routes)))
    with pytest.raises(InputError, match=r"index Flat: recall@24 .* where the share of pictures is .* choose a finer"):
        run_stage(STAGES["index"], made.run)
    assert made.run.find_output("index") is None
    assert published("index") == before


def todays_items() -> list[dict[str, Any]]:
    """One gone, one new, one with another title, one with another picture."""
    items = tiny_items()
    items[7] |= {"title": "Long  evening dress"}
    items[9] |= {"attributes": items[9]["attributes"] | {"colour": "black"}}
    items[0] |= {"item_id": "item-new", "title": "Wide hat"}
    return items


def refresh(released: PublishedRun, name: str, items: list[dict[str, Any]], **sections: Any) -> dict[str, Artifact]:
    """Today's run with the released model and index as the release that it refreshes."""
    index = released.run.output("index")
    release = a_release(
        cutoff=released.run.cutoff.isoformat(),
        model_digest=model_digest(model_of(released)),
        model_folder=str(model_of(released)),
        index_digest=index.digest,
        index_folder=str(index.folder),
    )
    settings = tiny_settings(released.root, network=released.run.settings.network.model_dump(), **sections)
    run = Run(
        name=name,
        date=LAST_DAY,
        settings_source="tests",
        settings=settings,
        champion=release,
        promotion="automatic",
        release=release,
    )
    made = PublishedRun(run=create_run(run), root=released.root)
    made.publish("prepare-items", lambda folder: write_items(folder, items))
    return {stage: run_stage(REFRESH_STAGES[stage], made.run) for stage in REFRESH_STAGES} | {
        "prepare-items": made.run.output("prepare-items")
    }


def test_a_refresh_without_a_change_is_the_same_index(released: PublishedRun) -> None:
    """Before any other: an item embedded again in another batch would differ in its last bits."""
    unchanged = refresh(released, "unchanged", tiny_items())["refresh-index"]
    assert unchanged.manifest["content"] == released.run.output("index").manifest["content"], "so nothing is published"


def test_a_refresh_answers_as_a_full_build(released: PublishedRun) -> None:
    made = refresh(released, "today", todays_items())
    metrics = made["refresh-index"].metrics
    assert (metrics["items"], metrics["items_added"], metrics["items_removed"]) == (24, 1, 1)
    assert (metrics["items_embedded"], metrics["trained_again"]) == (3, 0)
    model, tokenizer = load_model(model_of(released)), model_of(released) / "tokenizer.json"
    tables = [made["prepare-items"].files(table) for table in ("catalogue", "pictures")]
    full = embed_catalogue(model, tokenizer, *tables)
    kept = load_embeddings(made["embed-release"].folder)
    assert kept.item_ids == full.item_ids
    for name in ("text", "multimodal"):
        np.testing.assert_allclose(getattr(kept, name), getattr(full, name), atol=1e-6)
    searcher, exact = (
        Searcher.load(model_of(released), made["refresh-index"].folder),
        DenseRanker(model, tokenizer, full),
    )
    found, wanted = searcher.rank(QUERIES, 24), exact.rank(QUERIES, 24)
    assert list(searcher.item_ids) == exact.item_ids
    np.testing.assert_array_equal(found.rows, wanted.rows)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)
    hits, _ = searcher.search(["wide hat"], k=24)
    assert "item-new" in {hit.item_id for hit in hits[0]} and "item-000" not in {hit.item_id for hit in hits[0]}
    again = refresh(released, "today-again", todays_items())
    assert again["refresh-index"].key == made["refresh-index"].key, "the same catalogue is the same output"


def test_a_refresh_keeps_trained_lists_while_they_fit(home: Path) -> None:
    index = {"factory": "IVF4,Flat", "minimum_recall": 0.5}
    made = publish_run(home / "shop", with_truth=False, name="lists", variant="default", index=index)
    for stage in ("embed", "index"):
        run_stage(STAGES[stage], made.run)
    before = json.loads(made.run.output("index").file("index.json").read_text())
    kept = refresh(made, "lists-today", todays_items(), index=index)["refresh-index"]
    manifest = json.loads(kept.file("index.json").read_text())
    assert {manifest[n] == before[n] for n in ("factory", "search_parameters", "trained_on", "shares")} == {True}
    assert manifest["recall"]["worst"] >= 0.5
    files = [artifact.file("index.faiss") for artifact in (made.run.output("index"), kept)]
    trained, refreshed = (faiss.read_index(str(file)) for file in files)
    np.testing.assert_array_equal(trained.quantizer.reconstruct_n(0, 4), refreshed.quantizer.reconstruct_n(0, 4))
    anew = refresh(made, "lists-flat", todays_items(), index={"factory": "Flat"})["refresh-index"]
    assert anew.metrics["trained_again"] == 1
    assert anew.metrics["factory"] == "Flat"


def test_a_refresh_whose_recall_is_too_low_publishes_nothing(
    released: PublishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RecallQueries, "found", lambda self, index, vectors: np.full(len(self.routes), 0.9))
    items = todays_items()[:20]
    before = published("refresh-index")
    with pytest.raises(InputError, match=r"under index\.minimum_recall 0\.99"):
        refresh(released, "today-low", items)
    assert published("refresh-index") == before


def test_without_a_release_there_is_nothing_to_refresh(released: PublishedRun) -> None:
    run = create_run(replace(released.run, name="no-release"))
    PublishedRun(run=run, root=released.root).publish("prepare-items", lambda folder: write_items(folder, tiny_items()))
    with pytest.raises(InputError, match="met no release when it started"):
        run_stage(REFRESH_STAGES["embed-release"], run)


def test_items_of_another_catalogue_are_refused(released: PublishedRun, tmp_path: Path) -> None:
    files = released.run.output("prepare-items").files("catalogue")
    ids = load_embeddings(released.run.output("embed").folder).item_ids
    assert isinstance(index_items.read_index_items(files, ids), pa.Table)
    with pytest.raises(InputError, match="run embed again"):
        index_items.read_index_items(files, [*ids[1:], "other"])


def test_stages_that_embed_share_what_they_have(home: Path) -> None:
    assert set(embedding.EMBEDDING_STAGES) == {"embed", "embed-release"}
    made = publish_run(home / "shop", with_truth=False, name="another", variant="smar")
    for stage in ("embed", "index"):
        run_stage(STAGES[stage], made.run)
    metrics = refresh(made, "same", tiny_items())["embed-release"].metrics
    assert (metrics["items_embedded"], metrics["items_reused"]) == (0, 24)
