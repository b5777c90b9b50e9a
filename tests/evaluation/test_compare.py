"""`smar compare` and `smar sweep` on a tiny shop: trainings of two steps, real stages from the tokenizer to the judge."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from typer.testing import CliRunner

from smar_model.cli import app
from smar_model.data.query_text import normalise_query
from smar_model.data.text_tokens import encode_queries
from smar_model.data.training_pairs import in_novel_bucket
from smar_model.errors import InputError
from smar_model.evaluation import training_steps
from smar_model.evaluation.compare import current_rows, measure_missing, missing_rows
from smar_model.evaluation.comparison import Bench, load_bench
from smar_model.evaluation.evaluation_set import SYNTHETIC_QUERIES
from smar_model.evaluation.judge import METRICS, MODEL, NOVEL, SYNTHETIC, read_results
from smar_model.evaluation.quality_page import write_page
from smar_model.evaluation.sweep import sweep
from smar_model.evaluation.training_steps import find_steps
from smar_model.lake.artifacts import load_artifact
from smar_model.lake.digests import digest_json
from smar_model.lake.publishing import Attempt
from smar_model.lake.stage_key import key_parts
from smar_model.retrieval.item_embeddings import load_embeddings
from smar_model.retrieval.network_queries import DenseRanker
from smar_model.retrieval.ranking import NO_ROW
from smar_model.retrieval.rerank import embed_images, rerank
from smar_model.stages import COMPARISON_STAGES
from smar_model.training.model_files import load_model
from tests.evaluation.published_run import NETWORK, write_clicks, write_items, write_labels, write_queries
from tests.tiny_shop import DAYS, LAST_DAY, tiny_events, tiny_items, tiny_settings, write_rows, write_tiny_shop

NOVEL_BUCKET = 0.3
ROWS = {
    "popularity": {"label": "Popularity", "baseline": "popularity"},
    "bm25": {"label": "BM25", "baseline": "bm25"},
    "incumbent": {"label": "The log's engine", "baseline": "incumbent"},
    "text_only": {"label": "Text-only", "variant": "text_only"},
    "fused": {"label": "With BM25", "with_bm25": "text_only"},
    "default": {"label": "Ours", "variant": "default"},
    "mlp": {"label": "MLP", "variant": "default", "vision": "default", "settings": {"network": {"fusion": "mlp"}}},
    "oracle": {"label": "Oracle", "variant": "oracle", "truth": "all", "seeds": [0]},
    "told": {"label": "Oracle over BM25", "variant": "oracle", "truth": "all", "seeds": [0], "floor": "bm25"},
}
PAIRS = [{"first": "default", "second": "text_only", "aim": 0.1}, {"first": "default", "second": "bm25"}]
STEPS = {"steps": 2, "batch": 8}
WRONG_PICTURES = [
    {"item_id": f"item-{number:03}", "shows": "placeholder", "of_item": None} for number in range(0, 24, 2)
]


@dataclass(kw_only=True)
class Shop:
    folder: Path

    def file(self, name: str, **content: Any) -> Path:
        """A comparison (or a sweep) over the shop."""
        file = self.folder / f"{name}.yaml"
        common = {"base": str(self.folder / "base.yaml"), "date": str(LAST_DAY), "output": str(self.folder / name)}
        file.write_text(yaml.safe_dump(common | content, sort_keys=False), encoding="utf-8")
        return file

    def bench(self, name: str, rows: dict[str, Any], **content: Any) -> Bench:
        return load_bench(self.file(name, tables={"Core": rows}, **content), COMPARISON_STAGES)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Tables of the data half under the keys that Spark's stages would give them; colours are told by truth alone."""
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder / "home"))
        items = tiny_items()
        events = {day: tiny_events(day, items) for day in DAYS}
        root = write_tiny_shop(folder / "shop")
        colour = {item["item_id"]: item["attributes"]["colour"] for item in items}
        for day, (_, requests) in events.items():
            rows = [r | {"named": [("colour", colour[r["item_id"]])]} for r in requests]
            write_rows(root / "truth" / "requests" / f"dt={day}" / "part-0.parquet", "truth_requests", rows)
        write_rows(root / "truth" / "pictures.parquet", "truth_pictures", WRONG_PICTURES)
        training = {"adapt_vision": STEPS, "pretrain": STEPS, "finetune": STEPS, "picture_views": 1, "threads": 1}
        segments = {"novel_bucket": NOVEL_BUCKET}
        settings = tiny_settings(root, network=NETWORK, training=training, segments=segments)
        (folder / "base.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")), encoding="utf-8")
        shop = Shop(folder=folder)
        clicked = {(normalise_query(r["query"]), r["item_id"]) for r in events[LAST_DAY][0] if r["event"] == "click"}
        publish_data(
            shop.bench("data", ROWS),
            {
                "prepare-items": lambda out: write_items(out, items, masked="colour"),
                "extract-clicks": lambda out: write_clicks(out, events),
                "generate-queries": lambda out: write_queries(out, items),
                "label-fashion": lambda out: write_labels(out, events, items),
                "assign-segments": lambda out: write_segments(out, clicked, items),
            },
        )
        yield shop


