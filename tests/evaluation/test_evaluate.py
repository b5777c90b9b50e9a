"""The stages evaluate and report on published outputs of a tiny shop, models untrained but real."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from smar_model.data.query_text import normalise_query
from smar_model.errors import InputError
from smar_model.evaluation import report
from smar_model.evaluation.evaluate import evaluate, run
from smar_model.evaluation.evaluation_record import ConfidenceOf, PictureConfidence, parse_evaluation
from smar_model.evaluation.evaluation_set import EvaluationSet, build_evaluation_set
from smar_model.evaluation.oracle import VISIBLE, reveal_truth
from smar_model.evaluation.relevance import Relevance
from smar_model.evaluation.report import SHOWN_ITEMS, nested_tables
from smar_model.evaluation.terminal_table import format_table
from smar_model.lake.artifacts import Artifact
from smar_model.lake.checkout import commit
from smar_model.lake.earlier_outputs import EarlierModel, Oracle
from smar_model.lake.stage import run_stage
from smar_model.lake.stage_key import key_parts
from smar_model.retrieval.item_embeddings import load_embeddings
from smar_model.retrieval.ranking import Ranking, rank_scores
from smar_model.retrieval.search import Searcher
from smar_model.settings import Evaluation
from smar_model.stages import REFRESH_STAGES, STAGES
from tests.evaluation.published_run import PublishedRun, publish_run, with_champion
from tests.tiny_shop import DAYS, tiny_events, tiny_items, write_rows

DENSE = {"challenger", "champion", "best_release", "cold_start", "oracle"}


@pytest.fixture(scope="module")
def measured_once(tmp_path_factory: pytest.TempPathFactory) -> PublishedRun:
    """With truth, text-only baseline and champion, evaluated and reported by the real stages."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder / "shop" / "home"))
        lies = [{"item_id": i["item_id"], "shows": "another_item", "of_item": "x"} for i in tiny_items()[:6]]
        write_rows(folder / "shop" / "truth" / "pictures.parquet", "truth_pictures", lies)
        published = publish_run(folder / "shop", with_truth=True)
        text_only = published.publish_model("train-text-only", variant="text_only", seed=1)
        # With other weights than this test's other models: what an oracle is told it must be able to use.
        told = published.publish_model("finetune-oracle", variant="oracle", seed=2)
        oracle = Oracle(
            run="told",
            cutoff="2026-11-12T00:00:00+00:00",
            truth="visible",
            model_digest=told.manifest["content"]["model"],
            model_folder=str(told.folder / "model"),
        )
        anchors = {
            name: EarlierModel(
                version=version,
                run=run,
                cutoff="2026-11-05T00:00:00+00:00",
                model_digest=artifact.manifest["content"]["model"],
                model_folder=str(artifact.folder / "model"),
            )
            for name, version, run, artifact in (
                ("best_release", "2", "best", published.publish_model("finetune-best", seed=3)),
                ("cold_start", None, "cold", published.publish_model("finetune-cold", seed=4)),
            )
        }
        published.run = replace(
            with_champion(published.run, text_only.folder / "model"), oracle=oracle, anchors=anchors
        )
        for stage in ("embed", "index", "evaluate", "gate", "report"):
            run_stage(STAGES[stage], published.run)
    return published


JUDGED_QUERY = tiny_events(DAYS[-1], tiny_items())[0][0]["query"]
GRADES = [(item["item_id"], number % 4) for number, item in enumerate(tiny_items())] + [(tiny_items()[0]["item_id"], 3)]
"""Item → grade; of the first item by two raters, 0 and 3."""


@pytest.fixture(scope="module")
def bare_once(tmp_path_factory: pytest.TempPathFactory) -> PublishedRun:
    """A shop without truth, without text-only baseline and without champion; people judged all items for one of its queries."""
    folder = tmp_path_factory.mktemp("bare")
    grades = [{"query": JUDGED_QUERY, "item_id": item, "grade": grade} for item, grade in GRADES]
    write_rows(folder / "shop" / "judgments.parquet", "judgments", grades)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder / "shop" / "home"))
        published = publish_run(folder / "shop", with_truth=False)
        for stage in ("embed", "index", "evaluate", "gate", "report"):
            run_stage(STAGES[stage], published.run)
    return published


