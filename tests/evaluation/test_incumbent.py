"""The incumbent beside models: what is read of the log's lists, and the two measures against their definitions."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smar_model.evaluation.evaluate import evaluate
from smar_model.evaluation.evaluation_record import Incumbent, parse_evaluation
from smar_model.evaluation.evaluation_set import EvaluationSet
from smar_model.evaluation.incumbent import MAXIMUM_WEIGHT, ClickedLists, discounted, order_within_lists
from smar_model.evaluation.relevance import Relevance
from smar_model.evaluation.shown_lists import ShownLists, read_shown_lists
from smar_model.retrieval.ranking import NO_ROW, Ranking, rank_scores
from smar_model.settings import Evaluation
from tests.tiny_shop import write_rows

IDS = [f"{n:02}" for n in range(30)]


class Fixed:
    """Ranks by given scores, whatever is asked."""

    def __init__(self, scores: np.ndarray) -> None:
        self.item_ids, self.scores = IDS, scores

    def rank(self, queries: list[str], depth: int) -> Ranking:
        return rank_scores(np.tile(self.scores, (len(queries), 1)), depth)

    def score_rows(self, queries: list[str], rows: np.ndarray) -> np.ndarray:
        return np.where(rows == NO_ROW, -np.inf, self.scores[rows])


FORWARDS, BACKWARDS = Fixed(-np.arange(30.0)), Fixed(np.arange(30.0))


def list_row(request: str, items: list[str], clicks: list[int], **changes: Any) -> dict[str, Any]:
    nothing = [""] * len(items)
    row = {"day": date(2026, 11, 19), "request_id": request, "query": f"query {request}", "items": items}
    row |= {"positions": list(range(1, len(items) + 1)), "clicks": clicks, "orders": [0] * len(items)}
    return row | {"versions": nothing, "teams": nothing} | changes


def read(folder: Path, *rows: dict[str, Any]) -> ShownLists | None:
    file = folder / "shown_lists" / "part-0.parquet"
    write_rows(file, "shown_lists", list(rows))
    return read_shown_lists([file], IDS)


def test_lists_of_one_engine_are_read_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    lists = read(
        tmp_path,
        list_row("b", ["03", "gone", "01"], [0, 0, 2], versions=["4"] * 3, positions=[1, 2, 5]),
        list_row("a", ["07", "08"], [1, 0]),
        list_row("mixed", ["01", "02"], [1, 0], teams=["champion", "challenger"]),
        list_row("single", ["01"], [1]),
    )
    assert lists is not None
    assert lists.request_ids.tolist() == ["a", "b"]
    assert lists.rows.tolist() == [[7, 8, NO_ROW], [3, NO_ROW, 1]]
    assert lists.positions.tolist() == [[1, 2, 0], [1, 2, 5]]
    assert lists.clicked.tolist() == [[True, False, False], [False, False, True]]
    assert lists.versions == {"4": 1}
    assert lists.counts == {
        "lists_read": 4,
        "lists_interleaved": 1,
        "lists_of_one_place": 1,
        "places_beyond_the_depth_read": 0,
        "places_with_items_not_in_catalogue": 1,
    }


@pytest.mark.parametrize("rows", [[], [list_row("single", ["01"], [1])]])
def test_a_log_without_lists_has_no_incumbent(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    assert read(tmp_path, *rows) is None
    assert read_shown_lists([], IDS) is None


def test_a_request_is_worth_its_weighted_clicks_by_the_rank_that_a_ranker_gives_them(tmp_path: Path) -> None:
    """Computed by hand: θ = 1, 1/2, 1/20, the last one's weight cut to 10."""
    lists = read(tmp_path, list_row("a", ["05", "02", "09"], [0, 1, 1]), list_row("b", ["05", "gone"], [1, 0]))
    assert lists is not None
    clicked = ClickedLists.of(lists, np.array([1, 0.5, 0.05]), maximum=10, seed=0)
    assert clicked is not None
    assert clicked.weights.tolist() == [[0, 2, MAXIMUM_WEIGHT]]
    assert (clicked.clipped, clicked.left_out["lists_without_a_click_to_judge_by"]) == (1, 1)
    assert clicked.gains_as_shown() == pytest.approx([2 / np.log2(3) + 10 / np.log2(4)])
    assert clicked.gains(FORWARDS) == pytest.approx([2 / np.log2(2) + 10 / np.log2(4)])
    assert clicked.gains(BACKWARDS) == pytest.approx([10 / np.log2(2) + 2 / np.log2(4)])


def test_ties_are_settled_by_id_and_places_without_an_item_come_last() -> None:
    rows, weights = np.array([[9, NO_ROW, 2, 5]]), np.array([[1.0, 0, 0, 0]])
    assert discounted(np.zeros(rows.shape), rows, weights) == pytest.approx([1 / np.log2(4)])
    nothing = np.where(rows == NO_ROW, -np.inf, np.where(rows == 9, -np.inf, 1.0))
    assert discounted(nothing, rows, weights) == pytest.approx([1 / np.log2(4)]), "no result, but before no item"


def many_lists(queries: int = 200, *, better: int = 0) -> ShownLists:
    """Each query once, two items in the order of their ids or the reverse; `better` queries more are clicked at the lower id."""
    rows = np.stack([np.arange(queries) % 2, 1 - np.arange(queries) % 2], axis=1).astype(np.int32)
    wanted = np.arange(queries) % 4 < 2
    wanted[np.flatnonzero(~wanted)[:better]] = True
    return ShownLists(
        request_ids=np.arange(queries).astype(str).astype(object),
        queries=np.array([f"query {n}" for n in range(queries)], dtype=object),
        rows=rows,
        positions=np.tile(np.array([1, 2], dtype=np.int32), (queries, 1)),
        clicked=rows == np.where(wanted, 0, 1)[:, None],
        versions={},
        counts={},
    )