def publish_data(bench: Bench, write: dict[str, Callable[[Path], None]]) -> None:
    run = bench.run("text_only", seed=0, steps={})
    for stage in bench.before("judge")[0]:
        key = digest_json(key_parts(stage, run, {name: run.output(name) for name in stage.inputs}))
        attempt = Attempt(stage.name, key)
        write.get(stage.name, lambda out: None)(attempt.folder)
        run.take(attempt.publish(metrics={}, inputs={}, settings={}), stage=stage.name)


def write_segments(folder: Path, clicked: set[tuple[str, str]], items: list[dict[str, Any]]) -> None:
    department = {item["item_id"]: item["category"].split(" > ")[0] for item in items}
    facts = {"query_tier": "head", "title_kind": "rich", "query_seen": True, "item_seen": True}
    facts |= {"day": LAST_DAY, "clicks": 1, "picture_informative": True, "also_synthetic": False, "is_visual": True}
    rows = [
        {"query": q, "item_id": item, "department": department[item], "unseen_words": "red" in q, **facts}
        for q, item in sorted(clicked)
    ]
    write_rows(folder / "segments" / "part-0.parquet", "segments", rows)


def lines(bench: Bench) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (bench.folder / "rows.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def measured(shop: Shop) -> Bench:
    bench = shop.bench("quality", ROWS, seeds=[0, 1], pairs=PAIRS)
    assert measure_missing(bench) == 0
    return bench


def test_a_call_that_is_out_of_time_stops_and_the_next_goes_on(shop: Shop) -> None:
    rows = {name: ROWS[name] for name in ("text_only", "default")}
    bench = shop.bench("stopped", rows, pairs=PAIRS[:1])
    assert measure_missing(bench, minutes=0) == 1
    assert [(row["name"], row["seed"]) for row in lines(bench)] == [("text_only", 0)]
    page = write_page(bench, command="smar compare").read_text()
    assert "| Ours (`default`) | not measured yet |" in page
    assert "| default − text_only | +10.0 | not measured yet |" in page
    assert measure_missing(bench, minutes=0) == 0
    assert [row["name"] for row in lines(bench)] == ["text_only", "default"]
    page = write_page(bench, command="smar compare").read_text()
    assert "| Ours (`default`) | not measured yet |" not in page
    assert measure_missing(bench) == 0
    assert len(lines(bench)) == 2


def test_every_row_and_seed_is_measured_once(measured: Bench) -> None:
    found = {(row.name, row.seed): row for row in current_rows(measured)}
    learned = {(name, seed) for name in ("text_only", "fused", "default", "mlp") for seed in (0, 1)}
    untrained = {("popularity", 0), ("bm25", 0), ("incumbent", 0)}
    assert set(found) == learned | untrained | {("oracle", 0), ("told", 0)}
    shown = found["incumbent", 0].metrics["all"]
    assert set(shown.estimates) == {"graded_ndcg_at_10", "graded_precision_at_10"}, "no recall of what was shown"
    assert 0 < shown.estimates["graded_ndcg_at_10"].mean < 1 and 0 < shown.n <= 40
    assert all(row.metrics["all"].n == 40 for (name, _), row in found.items() if name != "incumbent")
    assert found["default", 0].pairs == 3 * 2 * 8
    assert found["default", 0].steps == {"adapt_vision": 2, "pretrain": 2, "finetune": 2}
    assert found["text_only", 0].pairs == 2 * 2 * 8
    assert found["text_only", 0].key != found["text_only", 1].key
    assert found["fused", 0].key == found["text_only", 0].key, "one training, judged alone and with BM25"
    assert found["bm25", 0].machine and found["bm25", 0].commit


def test_what_rows_share_is_made_once(measured: Bench) -> None:
    default, mlp, text_only = (measured.run(name, seed=0, steps={}) for name in ("default", "mlp", "text_only"))
    assert mlp.output("adapt-vision").key == default.output("adapt-vision").key
    assert mlp.output("pretrain").key != default.output("pretrain").key
    assert load_model(mlp.output("finetune").folder / "model").variant.fusion == "mlp"
    assert text_only.output("train-tokenizer").key == default.output("train-tokenizer").key


def test_the_oracle_alone_sees_truth(measured: Bench) -> None:
    colour = {item["item_id"]: item["attributes"]["colour"] for item in tiny_items()}
    ordinary = measured.run("text_only", seed=0, steps={}).output("prepare-items")
    for name in ("text_only", "default", "mlp", "oracle"):
        run = measured.run(name, seed=0, steps={})
        read = run.output("prepare-items")
        rows = pq.read_table(read.files("catalogue")).to_pylist()
        told = [dict(row["attributes"]).get("colour") == colour[row["item_id"]] for row in rows]
        assert all(told) if name == "oracle" else not any(told)
        assert (read.stage, read.digest == ordinary.digest) == (
            ("reveal-truth", False) if name == "oracle" else ("prepare-items", True)
        )
        for stage in ("train-tokenizer", "pretrain", "finetune", "embed", "judge"):
            assert run.output(stage).manifest["inputs"]["prepare-items"] == read.digest
        # What all rows share is made before the truth is revealed.
        for stage in ("extract-clicks", "generate-queries", "assign-segments"):
            assert run.output(stage).key == measured.run("text_only", seed=0, steps={}).output(stage).key


def test_a_reranker_puts_the_same_items_in_another_order(shop: Shop) -> None:
    row = {"label": "Reranked", "variant": "beyond_text_rerank"}
    bench = shop.bench("reranked", {"x": row})
    run = bench.carry_out("x", seed=0, steps={}, last="judge")
    folder = run.output("finetune").folder / "model"
    model, embeddings = load_model(folder), load_embeddings(run.output("embed").folder)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.reranker.value.weight)  # two steps leave the order as it was
    ranker = DenseRanker(model, folder / "tokenizer.json", embeddings)
    queries = ["red shirts", "novel"]
    first = ranker.rank(queries, 30)
    images = embed_images(model, embeddings.item_ids, run.output("prepare-items").files("pictures"))
    second = rerank(model, ranker.encoder, queries, first, embeddings, images)
    asked, _ = model.encode_queries(torch.from_numpy(encode_queries(ranker.encoder.tokenizer, queries, 12)))
    expected = model.reranker(asked, torch.from_numpy(np.array(embeddings.text)), images).detach().numpy()
    for query in range(2):
        rows = [row for row in second.rows[query] if row != NO_ROW]
        assert sorted(rows) == sorted(row for row in first.rows[query] if row != NO_ROW)
        assert rows == np.argsort(-expected[query], kind="stable").tolist()
    assert second.rows.tolist() != first.rows.tolist()