@pytest.fixture
def measured(measured_once: PublishedRun, monkeypatch: pytest.MonkeyPatch) -> PublishedRun:
    monkeypatch.setenv("SMAR_HOME", str(measured_once.root / "home"))
    return measured_once


@pytest.fixture
def bare(bare_once: PublishedRun, monkeypatch: pytest.MonkeyPatch) -> PublishedRun:
    monkeypatch.setenv("SMAR_HOME", str(bare_once.root / "home"))
    return bare_once


def read_evaluation(artifact: Artifact) -> dict:
    return json.loads(artifact.file("evaluation.json").read_text(encoding="utf-8"))


def test_every_model_is_measured_on_the_same_queries(measured: PublishedRun) -> None:
    artifact = measured.run.output("evaluate")
    evaluation = read_evaluation(artifact)
    assert set(evaluation["models"]) == {"popularity", "bm25", "text_only", *DENSE}
    assert evaluation["basis"] == "truth"
    assert evaluation["queries"] == 40
    assert evaluation["segments"]["fashion"] + evaluation["segments"]["not_fashion"] == 40
    table = pq.read_table(artifact.files("query_results")).to_pandas()
    by_model = {model: rows.set_index("query_id") for model, rows in table.groupby("model")}
    assert all(list(rows.index) == list(by_model["bm25"].index) for rows in by_model.values())
    for model, rows in by_model.items():
        mean = evaluation["models"][model]["overall"]["recall_at_50"]["mean"]
        assert mean == pytest.approx(rows["recall_at_50"].mean(), abs=1e-6)
        assert artifact.metrics[f"{model}_overall_recall_at_50"] == mean
        # 24 items: everything that a dense model ranks is within 50, so recall is 1 and each target has a rank.
        if model in {"text_only", *DENSE}:
            assert mean == 1
            assert rows["target_rank"].between(1, 24).all()


def test_a_figure_can_be_recomputed_from_the_table(measured: PublishedRun) -> None:
    """nDCG@10 of BM25 from its top items and the truth, by hand."""
    artifact = measured.run.output("evaluate")
    rows = [r for r in pq.read_table(artifact.files("query_results")).to_pylist() if r["model"] == "bm25"]
    requests = pq.read_table(measured.root / "truth" / "requests" / "dt=2026-11-19").to_pylist()
    named = {r["request_id"]: dict(r["named"])["colour"] for r in requests}
    truth = pq.read_table(measured.root / "truth" / "items.parquet").to_pylist()
    colour = {r["item_id"]: dict(r["attributes"])["colour"] for r in truth}
    for row in rows:
        wanted = named[row["query_id"]]
        gains = [colour[item] == wanted for item in row["top_items"]]
        best = min(10, sum(c == wanted for c in colour.values()))
        dcg = sum(g / np.log2(n + 2) for n, g in enumerate(gains))
        assert row["ndcg_at_10"] == pytest.approx(dcg / sum(1 / np.log2(n + 2) for n in range(best)), abs=1e-9)


def test_differences_are_challenger_minus_each_other_model(measured: PublishedRun) -> None:
    evaluation = read_evaluation(measured.run.output("evaluate"))
    assert set(evaluation["differences"]) == {"popularity", "bm25", "text_only", *DENSE} - {"challenger"}
    # Each anchor answers with its own model.
    scores = {name: evaluation["models"][name]["overall"]["ndcg_at_10"]["mean"] for name in DENSE}
    assert len({scores[name] for name in ("challenger", "best_release", "cold_start")}) == 3
    assert evaluation["rivals"]["champion"]["version"] == "3"
    for other, segments in evaluation["differences"].items():
        value = segments["overall"]["ndcg_at_10"]
        means = [evaluation["models"][m]["overall"]["ndcg_at_10"]["mean"] for m in ("challenger", other)]
        assert value["mean"] == pytest.approx(means[0] - means[1], abs=2e-6)
        assert value["low"] <= value["mean"] <= value["high"]
        assert value["wins"] + value["ties"] + value["losses"] == 40
        assert 0 < value["p"] == value["p_adjusted"] <= 1
        assert segments["fashion"]["ndcg_at_10"]["p_adjusted"] >= segments["fashion"]["ndcg_at_10"]["p"]
        assert set(segments) == set(evaluation["segments"])
    # The champion of this test is the text-only model, so both must get the same figures.
    assert evaluation["models"]["champion"] == evaluation["models"]["text_only"]


