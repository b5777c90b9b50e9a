"""Whether P(q) is right and whether routing helps: figures that can be counted by hand or by another library."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from smar_model.evaluation.bag_of_words import BagOfWords
from smar_model.evaluation.evaluation_record import PicturesHelped, Routing
from smar_model.evaluation.evaluation_set import EvaluationSet
from smar_model.evaluation.relevance import Relevance
from smar_model.evaluation.routing_quality import (
    Answers,
    calibration_error,
    flat_figures,
    pictures_helped,
    rank_by_shares,
    reliability,
    routing_quality,
)
from smar_model.evaluation.significance import ClusterBootstrap
from smar_model.retrieval.item_embeddings import ItemEmbeddings

DEPARTMENTS = ["Clothing", "Clothing", "Shoes", "Grocery", "Personal Care"]
QUERIES = 400


def naive_calibration_error(probability: np.ndarray, is_visual: np.ndarray, bins: int) -> float:
    order = np.argsort(probability)
    parts = np.array_split(order, bins)
    return sum(len(p) * abs(probability[p].mean() - is_visual[p].mean()) for p in parts) / len(order)


def test_calibration_error_equals_its_naive_form() -> None:
    random = np.random.default_rng(0)
    probability = random.beta(0.4, 0.4, 3_000)
    is_visual = random.random(3_000) < probability**2
    found = calibration_error(probability, is_visual)
    assert found == pytest.approx(naive_calibration_error(probability, is_visual, 15), abs=1e-12)
    assert found == pytest.approx(np.mean(probability - probability**2), abs=0.02)
    shuffled = random.permutation(3_000)
    assert calibration_error(probability[shuffled], is_visual[shuffled]) == pytest.approx(found, abs=1e-12)


def test_equal_probabilities_share_a_bin_and_honest_ones_have_no_error() -> None:
    random = np.random.default_rng(1)
    probability = np.repeat([0.25, 0.75], 400)
    is_visual = np.tile([True, False, False, False, True, True, True, False], 100)
    is_visual = np.concatenate([np.tile([1, 0, 0, 0], 100), np.tile([1, 1, 1, 0], 100)]).astype(bool)
    mixed = random.permutation(800)
    assert calibration_error(probability[mixed], is_visual[mixed]) == pytest.approx(0, abs=1e-12)
    assert calibration_error(np.ones(800), is_visual) == pytest.approx(0.5)
    assert calibration_error(np.array([0.3]), np.array([True])) == pytest.approx(0.7)
    assert calibration_error(np.zeros(0), np.zeros(0, dtype=bool)) is None


def test_the_reliability_curve_counts_every_query() -> None:
    probability = np.array([0.0, 0.05, 0.55, 0.58, 1.0])
    rows = reliability(probability, np.array([False, True, True, False, True]))
    assert [(r.low, r.queries, r.visual_share) for r in rows] == [(0.0, 2, 0.5), (0.5, 2, 0.5), (0.9, 1, 1.0)]
    assert rows[0].mean_probability == pytest.approx(0.025)


def test_shares_mix_text_and_multimodal_scores() -> None:
    random = np.random.default_rng(2)
    text, multimodal, asked = (random.normal(size=(n, 8)).astype(np.float32) for n in (150, 150, 300))
    items = ItemEmbeddings(item_ids=[f"{n:03}" for n in range(150)], text=text, multimodal=multimodal)
    share = random.random(300).astype(np.float32)
    found = rank_by_shares(
        asked, items, {"text": np.zeros_like(share), "multimodal": np.ones_like(share), "soft": share}
    )
    mixed = (1 - share[:, None]) * (asked @ text.T) + share[:, None] * (asked @ multimodal.T)
    for way, scores in (("text", asked @ text.T), ("multimodal", asked @ multimodal.T), ("soft", mixed)):
        assert np.mean(found[way].rows == np.argsort(-scores, axis=1)[:, :100]) > 0.999


def make_queries() -> EvaluationSet:
    numbers = np.arange(QUERIES)
    texts = np.array([f"query {n // 2}" for n in numbers], dtype=object)
    departments = np.array(DEPARTMENTS, dtype=object)[numbers % len(DEPARTMENTS)]
    found = Relevance.from_targets(numbers % 150, items=150)
    return EvaluationSet(
        basis="truth", query_ids=numbers, queries=texts, clusters=numbers % 150, targets=numbers % 150, counts={},
        is_visual=np.isin(departments, ["Clothing", "Shoes"]), departments=departments, found=found, graded=found,
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured() -> tuple[EvaluationSet, Answers, Routing]:
    queries, random = make_queries(), np.random.default_rng(3)
    logits = random.normal(size=QUERIES) + 2 * queries.is_visual
    probability = 1 / (1 + np.exp(-logits))
    ranks = {way: 1 / random.integers(1, 20, QUERIES) for way in ("text", "multimodal", "soft")}
    ranks["hard"] = np.where(probability >= 0.5, ranks["multimodal"], ranks["text"])
    answers = Answers(
        routing="hard",
        temperature=1.5,
        probability=probability,
        uncalibrated=probability**3,
        reciprocal_ranks=ranks,
    )
    figures = routing_quality(
        answers,
        queries,
        bag=None,
        trained={f"query {n}" for n in range(50)},
        clicks=pd.Series({f"query {n}": 5 if n % 3 else 4 for n in range(QUERIES)}),
        bootstrap=ClusterBootstrap(queries.clusters, samples=50, seed=0),
    )
    return queries, answers, figures


def test_each_department_is_told_from_the_visual_ones_separately(
    measured: tuple[EvaluationSet, Answers, Routing],
) -> None:
    queries, answers, figures = measured
    novel = np.arange(QUERIES) >= 100
    for population, inside in (("all", np.ones(QUERIES, dtype=bool)), ("novel", novel)):
        against = figures.populations[population].against
        assert list(against) == ["Grocery", "Personal Care"]
        for department, row in against.items():
            among = inside & (queries.is_visual | (queries.departments == department))
            expected = roc_auc_score(queries.is_visual[among], answers.probability[among])
            assert row.auc == pytest.approx(expected, abs=1e-12)
            assert row.others == (inside & (queries.departments == department)).sum()
    assert figures.populations["novel"].queries == 300
    flat = flat_figures(figures)
    assert flat["gate_auc_against_personal_care"] == figures.populations["all"].against["Personal Care"].auc
    for suffix, probability in (("", answers.probability), ("_before", answers.uncalibrated)):
        assert flat[f"gate_calibration_error{suffix}"] == calibration_error(probability, queries.is_visual)


def test_shares_of_requests_add_up_and_are_right(measured: tuple[EvaluationSet, Answers, Routing]) -> None:
    queries, answers, figures = measured
    ranks = answers.reciprocal_ranks
    segments = figures.populations["all"].segments
    assert list(segments)[:3] == ["overall", "fashion", "not_fashion"]
    parts = [segments[f"department: {name}"].queries for name in dict.fromkeys(DEPARTMENTS)]
    assert sum(parts) == segments["overall"].queries == QUERIES
    for segment in segments.values():
        for row in segment.comparisons.values():
            assert row.helped + row.same + row.hurt == pytest.approx(1)
        by_query = segment.by_query
        assert by_query.helped + by_query.hurt + by_query.unknown == pytest.approx(1)
    row = segments["fashion"].comparisons["hard_over_text"]
    better = (ranks["hard"] > ranks["text"])[queries.is_visual]
    assert row.helped == pytest.approx(better.mean())
    assert row.mean == pytest.approx((ranks["hard"] - ranks["text"])[queries.is_visual].mean())
    sent_to_text = answers.probability < 0.5
    assert row.same >= sent_to_text[queries.is_visual].mean()


def test_what_pictures_did_is_unknown_under_five_clicks_or_the_margin() -> None:
    queries = np.array(["up", "up", "down", "rare", "tiny", "evens out", "evens out", "unclicked"], dtype=object)
    difference = np.array([0.5, -0.1, -0.3, 0.9, 0.009, 0.4, -0.4, 1.0])
    clicks = pd.Series({"up": 5, "down": 7, "rare": 4, "tiny": 50, "evens out": 50})
    found = pictures_helped(queries, difference, clicks)
    assert found == PicturesHelped(queries=6, helped=1 / 6, hurt=1 / 6, unknown=4 / 6)
    nobody = pictures_helped(queries[:0], difference[:0], clicks)
    assert nobody == PicturesHelped(queries=0, helped=None, hurt=None, unknown=None)


def test_a_bag_of_words_learns_from_labels_in_any_order() -> None:
    things = {True: ["shirt", "dress", "shoes"], False: ["rice", "soap", "lemons"]}
    labelled = [(f"{c} {t}", v) for v, names in things.items() for t in names for c in ("red", "big", "new", "cheap")]
    bag = BagOfWords.learn([q for q, _ in labelled], np.array([v for _, v in labelled]), seed=0)
    again = BagOfWords.learn([q for q, _ in labelled[::-1]], np.array([v for _, v in labelled[::-1]]), seed=0)
    assert bag and again
    asked = ["old shirts", "lemon soap", "nothing known"]
    assert bag.probability(asked).tolist() == again.probability(asked).tolist()
    assert bag.probability(asked)[0] > 0.5 > bag.probability(asked)[1]
    assert bag.labels == 24
    assert "words" in bag.setting
    assert BagOfWords.learn(["a", "b", "c", "d"], np.array([True, True, True, False]), seed=0) is None