def test_visible_truth_is_colour_and_type(shop: Shop) -> None:
    truth = [
        {"item_id": item["item_id"], "attributes": [("colour", "Teal"), ("type", "shirt"), ("brand", "acme")]}
        for item in tiny_items()
    ]
    file = shop.folder / "shop" / "truth" / "items.parquet"
    before = file.read_bytes()
    write_rows(file, "truth_items", truth)
    try:
        bench = shop.bench("visible", {"seen": {"label": "", "variant": "oracle", "truth": "visible"}})
        run = bench.carry_out("seen", seed=0, steps={}, last="train-tokenizer")
    finally:
        file.write_bytes(before)
    rows = pq.read_table(run.output("prepare-items").files("catalogue")).to_pylist()
    assert {tuple(sorted(set(dict(row["attributes"])) - {"material"})) for row in rows} == {("colour", "type")}


def test_figures_come_from_each_querys_values(measured: Bench) -> None:
    row = next(row for row in current_rows(measured) if (row.name, row.seed) == ("default", 1))
    artifact = load_artifact(row.stage, row.key)
    table = pq.read_table(artifact.file("comparison_results/model.parquet")).to_pylist()
    results = read_results(artifact, MODEL)
    assert sorted(r["query_id"] for r in table) == results.query_ids.tolist()
    log = [r for r in table if "all" in r["segments"]]
    assert 0 < len(log) < len(table)
    for k in (10, 50, 100):
        found = [r["target_rank"] is not None and r["target_rank"] <= k for r in log]
        assert row.metrics["all"].estimates[f"target_recall_at_{k}"].mean == pytest.approx(np.mean(found), abs=1e-5)
        expected = [2 * hit / k / (1 + 1 / k) for hit in found]
        assert [r[f"target_f1_at_{k}"] for r in log] == pytest.approx(expected)
    assert [r["target_mrr"] for r in table] == pytest.approx([1 / (r["target_rank"] or np.inf) for r in table])
    for segment, figures in row.metrics.items():
        inside = [r for r in table if segment in r["segments"]]
        assert figures.n == len(inside)
        for metric in METRICS:
            found = figures.estimates[metric]
            assert found.mean == pytest.approx(np.mean([r[metric] for r in inside]), abs=1e-5)
            assert found.low <= found.mean <= found.high