def test_another_anchor_is_another_evaluation(measured: PublishedRun) -> None:
    """Who reads which rivals: a refresh embeds under the release that it is of, whatever the anchors are."""
    without = replace(measured.run, anchors={})
    for name, depends in (("evaluate", True), ("gate", True), ("report", True), ("embed", False)):
        parts = [key_parts(STAGES[name], run, {}) for run in (measured.run, without)]
        assert (parts[0] != parts[1]) == depends, name
    refreshing = replace(measured.run, release=measured.run.champion)
    stage = REFRESH_STAGES["embed-release"]
    parts = [key_parts(stage, run, {}) for run in (refreshing, replace(refreshing, anchors={}))]
    assert parts[0] == parts[1] and parts[0]["release"] != key_parts(stage, measured.run, {})["release"]
    mine = measured.run.output("finetune").manifest["content"]["model"]
    own = {"cold_start": replace(measured.run.anchors["cold_start"], model_digest=mine)}
    assert set(replace(measured.run, anchors=own).rivals()) == {"champion"}, "the run's own model"
    twice = dict.fromkeys(("best_release", "cold_start"), measured.run.anchors["best_release"])
    assert set(replace(measured.run, anchors=twice).rivals()) == {"champion", "best_release"}, "a model once"


def test_segments_are_those_of_the_table_and_sum_up(measured: PublishedRun) -> None:
    """Clothing has rich titles in this shop, all else sparse ones; every fifth item has no picture."""
    evaluation = read_evaluation(measured.run.output("evaluate"))
    counts, models = evaluation["segments"], evaluation["models"]
    assert counts["title_rich"] == counts["fashion"] == counts["department: Clothing"] > 0
    assert counts["title_sparse"] == counts["not_fashion"]
    assert counts["query_head"] == counts["overall"] == 40
    assert counts["title_foreign"] == 0
    assert models["bm25"]["title_foreign"]["mrr"]["mean"] is None
    assert 0 < counts["no_picture"] == 40 - counts["informative_picture"]
    assert evaluation["segment_clusters"]["overall"] == evaluation["clusters"]
    for metric, value in models["challenger"]["overall"].items():
        parts = [models["challenger"][s][metric]["mean"] * counts[s] for s in ("no_picture", "informative_picture")]
        assert value["mean"] == pytest.approx(sum(parts) / 40, abs=1e-5)


def test_the_oracle_is_told_todays_truth_and_its_age_is_shown(measured: PublishedRun) -> None:
    evaluation = read_evaluation(measured.run.output("evaluate"))
    assert evaluation["oracle"] == {
        **{"run": "told", "truth": "visible", "cutoff": "2026-11-12T00:00:00+00:00"},
        "age_days": 7,
    }
    recall = {name: evaluation["models"][name]["overall"]["recall_at_50"]["mean"] for name in ("oracle", "text_only")}
    # All of 24 items are within 50: the oracle gains nothing, so there is no share.
    assert recall["oracle"] == recall["text_only"] == 1
    assert evaluation["recovered"]["overall"]["mean"] is None
    page = measured.run.output("report").file("report.html").read_text(encoding="utf-8")
    assert "7 days before" in page
    assert not list(measured.run.output("evaluate").folder.glob(".oracle*")), "truth is not published"
    # Its titles do not say the colours that the queries name.
    plain = measured.run.output("prepare-items").files("catalogue")
    file = measured.root / "told.parquet"
    revealed = reveal_truth(plain, measured.root / "truth" / "items.parquet", VISIBLE, file)
    assert revealed == {"items": 24, "attributes_revealed": 0}, "this shop's sellers tell the colour"
    colours = [dict(row["attributes"])["colour"] for row in pq.read_table(file).to_pylist()]
    assert set(colours) == {"red", "blue", "green", "black", "white", "yellow"}


