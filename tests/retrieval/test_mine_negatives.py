"""Hard negatives mined from a released index, against a naive search; and how they come into batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smar_model.data.hard_negatives import NO_ITEM, HardNegatives, read_hard_negatives
from smar_model.data.token_tables import query_keys
from smar_model.errors import InputError
from smar_model.lake.runs import Run, create_run, load_run
from smar_model.lake.stage import StageContext, run_stage
from smar_model.release.starting_points import find_mined
from smar_model.retrieval.item_embeddings import load_embeddings, routed_items
from smar_model.retrieval.search import Searcher
from smar_model.stages import STAGES
from smar_model.training.batches import TrainingData
from tests.evaluation.published_run import NETWORK, PublishedRun, publish_run, write_clicks, write_items
from tests.retrieval.whole_index import build_index
from tests.tiny_shop import DAYS, LAST_DAY, tiny_events, tiny_items, tiny_run, tiny_settings

SIZES = {"steps": 4, "batch": 8}
RANKS = (4, 15)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("mining")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder / "var"))
        for variant in ("smar", "dpsr"):
            published = publish_run(folder / "shop", with_truth=False, name=variant)
            published.publish_model("finetune", variant=variant)
            for stage in ("embed", "index"):
                run_stage(STAGES[stage], published.run)
        yield folder


def training(**mining: Any) -> dict[str, Any]:
    sizes = {"adapt_vision": SIZES, "pretrain": SIZES, "finetune": SIZES | {"hard_negatives": 2}}
    return sizes | {"mining": {"release": "smar", "ranks": RANKS} | mining}


def mining_run(home: Path, name: str, **mining: Any) -> Run:
    """A run whose catalogue lacks the first of the released items: item rows of its training are not those of the index."""
    settings = tiny_settings(home / "shop", network=NETWORK, training=training(**mining))
    run = Run(
        name=name, date=LAST_DAY, settings_source="tests", settings=settings, champion=None, promotion="automatic"
    )
    run = create_run(replace(run, mined_from=find_mined(run, None)))
    for stage in ("generate-queries", "label-fashion", "check-data"):
        run.take(load_run("smar").output(stage), stage=stage)
    published = PublishedRun(run=run, root=home)
    published.publish("prepare-items", lambda folder: write_items(folder, tiny_items()[1:]))
    published.publish("extract-clicks", lambda folder: write_clicks(folder, {day: twice_clicked(day) for day in DAYS}))
    for stage in ("train-tokenizer", "mine-negatives"):
        run_stage(STAGES[stage], run)
    return run


def twice_clicked(day: date) -> tuple[list[dict], list[dict]]:
    """Whoever clicks an item also clicks one of another colour and kind."""
    ids = [item["item_id"] for item in tiny_items()]
    events, requests = tiny_events(day, tiny_items())
    again = [e | {"item_id": ids[(ids.index(e["item_id"]) + 9) % len(ids)]} for e in events if e["event"] == "click"]
    return events + again, requests


def context(run: Run, stage: str, folder: Path) -> StageContext:
    return PublishedRun(run=run, root=folder).context(stage, folder)


@pytest.mark.parametrize(("release", "margin"), [("smar", 0.95), ("smar", 0.6), ("dpsr", 0.95)])
def test_mined_items_are_those_of_a_naive_search(release: str, margin: float, home: Path) -> None:
    run = mining_run(home, f"{release}-{margin}", release=release, margin=margin)
    mined = read_hard_negatives(run.output("mine-negatives").folder / "hard_negatives")
    data = TrainingData(context(run, "finetune", home), seed=0, pictures=False)
    mine, released = data.items.item_ids.astype(str).tolist(), load_run(release)
    model = Searcher.load(released.output("finetune").folder / "model", released.output("index").folder)
    embeddings = load_embeddings(released.output("embed").folder)
    queries = sorted(
        {f"{item['attributes']['colour']} {item['category'].split(' > ')[2].lower()}" for item in tiny_items()}
    )
    texts = dict(zip(query_keys(queries).tolist(), queries, strict=True))
    clicked = {(key, mine[row]) for key, row in zip(data.clicked.keys.tolist(), data.clicked.rows, strict=True)}
    found, filtered = 0, 0
    for pair, (key, row) in enumerate(zip(data.clicked.keys.tolist(), data.clicked.rows.tolist(), strict=True)):
        asked = model.encoder.encode([texts[key]])[0]
        scores = model.encoder.join_heads(asked @ routed_items(embeddings).T)[0].tolist()
        ranked = sorted(zip(embeddings.item_ids, scores, strict=True), key=lambda hit: (-hit[1], hit[0]))
        own = dict(ranked)[mine[row]]
        candidates = [hit for hit in ranked[RANKS[0] - 1 : RANKS[1]] if hit[0] in mine and (key, hit[0]) not in clicked]
        wanted = [item for item, score in candidates if score <= own - (1 - margin) * abs(own)]
        query = mined.queries[pair]
        rows = mined.items[query, mined.first[pair] : mined.count[query]]
        assert [mine[r] for r in rows] == wanted
        found += len(wanted)
        filtered += len(candidates) - len(wanted)
    assert found and filtered
    metrics = run.output("mine-negatives").metrics
    assert metrics["negatives_per_pair"] == pytest.approx(found / len(data.clicked.rows))
    assert metrics["release"] == release


def test_a_batch_has_mined_items_beside_clicked_pairs_and_none_that_was_clicked(home: Path) -> None:
    run = mining_run(home, "batches")
    data = TrainingData(context(run, "finetune", home), seed=0, pictures=False)
    mined = read_hard_negatives(run.output("mine-negatives").folder / "hard_negatives")
    clicked = set(zip(data.clicked.keys.tolist(), data.clicked.rows.tolist(), strict=True))
    allowed: dict[tuple[int, int], set[int]] = {}
    for pair, (key, row) in enumerate(zip(data.clicked.keys.tolist(), data.clicked.rows.tolist(), strict=True)):
        query = mined.queries[pair]
        allowed[key, row] = set(mined.items[query, mined.first[pair] : mined.count[query]].tolist())
    seen = set()
    for batch in islice(data.batches(8, 1.0, random_negatives=1, hard_negatives=2), 250):
        rows = batch.item_keys.reshape(8, 4).tolist()  # its own, a random one, two mined
        for key, (row, _, *hard) in zip(batch.query_keys.tolist(), rows, strict=True):
            if allowed[key, row]:
                assert set(hard) <= allowed[key, row]
                assert not {(key, item) for item in hard} & clicked
                seen |= {(key, row, item) for item in hard}
    assert len(seen) > 0.9 * sum(map(len, allowed.values()))


def test_pairs_without_negatives_get_random_items() -> None:
    items = np.array([[5, 6, 7], [8, NO_ITEM, NO_ITEM]])
    mined = HardNegatives(items=items, count=np.array([3, 1]), queries=np.array([0, 0, 1]), first=np.array([1, 3, 0]))
    drawn = mined.sample(np.array([0, 1, 2] * 50), 2, np.random.default_rng(0)).reshape(50, 3, 2)
    assert set(drawn[:, 0].ravel().tolist()) == {6, 7}
    assert set(drawn[:, 1].ravel().tolist()) == {NO_ITEM}
    assert set(drawn[:, 2].ravel().tolist()) == {8}


def test_ranks_beyond_the_catalogue_leave_nothing_to_mine(home: Path) -> None:
    run = mining_run(home, "beyond", ranks=[101, 500])
    assert run.output("mine-negatives").metrics["pairs_with_negatives"] == 0
    data = TrainingData(context(run, "finetune", home), seed=0, pictures=False)
    assert next(data.batches(8, 0.5, hard_negatives=2)).item_keys.shape == (24,)


def test_without_a_release_training_goes_on_and_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = mining_run(home, "first-day", release="champion")
    assert run.mined_from is None
    assert "no release trained up to an earlier day: training goes on without hard negatives" in capsys.readouterr().out
    data = TrainingData(context(run, "finetune", home), seed=0, pictures=False)
    assert next(data.batches(8, 0.5, hard_negatives=2)).item_keys.shape == (24,)


def test_hard_negatives_that_were_not_mined_are_missed(home: Path) -> None:
    run = mining_run(home, "not-mined")
    (run.folder / "mine-negatives.json").unlink()
    data = TrainingData(context(run, "finetune", home), seed=0, pictures=False)
    with pytest.raises(InputError, match="run `smar mine-negatives --run not-mined` first"):
        next(data.batches(8, 0.5, hard_negatives=2))
    next(data.batches(8, 0.5))


def test_another_release_is_another_output_and_the_same_one_the_same(home: Path) -> None:
    first, again, other = (
        mining_run(home, name, release=r) for name, r in (("a", "smar"), ("b", "smar"), ("c", "dpsr"))
    )
    outputs = [run.output("mine-negatives") for run in (first, again, other)]
    assert outputs[0].key == outputs[1].key != outputs[2].key


def test_a_release_that_knows_the_evaluation_days_is_refused(home: Path) -> None:
    run = tiny_run(home / "shop", "today", network=NETWORK, training=training())
    assert find_mined(run, None) is not None
    with pytest.raises(
        InputError, match=r"training\.mining\.release: run smar has learned from the days up to 2026-11-18"
    ):
        find_mined(replace(run, date=LAST_DAY - timedelta(days=1)), None)
    unknown = replace(run, settings=tiny_settings(home / "shop", training=training(release="nobody")))
    with pytest.raises(InputError, match="no such run"):
        find_mined(unknown, None)


def test_inverted_lists_know_the_score_of_any_row(home: Path) -> None:
    released = load_run("smar")
    vectors = routed_items(load_embeddings(released.output("embed").folder))
    flat = Searcher.load(released.output("finetune").folder / "model", released.output("index").folder)
    searcher = Searcher(flat.encoder, build_index(vectors, "IVF2,Flat"), flat.items, flat.manifest)
    asked = flat.encoder.encode(["red shirt"])[0]
    assert searcher.score(asked, np.array([20, 3, 3])) == pytest.approx((asked @ vectors.T)[0, [20, 3, 3]], abs=1e-6)