def test_novel_queries_and_items_are_those_that_training_never_saw(measured: Bench) -> None:
    row = next(row for row in current_rows(measured) if row.name == "text_only")
    table = pq.read_table(load_artifact(row.stage, row.key).file("comparison_results/model.parquet")).to_pylist()
    seen = {
        (normalise_query(event["query"]), event["item_id"])
        for day in DAYS[:-1]
        for event in tiny_events(day, tiny_items())[0]
        if event["event"] == "click"
    }
    held_out = {
        kind: {key for key in keys if in_novel_bucket(kind, [key], (0.0, NOVEL_BUCKET))[0]}
        for kind, keys in (("query", {q for q, _ in seen}), ("item", {i for _, i in seen}))
    }
    seen = {(q, i) for q, i in seen if q not in held_out["query"] and i not in held_out["item"]}
    assert held_out["query"] and held_out["item"]
    queries, items = {q for q, _ in seen}, {i for _, i in seen}
    for r in (r for r in table if SYNTHETIC not in r["segments"]):
        assert (NOVEL in r["segments"]) == (r["query"] not in queries)
        kinds = ("seen" if r["query"] in queries else "novel", "seen" if r["cluster"] in items else "novel")
        assert [s for s in r["segments"] if s.endswith("_item")] == ["{}_query_{}_item".format(*kinds)]
        if r["query"] in queries:
            assert not {"fashion", "not_fashion", "title_rich"} & set(r["segments"])


def test_synthetic_queries_are_parts_of_the_titles_of_items_kept_out(measured: Bench) -> None:
    row = next(row for row in current_rows(measured) if row.name == "text_only")
    table = pq.read_table(load_artifact(row.stage, row.key).file("comparison_results/model.parquet")).to_pylist()
    synthetic = [r for r in table if SYNTHETIC in r["segments"]]
    titles = {item["item_id"]: normalise_query(item["title"]) for item in tiny_items()}
    kept_out = {item for item in titles if in_novel_bucket("item", [item], (0.0, NOVEL_BUCKET))[0]}
    assert Counter(r["cluster"] for r in synthetic) == dict.fromkeys(kept_out, SYNTHETIC_QUERIES)
    for r in synthetic:
        assert r["segments"] == [SYNTHETIC]
        assert f" {r['query']} " in f" {titles[r['cluster']]} "
    assert row.metrics[SYNTHETIC].n == len(synthetic)