def test_gate_and_embeddings_are_looked_at(measured: PublishedRun) -> None:
    evaluation = read_evaluation(measured.run.output("evaluate"))
    figures = evaluation["routing"]["populations"]["all"]
    assert sum(row["queries"] for row in evaluation["routing"]["reliability"]["after"]) == figures["queries"] == 40
    assert set(figures["against"]) == {"Books", "Groceries"}
    # Titles tell the departments apart, and so do the words of a query; the model is untrained.
    assert figures["bag_of_words_auc"] == 1 > figures["auc"] >= 0
    assert measured.run.output("evaluate").metrics["gate_auc"] == figures["auc"]
    assert 1 <= evaluation["embeddings"]["multimodal"]["effective_rank"] <= 16
    # Alignment and gap from the embeddings as they are served.
    encoder = Searcher.load(
        measured.run.output("finetune").folder / "model", measured.run.output("index").folder
    ).encoder
    embeddings = load_embeddings(measured.run.output("embed").folder)
    requests = pq.read_table(measured.root / "truth" / "requests" / "dt=2026-11-19").to_pylist()
    texts = [normalise_query(r["query"]) for r in requests]
    wanted = embeddings.text[[embeddings.item_ids.index(r["item_id"]) for r in requests]]
    squared = ((encoder.encode(texts)[0][:, :16] - wanted) ** 2).sum(axis=1).mean()
    assert evaluation["embeddings"]["text"]["alignment"] == pytest.approx(squared, abs=1e-5)
    between = encoder.encode(sorted(set(texts)))[0][:, :16].mean(axis=0) - embeddings.text.mean(axis=0)
    assert evaluation["modality_gaps"]["queries to text"] == pytest.approx(np.linalg.norm(between), abs=1e-5)
    hubs = evaluation["hubness"]["popularity"]["worst"]
    assert hubs[0]["found"] == evaluation["distinct_queries"], "the same list for every query"
    assert all(hub["fits"] < hub["found"] for hub in hubs)


def test_how_much_pictures_count_is_told_of_those_that_lie_and_the_others(
    measured: PublishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = parse_evaluation(read_evaluation(measured.run.output("evaluate")))
    assert evaluation.picture_confidence is None, "this model has none"
    assert evaluation.segments["wrong_picture"] > 0 < evaluation.segments["right_picture"]
    page = measured.run.output("report").file("report.html").read_text(encoding="utf-8")
    assert "a picture of something else" in page and "How much an item's picture counts" not in page
    items = {
        kind: ConfidenceOf(items=number, mean=number / 100, low=0.01, high=0.99)
        for kind, number in (("all", 19), ("right", 15), ("another_item", 4))
    }
    told = replace(evaluation, picture_confidence=PictureConfidence(items=items, right_above_wrong=0.625))
    monkeypatch.setattr(report, "read_evaluation", lambda file: told)
    report.run(measured.context("report", tmp_path))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    table = page[page.index("How much an item's picture counts, c(s)") :]
    assert "… of another item</th><td>4</td><td>0.040</td><td>0.010</td><td>0.990</td>" in table
    assert "62.5 % of the time" in table
    assert "… of nothing" not in table


def test_a_model_that_does_not_route_is_reported_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))
    published = publish_run(tmp_path / "shop", with_truth=True, variant="text_only")
    for stage in ("embed", "index", "evaluate", "gate", "report"):
        run_stage(STAGES[stage], published.run)
    assert read_evaluation(published.run.output("evaluate"))["routing"] is None
    assert "does not route" in published.run.output("report").file("report.html").read_text(encoding="utf-8")