def judged(lists: ShownLists, *, theta: float = 0.5) -> Any:
    clicked = ClickedLists.of(lists, np.array([1, theta]), maximum=1_000, seed=0)
    assert clicked is not None
    gains = {"better": clicked.gains(FORWARDS), "same": clicked.gains_as_shown()}
    return clicked, gains, order_within_lists(clicked, gains, samples=200, permutations=500, seed=0)


def test_differences_are_self_normalised_paired_and_tested_over_queries() -> None:
    clicked, gains, found = judged(many_lists(better=60))
    shown, weights = clicked.gains_as_shown(), clicked.weights
    assert found.models["incumbent"].mean == pytest.approx(shown.sum() / weights.sum())
    better = found.differences["better"]
    assert better.mean == pytest.approx((gains["better"] - shown).sum() / weights.sum())
    assert better.low < better.mean < better.high and better.low > 0 and better.p <= 0.01
    assert better.standard_error == pytest.approx((better.high - better.low) / 3.92, rel=0.2)
    assert found.effective_clicks == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert (found.requests, found.clusters, found.clicks) == (200, 200, 200)
    same = found.differences["same"]
    assert (same.mean, same.p, same.wins, same.ties, same.losses) == (0, 1, 0, 200, 0)


def test_a_log_with_the_same_clicks_for_both_orders_calls_nobody_better() -> None:
    assert judged(many_lists(), theta=1)[2].differences["better"].p > 0.05


def test_as_many_clicks_at_a_place_that_few_look_at_call_it_better() -> None:
    found = judged(many_lists())[2].differences["better"]
    assert found.mean > 0 and found.p <= 0.01, "half of the clicks are at place 2, at which half as many look"


def test_of_too_many_lists_the_setting_draws_some() -> None:
    clicked = ClickedLists.of(many_lists(), np.ones(2), maximum=50, seed=1)
    assert clicked is not None and len(clicked.rows) == 50
    assert clicked.left_out["lists_beyond_evaluation.maximum_queries"] == 150


def evaluation_set(lists: ShownLists, *, basis: Any) -> EvaluationSet:
    """Row 0 fits every query."""
    texts = lists.queries
    found = Relevance.from_targets(np.zeros(len(texts), dtype=np.int64), items=30)
    return EvaluationSet(
        basis=basis,
        query_ids=lists.request_ids if basis == "truth" else texts,
        queries=texts,
        clusters=texts,
        is_visual=np.ones(len(texts), dtype=bool),
        departments=np.full(len(texts), "Clothing", dtype=object),
        targets=np.zeros(len(texts), dtype=np.int64),
        found=found,
        graded=found,
        counts={},
    )


def incumbent_of(queries: EvaluationSet, lists: ShownLists | None) -> Incumbent | None:
    record, _ = evaluate(
        rankers={"challenger": lambda: BACKWARDS, "bm25": lambda: FORWARDS},
        queries=queries,
        item_ids=IDS,
        settings=Evaluation(bootstrap_samples=50, shown_queries=2),
        lists=lists,
        propensities=np.array([1, 0.5]),
    )
    return record.incumbent


def test_by_truth_each_request_is_judged_by_its_own_list() -> None:
    lists = many_lists()
    incumbent = incumbent_of(evaluation_set(lists, basis="truth"), lists)
    assert incumbent is not None and incumbent.graded is not None and incumbent.within_list is not None
    graded = incumbent.graded
    assert (graded.judged_by, graded.requests, graded.queries, graded.shorter) == ("truth", 200, 200, 200)
    # The one relevant item stands first in half of the lists, second in the others.
    assert graded.models["incumbent"]["ndcg_at_10"].mean == pytest.approx((1 + 1 / np.log2(3)) / 2)
    assert graded.differences["bm25"]["ndcg_at_10"].wins == 100
    assert graded.differences["challenger"]["ndcg_at_10"].losses == 200
    assert set(incumbent.within_list.models) == {"incumbent", "challenger", "bm25"}
    shown = incumbent.shown[0]
    assert [answer.item_id for answer in shown.answers["incumbent"]] == ["00", "01"]
    assert shown.answers["challenger"][0].item_id == "29"


def test_a_query_is_worth_the_mean_over_its_requests_where_people_judged_it() -> None:
    lists = many_lists(4)
    repeated = replace(lists, queries=np.array(["query 0", "query 0", "query 2", "query 3"], dtype=object))
    queries = replace(evaluation_set(lists, basis="clicks"), people={0: {0: 3.0}})
    incumbent = incumbent_of(queries, repeated)
    assert incumbent is not None and incumbent.graded is not None
    graded = incumbent.graded
    assert (graded.judged_by, graded.requests, graded.queries) == ("people", 2, 1)
    assert graded.models["incumbent"]["ndcg_at_10"].mean == pytest.approx((1 + 1 / np.log2(3)) / 2)
    unjudged = incumbent_of(replace(queries, people={}), repeated)
    assert unjudged is not None and unjudged.graded is None, "clicks judge nobody's list as graded"
    assert unjudged.shown, "they show where the order was better"


def test_without_lists_there_is_no_incumbent_and_older_records_are_read() -> None:
    lists = many_lists()
    assert incumbent_of(evaluation_set(lists, basis="truth"), None) is None
    record, _ = evaluate(
        rankers={"challenger": lambda: FORWARDS},
        queries=evaluation_set(lists, basis="truth"),
        item_ids=IDS,
        settings=Evaluation(bootstrap_samples=50),
    )
    older = {name: value for name, value in asdict(record).items() if name != "incumbent"}
    assert parse_evaluation(older).incumbent is None