def test_the_page_says_what_was_measured(measured: Bench) -> None:
    page = write_page(measured, command="smar compare --settings x.yaml").read_text()
    rows = {(row.name, row.seed): row for row in current_rows(measured)}
    seeds = [rows["default", seed].metrics[NOVEL].estimates["target_recall_at_50"].mean for seed in (0, 1)]
    assert f"| Ours (`default`) | {100 * np.mean(seeds):.1f} ± " in page
    assert "| The log's engine (`incumbent`) | – | – | – | – | – | " in page, "what cannot be told of shown lists"
    assert f"({100 * seeds[0]:.1f} {100 * seeds[1]:.1f})" in page
    assert "`smar compare --settings x.yaml`" in page
    assert "not measured yet" not in page
    differences = json.loads((measured.folder / "differences.json").read_text())
    entry = differences["default − text_only"]
    for metric in ("target_recall_at_50", "graded_ndcg_at_10"):
        means = [
            rows["default", s].metrics["all"].estimates[metric].mean
            - rows["text_only", s].metrics["all"].estimates[metric].mean
            for s in (0, 1)
        ]
        figures = entry["segments"]["all"][metric]
        assert figures["by_seed"] == pytest.approx(means, abs=2e-5)
        assert all(low <= value for low, value in zip(figures["low_by_seed"], figures["by_seed"], strict=True))
        assert figures["mean"] == pytest.approx(np.mean(means), abs=2e-5)
        assert 0 < figures["p"] <= 1
    assert differences["default − bm25"]["seeds"] == [0, 1], "a baseline stands beside every seed"
    assert {"default of oracle over text_only", "mlp of oracle over text_only"} <= set(differences)
    assert "text_only of told over bm25" in differences, "an oracle with a floor of its own"
    at_10 = [
        rows[name, 0].metrics[NOVEL].estimates["target_recall_at_10"].mean
        for name in ("default", "text_only", "oracle")
    ]
    share = differences["default of oracle over text_only"]["segments"][NOVEL]["at_10"]["mean"]
    if share is not None:
        assert share == pytest.approx((at_10[0] - at_10[1]) / (at_10[2] - at_10[1]), abs=1e-3)


def test_words_never_read_and_pictures_that_lie_are_segments_beside_the_guarded_ones(measured: Bench) -> None:
    page = write_page(measured, command="c").read_text()
    assert "| not_fashion | title_rich | no_picture | unseen_words | wrong_picture | right_picture |" in page
    row = next(row for row in current_rows(measured) if row.name == "default")
    results = read_results(load_artifact(row.stage, row.key), row.model)
    wrong = {rows["item_id"] for rows in WRONG_PICTURES}
    novel = results.segments[NOVEL]
    of_wrong = novel & np.isin(results.clusters.astype(str), sorted(wrong))
    assert row.metrics["wrong_picture"].n == sum(of_wrong & ~results.segments["no_picture"]) > 0
    assert sum(row.metrics[name].n for name in ("wrong_picture", "right_picture", "no_picture")) == novel.sum()
    assert 0 < row.metrics["unseen_words"].n < novel.sum()


def test_words_are_held_back_until_the_first_evaluation_day(shop: Shop) -> None:
    simulation = {"shop": {"simulation": {"held_back_words": 0.5}}, "window": {"evaluation_days": 2}}
    rows = {
        "text_only": ROWS["text_only"],
        "told": ROWS["default"] | {"settings": {"shop": {"simulation": {"held_back_from": "2026-11-01"}}}},
    }
    bench = shop.bench("held_back", rows, settings=simulation)
    made = {name: bench.settings(name, seed=0, steps={}).shop.simulation for name in rows}
    assert [str(made[name].held_back_from) for name in rows] == [str(DAYS[-2]), "2026-11-01"]