def test_what_is_missing_is_said(bare: PublishedRun) -> None:
    evaluation = read_evaluation(bare.run.output("evaluate"))
    assert set(evaluation["models"]) == {"popularity", "bm25", "challenger"}
    assert "wrong_picture" not in evaluation["segments"], "nobody knows which pictures lie"
    assert "no truth" in evaluation["not_measured"]["oracle"]
    assert "train-text-only" in evaluation["not_measured"]["text_only"]
    assert evaluation["basis"] == "clicks"
    assert evaluation["shown"]["beside"] == "bm25"
    page = bare.run.output("report").file("report.html").read_text(encoding="utf-8")
    assert "text-only: not measured" in page
    table = format_table(parse_evaluation(evaluation))
    assert "text-only: not measured, as train-text-only" in table
    assert "clicked" in table
    assert max(map(len, table.splitlines())) <= 100


def test_the_terminal_table_is_aligned_and_narrow(measured: PublishedRun) -> None:
    evaluation = read_evaluation(measured.run.output("evaluate"))
    evaluation["segments"] = dict.fromkeys(evaluation["segments"], 10_000)
    lines = format_table(parse_evaluation(evaluation)).splitlines()
    assert len({len(line) for line in lines[:10]}) == 1
    assert len(lines[0]) <= 100
    assert [line.split("│")[0].strip() for line in lines[3:10]] == [
        "popularity",
        "BM25",
        "text-only",
        "champion before",
        "best of 28 days",
        "cold start",
        "this run's SMAR",
    ]
    recall = evaluation["models"]["bm25"]["overall"]["recall_at_50"]["mean"]
    assert lines[4].split("│")[1].split()[0] == f"{100 * recall:.1f}"
    assert "wanted item" in format_table(parse_evaluation(evaluation))


def test_an_empty_segment_has_no_figure_and_breaks_nothing(measured: PublishedRun) -> None:
    evaluation = read_evaluation(measured.run.output("evaluate"))
    for segments in [*evaluation["models"].values(), *evaluation["differences"].values()]:
        for value in segments["not_fashion"].values():
            value |= {"mean": None, "low": None, "high": None}
    evaluation["segments"]["not_fashion"] = 0
    assert "–" in format_table(parse_evaluation(evaluation))