def test_the_page_can_be_written_where_the_lake_is_not(
    measured: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = write_page(measured, command="c").read_text()
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    assert write_page(measured, command="c").read_text() == here


def test_a_changed_setting_makes_a_row_unmeasured(shop: Shop, measured: Bench) -> None:
    changed = ROWS | {"default": ROWS["default"] | {"settings": {"training": {"token_dropout": 0.5}}}}
    names = {row.name for row in current_rows(shop.bench("quality", changed, seeds=[0, 1]))}
    assert names == set(ROWS) - {"default", "mlp"}, "mlp takes the vision encoder of default"
    shop.bench("quality", ROWS, seeds=[0, 1], pairs=PAIRS)  # as it was


def test_the_same_time_is_spent_in_steps(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_steps, "PROBE_STEPS", 2)
    monkeypatch.setattr(training_steps, "PROBE_SECONDS", 0.5)
    monkeypatch.setattr(training_steps, "PROBE_ROUNDS", 2)
    rows = {name: ROWS[name] for name in ("text_only", "mlp", "default", "bm25")}
    bench = shop.bench("timed", rows, seconds=60, seeds=[0, 1])
    steps = find_steps(bench, rows, {})
    timing = json.loads((bench.folder / "timing.json").read_text())
    assert set(steps) == {"text_only", "mlp", "default"}
    assert set(steps["text_only"]) == {"pretrain", "finetune"}
    assert steps["mlp"]["adapt_vision"] == steps["default"]["adapt_vision"]
    for name, of in steps.items():
        assert timing[name]["steps"] == of
        # The encoder of default is that of mlp.
        each = timing["default"]["seconds_per_step"] | timing[name]["seconds_per_step"]
        cost = {stage: n * each[stage] for stage, n in of.items()}
        spent = timing[name]["fixed_seconds"] + sum(cost.values())
        assert 60 - sum(timing[name]["seconds_per_step"].values()) <= spent <= 60
        assert cost["pretrain"] / cost["finetune"] == pytest.approx(0.35 / 0.3, rel=0.1)
    # The second time nothing runs, and the steps are the settings of the row.
    monkeypatch.setattr(training_steps, "probe", None)
    assert find_steps(bench, rows, {}) == steps
    settings = bench.settings("mlp", seed=1, steps=steps["mlp"])
    assert settings.training.pretrain.steps == steps["mlp"]["pretrain"]
    assert settings.training.seed == 1


def test_rows_that_are_probed_later_have_the_steps_that_the_machine_made_before(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_steps, "PROBE_STEPS", 2)
    monkeypatch.setattr(training_steps, "PROBE_SECONDS", 0.5)
    monkeypatch.setattr(training_steps, "PROBE_ROUNDS", 2)
    rows = {name: ROWS[name] for name in ("text_only", "default")} | {"again": ROWS["text_only"] | {"seeds": [0]}}
    bench = shop.bench("later", rows, seconds=60)
    before = find_steps(bench, ["text_only", "default"], {})
    file = bench.folder / "timing.json"
    timing = json.loads(file.read_text())
    assert timing["text_only"]["scaled_by"] == {}
    # As if the machine had been ten times slower then.
    for entry in timing.values():
        entry["seconds_per_step"] = {stage: 10 * each for stage, each in entry["seconds_per_step"].items()}
    file.write_text(json.dumps(timing))
    steps = find_steps(bench, ["again"], {})
    found = json.loads(file.read_text())
    assert {name: steps[name] for name in before} == before
    assert {name: found[name] for name in timing} == timing
    (factor,) = found["again"]["scaled_by"].values()
    assert found["again"]["scaled_by"].keys() <= before.keys()
    assert 3 < factor < 30
    # It is the same row as text_only under another name: a tenth of its steps, as the machine of then would have made.
    for stage, each in steps["again"].items():
        assert each == pytest.approx(before["text_only"][stage] / 10, rel=0.7)


def test_what_a_shop_does_once_is_made_once_and_paid_for_apart(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_steps, "PROBE_STEPS", 2)
    monkeypatch.setattr(training_steps, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr(training_steps, "PROBE_ROUNDS", 2)
    rows = {name: ROWS[name] for name in ("text_only", "mlp", "default")}
    longer = rows["text_only"] | {"seconds": 4, "seeds": [0]}
    budget = {"seconds": 2, "adapting_seconds": 1, "seeds": [0, 1]}
    growth = {"Text-only": ["text_only", "text_only_longer"], "Ours": ["default"]}
    bench = shop.bench("apart", rows | {"text_only_longer": longer}, growth=growth, **budget)
    assert measure_missing(bench) == 0
    timing = json.loads((bench.folder / "timing.json").read_text())
    once = timing["adapt-vision of default"]
    assert {"adapt-vision of default", *rows, "text_only_longer"} == set(timing)
    assert once["fixed_seconds"] + once["steps"]["adapt_vision"] * once["seconds_per_step"]["adapt_vision"] <= 1
    for name in ("default", "mlp"):
        own = timing[name]
        assert set(own["seconds_per_step"]) == {"pretrain", "finetune"}
        assert own["steps"]["adapt_vision"] == once["steps"]["adapt_vision"]
        cost = {stage: own["steps"][stage] * each for stage, each in own["seconds_per_step"].items()}
        assert 1 < own["fixed_seconds"] + sum(cost.values()) <= 2, "its whole time is its own"
        assert cost["pretrain"] / cost["finetune"] == pytest.approx(0.35 / 0.3, rel=0.2)
    assert timing["text_only_longer"]["steps"]["pretrain"] > 1.5 * timing["text_only"]["steps"]["pretrain"]
    steps = {name: entry["steps"] for name, entry in timing.items()}
    runs = [
        bench.carry_out(name, seed=seed, steps=steps, last="finetune") for name in ("default", "mlp") for seed in (0, 1)
    ]
    assert len({run.output("adapt-vision").key for run in runs}) == 1, "with the first seed, for all"
    assert len({run.output("pretrain").key for run in runs}) == 4
    measured = {(row["name"], row["seed"]): row for row in lines(bench)}
    assert measured["default", 1]["once_seconds"] == measured["mlp", 0]["once_seconds"] > 0
    assert measured["text_only", 0]["once_seconds"] == 0
    page = write_page(bench, command="c").read_text()
    assert "| pairs seen | seconds | once |" in page
    assert "(apart/growth.svg)" in page
    drawn = (bench.folder / "growth.svg").read_text()
    assert "Text-only" in drawn and "Ours" not in drawn, "one point is no line"


def test_a_row_that_cannot_be_probed_does_not_stop_the_others(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_steps, "PROBE_STEPS", 1)
    monkeypatch.setattr(training_steps, "PROBE_ROUNDS", 2)
    broken = ROWS["default"] | {"variant": "smar", "settings": {"network": {"vision": {"name": "nonsense"}}}}
    bench = shop.bench("poor", {"broken": broken, "text_only": ROWS["text_only"], "bm25": ROWS["bm25"]}, seconds=0.001)
    with pytest.raises(InputError) as caught:
        measure_missing(bench)
    first, second = str(caught.value).splitlines()[1:3]
    assert first.startswith("row broken: network.vision.name 'nonsense'")
    assert second.startswith("row text_only: 0.001 s do not even pay for reading")
    assert [row["name"] for row in lines(bench)] == ["bm25"]


def test_a_row_that_fails_is_told_after_the_others(shop: Shop) -> None:
    rows = {
        "broken": ROWS["default"] | {"variant": "smar", "settings": {"network": {"vision": {"name": "nonsense"}}}},
        "bm25": ROWS["bm25"],
    }
    bench = shop.bench("failing", rows)
    with pytest.raises(InputError, match=r"1 failed:\nrow broken, seed 0: network.vision.name 'nonsense'"):
        measure_missing(bench)
    assert [row["name"] for row in lines(bench)] == ["bm25"]


def test_a_sweep_goes_on_and_draws_what_there_is(shop: Shop) -> None:
    grid = {"alpha": [0.3], "beta": [0.0], "gamma": [0.5, 1.0], "variant": "default"}
    file = shop.file("sweep", **grid)
    drawing = sweep(file, stages=COMPARISON_STAGES, minutes=0)
    assert len((shop.folder / "sweep" / "rows.jsonl").read_text().splitlines()) == 1
    first = drawing.read_text()
    assert first.startswith("<?xml")
    sweep(file, stages=COMPARISON_STAGES, minutes=0)
    rows = [json.loads(line) for line in (shop.folder / "sweep" / "rows.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == ["a0.3-b0-c0.5", "a0.3-b0-c1"]
    assert drawing.read_text() != first


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"variant": "nonsense"}, "network.variant 'nonsense': choose one of"),
        ({"variant": "default", "truth": "all"}, "row x: an oracle reads no pictures"),
        ({"variant": "default", "settings": {"training": {"sed": 1}}}, r"row x: training\.sed: Extra inputs"),
    ],
)
def test_a_row_that_cannot_be_is_refused_before_anything_runs(shop: Shop, row: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure_missing(shop.bench("refused", {"x": {"label": "X"} | row}))
    assert not (shop.folder / "refused").exists()


def test_another_rows_vision_encoder_must_fit(shop: Shop) -> None:
    rows = {"default": ROWS["default"], "x": {"label": "X", "variant": "smar_adapted", "vision": "default"}}
    with pytest.raises(
        InputError, match=r"row x takes the vision encoder of default, whose descriptors is 'alone'; its own"
    ):
        measure_missing(shop.bench("refused", rows))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"tables": {"Core": {"x": {"label": "X"}}}}, "give one of variant, baseline and with_bm25"),
        ({"tables": {"Core": {"x": {"label": "X", "with_bm25": "y"}}}}, "no row is named 'y'"),
        ({"tables": {"A": {"x": ROWS["bm25"]}, "B": {"x": ROWS["bm25"]}}}, "stands in two tables"),
        ({"tables": {"A": {"x": ROWS["bm25"]}}, "minutes": 3}, "minutes: Extra inputs"),
    ],
)
def test_a_wrong_comparison_is_refused(shop: Shop, content: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_bench(shop.file("wrong", **content), COMPARISON_STAGES)


def test_the_command_writes_a_page_of_what_is_not_measured_yet(shop: Shop) -> None:
    file = shop.file("nothing", tables={"Core": ROWS}, pairs=PAIRS)
    result = CliRunner().invoke(app, ["compare", "--settings", str(file), "--page-only"], catch_exceptions=False)
    assert result.output == f"Page: {shop.folder / 'nothing.md'}\n"
    page = (shop.folder / "nothing.md").read_text()
    assert page.count("not measured yet") == len(ROWS) + len(PAIRS) + 1
    assert not (shop.folder / "nothing").exists()


def test_the_command_lists_what_is_missing_and_does_nothing_else(shop: Shop, measured: Bench) -> None:
    """Airflow makes a task of each: `smar compare --only ROW --seeds SEED`."""

    def listed(*options: str) -> list[list[Any]]:
        arguments = ["compare", "--settings", str(shop.file("listed", tables={"Core": ROWS}, seeds=[0, 1])), "--list"]
        return json.loads(CliRunner().invoke(app, [*arguments, *options], catch_exceptions=False).output)

    every = [(name, seed) for name in ROWS for seed in measured.seeds(name)]
    assert sorted(map(tuple, listed())) == sorted(every)
    assert listed("--only", "default", "--seeds", "1") == [["default", 1]]
    assert not (shop.folder / "listed").exists()
    assert missing_rows(measured) == []
    # What was measured for another day is no measurement of this one.
    moved = replace(measured, comparison=measured.comparison.model_copy(update={"date": date(2026, 11, 18)}))
    assert len(missing_rows(moved)) == len(every)
    file = shop.file("listed", tables={"Core": ROWS})
    assert load_bench(file, measured.stages, day=date(2026, 11, 18)).comparison.date == date(2026, 11, 18)


def test_an_unknown_row_is_named(shop: Shop) -> None:
    with pytest.raises(InputError, match="no row is named 'nobody'; there are popularity, bm25"):
        measure_missing(shop.bench("quality", ROWS), only=["nobody"])