class PageParser(HTMLParser):
    """Collects what a browser would fetch, and checks that the references inside the page resolve."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"href", "src", "xlink:href"}:
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.parametrize("kind", ["measured", "bare"])
def test_the_report_is_one_file_that_fetches_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    published: PublishedRun = request.getfixturevalue(kind)
    page = published.run.output("report").file("report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|//[a-z]+\.|@import|<script|<link", re.sub(r"base64,[\w+/=]+", "", page))
    parser = PageParser()
    parser.feed(page)
    assert len(parser.ids) == len(set(parser.ids))
    inner = [r[1:] for r in parser.references if r.startswith("#")]
    assert all(r.startswith(("#", "data:image/jpeg;base64,")) for r in parser.references)
    assert inner
    assert set(inner) <= set(parser.ids)


def test_the_report_tells_the_decision_with_its_reasons(measured: PublishedRun) -> None:
    decision = json.loads(measured.run.output("gate").file("decision.json").read_text(encoding="utf-8"))
    parser = PageParser()
    parser.feed(measured.run.output("report").file("report.html").read_text(encoding="utf-8"))
    text = " ".join(" ".join(parser.text).split())
    assert decision["promote"] is False
    assert "Decision: keep the champion" in text
    assert "Compared with version 3" in text
    assert "best release of the last 28 days is version 2" in text
    assert "newest cold start is of run cold, trained up to 2026-11-05" in text
    for reason in decision["reasons"]:
        assert " ".join(reason["text"].split()) in text
        mark = "✗ broken" if not reason["passed"] else "✓ passed" if reason["judged"] else "– not judged"
        assert f"{reason['rule'].replace('_', ' ')} {mark}" in text
    assert "minimum queries ✗ broken 40 at least 100 40 queries judged" in text, "observed, allowed, in words"
    assert text.index("✗ broken") < text.index("✓ passed"), "what decides comes first"
    judged = [reason["passed"] for reason in decision["reasons"] if reason["judged"]]
    others = len(decision["reasons"]) - len(judged)
    assert others and f"{sum(judged)} of {len(judged)} rules passed; {others} not judged" in text


def test_the_report_names_data_settings_and_code(measured: PublishedRun) -> None:
    page = measured.run.output("report").file("report.html").read_text(encoding="utf-8")
    assert measured.run.output("prepare-items").digest[:12] in page
    assert measured.run.output("extract-clicks").digest[:12] in page, "read by evaluate, not by the report itself"
    assert "network.text.width" in page
    assert commit() in page
    for words in ("sparse titles", "substring", "skewness", "recall at 100", "effective rank", "MAP@100"):
        assert words in page


def test_whatever_an_index_says_of_itself_becomes_tables() -> None:
    recall = {"overall": 0.99, "buckets": [{"from": 0, "recall": 0.98}, {"from": 0.5, "recall": 1.0, "queries": 7}]}
    assert nested_tables("index", {"factory": "Flat", "recall": recall, "shares": [0.1, 0.9], "nothing": []}) == {
        "index": (["", "value"], [["factory", "Flat"]]),
        "index: recall": (["", "value"], [["overall", 0.99]]),
        "index: recall: buckets": (["from", "recall", "queries"], [[0, 0.98, None], [0.5, 1.0, 7]]),
        "index: shares": (["", "value"], [[1, 0.1], [2, 0.9]]),
    }


def test_the_report_shows_queries_pictures_and_checks(measured: PublishedRun) -> None:
    evaluation = read_evaluation(measured.run.output("evaluate"))
    artifact = measured.run.output("report")
    page = artifact.file("report.html").read_text(encoding="utf-8")
    assert evaluation["shown"]["queries"]
    assert all(f"“{query['query']}”" in page for query in evaluation["shown"]["queries"])
    assert page.count("★ wanted") > 1
    assert "no picture" in page
    assert "brand &lt;b&gt;" in page, "what the data say must not become markup"
    assert "2 of 3 passed" in page
    assert "pretrain: no step of training" in page
    # Six colours: items that share a picture share its bytes.
    assert 1 <= page.count("data:image/jpeg;base64,") <= 6
    assert artifact.metrics["bytes"] < 3_000_000


def test_the_report_opens_with_the_incumbent_where_the_log_has_lists(
    measured: PublishedRun, bare: PublishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    for published, judge in ((measured, "true attributes say"), (bare, "people judged")):
        monkeypatch.setenv("SMAR_HOME", str(published.root / "home"))
        evaluation = read_evaluation(published.run.output("evaluate"))
        within = evaluation["incumbent"]["within_list"]
        assert within["requests"] == 40
        assert {"incumbent", "challenger", "bm25", "popularity"} <= set(within["models"])
        # Every shopper clicked the item that she wanted, which stood first.
        assert within["models"]["incumbent"]["mean"] == 1 > within["models"]["challenger"]["mean"]
        page = published.run.output("report").file("report.html").read_text(encoding="utf-8")
        opening = page[page.index('<section id="incumbent">') : page.index('<section id="finds">')]
        assert "points over the incumbent" in page[: page.index('<section id="incumbent">')]
        assert re.search(
            r"<p><b>(This run's|This run&#39;s|Of this run&#39;s) model .* in \d of \d measures \(", opening
        )
        assert re.search(r"Of [\d,]+ lists read, ", opening) and "lists read 1" not in opening
        assert judge in opening and "Order within the shown list" in opening
        queries = evaluation["incumbent"]["shown"]
        assert all(f"“{query['query']}”" in opening for query in queries)
        assert "the log's engine" in format_table(parse_evaluation(evaluation))
    assert evaluation["incumbent"]["graded"]["queries"] == 1
    assert queries and queries[0]["reason"].startswith("order within the shown list: the incumbent is better")


def test_the_report_says_the_grade_that_people_gave(bare: PublishedRun) -> None:
    shown = {query["query"]: query for query in read_evaluation(bare.run.output("evaluate"))["shown"]["queries"]}
    judged = shown.pop(JUDGED_QUERY.lower())
    expected = dict(GRADES) | {GRADES[0][0]: 1.5}
    for answers in judged["answers"].values():
        assert {answer["item_id"]: answer["people"] for answer in answers}.items() <= expected.items()
    assert {answer["people"] for q in shown.values() for found in q["answers"].values() for answer in found} == {None}
    page = bare.run.output("report").file("report.html").read_text(encoding="utf-8")
    article = page[page.index(f"“{JUDGED_QUERY.lower()}”") :].split("</article>")[0]
    words = {3: "3 exact", 2: "2 substitute", 1: "1 complement", 0: "0 irrelevant", 1.5: "1.5 of 3"}
    for answers in judged["answers"].values():
        for answer in answers[:SHOWN_ITEMS]:
            assert words[answer["people"]] in article
    assert "✓ match" not in article


def test_the_same_inputs_give_the_same_evaluation(measured: PublishedRun, tmp_path: Path) -> None:
    run(measured.context("evaluate", tmp_path))
    again = (tmp_path / "evaluation.json").read_text(encoding="utf-8")
    assert again == measured.run.output("evaluate").file("evaluation.json").read_text(encoding="utf-8")


class Fixed:
    """Ranks by given scores, whatever is asked."""

    def __init__(self, item_ids: list[str], scores: np.ndarray) -> None:
        self.item_ids, self.scores = item_ids, scores

    def rank(self, queries: list[str], depth: int) -> Ranking:
        return rank_scores(np.tile(self.scores, (len(queries), 1)), depth)

    def score_rows(self, queries: list[str], rows: np.ndarray) -> np.ndarray:
        return np.where(rows < 0, -np.inf, self.scores[rows])


def constructed(queries: int = 300) -> EvaluationSet:
    targets = np.arange(queries) % 150
    found = Relevance.from_targets(targets, items=150)
    texts = np.array([f"query {n}" for n in range(queries)], dtype=object)
    return EvaluationSet(
        basis="truth",
        query_ids=texts,
        queries=texts,
        clusters=targets,
        is_visual=targets % 2 == 0,
        departments=np.where(targets % 2 == 0, "Clothing", "Books").astype(object),
        targets=targets,
        found=found,
        graded=found,
        counts={},
    )


def test_figures_and_differences_of_constructed_rankers() -> None:
    """Items in order: the first 50 targets are found at 50, 100 at 100. Backwards: exactly the other ones."""
    ids = [f"{n:03}" for n in range(150)]
    forwards, backwards = Fixed(ids, -np.arange(150.0)), Fixed(ids, np.arange(150.0))
    evaluation, _ = evaluate(
        rankers={"challenger": lambda: forwards, "bm25": lambda: backwards, "text_only": lambda: forwards},
        queries=constructed(),
        item_ids=ids,
        settings=Evaluation(bootstrap_samples=200, shown_queries=4),
    )
    overall = evaluation.models["challenger"]["overall"]
    assert overall["recall_at_50"].mean == pytest.approx(1 / 3)
    assert overall["recall_at_100"].mean == pytest.approx(2 / 3)
    assert overall["recall_at_50"].low < 1 / 3 < overall["recall_at_50"].high
    against = evaluation.differences["bm25"]["overall"]["recall_at_50"]
    assert (against.mean, against.wins, against.ties, against.losses) == (0, 100, 100, 100)
    same = evaluation.differences["text_only"]["fashion"]["recall_at_50"]
    assert (same.low, same.high, same.ties) == (0, 0, 150)


def test_a_ranker_of_another_catalogue_is_refused() -> None:
    other = Fixed(["x", "y"], np.zeros(2))
    with pytest.raises(InputError, match="challenger: made for 2 items"):
        evaluate(
            rankers={"challenger": lambda: other},
            queries=constructed(),
            item_ids=[f"{n:03}" for n in range(150)],
            settings=Evaluation(),
        )


def test_a_run_without_held_out_events_ends_with_a_message(bare: PublishedRun, tmp_path: Path) -> None:
    context = bare.context("evaluate", tmp_path)
    with pytest.raises(InputError, match=r"nothing to evaluate from 2026-11-19 to 2026-11-19"):
        build_evaluation_set(
            shop=context.shop,
            days=context.run.evaluation_days,
            clicks=pd.DataFrame(columns=["day", "query", "item_id", "clicks", "orders"]),
            catalogue=pd.DataFrame({"item_id": ["a"], "department": ["Books"]}),
            visual_departments=["Clothing"],
            maximum_queries=10,
            seed=0,
        )
