"""Which queries judge a run, and what would have been right, from logs with and without truth."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.errors import InputError
from smar_model.evaluation.evaluation_set import EvaluationSet, build_evaluation_set
from tests.tiny_shop import write_rows

DAY = date(2026, 11, 19)
ATTRIBUTES = {
    "a": {"type": "dress", "colour": "red"},
    "b": {"type": "dress", "colour": "red", "brand": "acme"},
    "c": {"type": "dress", "colour": "blue"},
    "d": {"type": "novel"},
}
CATALOGUE = pd.DataFrame(
    {
        "item_id": list(ATTRIBUTES),
        "title": "",
        "attributes": [{} for _ in ATTRIBUTES],
        "department": ["Clothing", "Clothing", "Clothing", "Books"],
    }
)


def clicks_table(*rows: tuple[str, str, int, int]) -> pd.DataFrame:
    """Rows of query, item, clicks, orders on DAY."""
    frame = pd.DataFrame(rows, columns=["query", "item_id", "clicks", "orders"])
    return frame.assign(day=DAY)


def request(number: int, query: str, item: str, **named: str) -> dict[str, Any]:
    return {
        "request_id": f"r{number}",
        "query": query,
        "item_id": item,
        "named": list(named.items()),
        "policy": "random",
    }


def write_truth(root: Path, requests: list[dict[str, Any]]) -> None:
    items = [{"item_id": item, "attributes": list(values.items())} for item, values in ATTRIBUTES.items()]
    write_rows(root / "truth" / "items.parquet", "truth_items", items)
    write_rows(root / "truth" / "requests" / f"dt={DAY}" / "part-0.parquet", "truth_requests", requests)


def build(root: Path, clicks: pd.DataFrame, *, maximum: int = 100, days: tuple[date, ...] = (DAY,)) -> EvaluationSet:
    return build_evaluation_set(
        shop=ShopInputs(root),
        days=days,
        clicks=clicks,
        catalogue=CATALOGUE,
        visual_departments=["Clothing"],
        maximum_queries=maximum,
        seed=0,
    )


def relevant_items(queries: EvaluationSet, number: int) -> dict[str, float]:
    grades = queries.graded.grades_of(np.tile(np.arange(4), (len(queries.queries), 1)))[number]
    return {item: grade for item, grade in zip(ATTRIBUTES, grades.tolist(), strict=True) if grade}


def test_with_truth_one_query_is_a_request_and_its_target_the_wanted_item(tmp_path: Path) -> None:
    write_truth(
        tmp_path,
        [
            request(1, "  Red   DRESS ", "a", type="dress", colour="red"),
            request(2, "dress", "c", type="dress"),
            request(3, "novel", "d", type="novel"),
            request(4, "red dress", "b", colour="red", type="dress"),
        ],
    )
    queries = build(tmp_path, clicks_table(("red dress", "c", 0, 0), ("dress", "c", 1, 0), ("novel", "d", 1, 1)))
    assert queries.basis == "truth"
    assert queries.queries.tolist() == ["red dress", "dress", "novel", "red dress"]
    assert queries.targets.tolist() == [0, 2, 3, 1]
    assert queries.clusters.tolist() == ["a", "c", "d", "b"]
    assert queries.is_visual.tolist() == [True, True, False, True]
    assert relevant_items(queries, 0) == {"a": 1, "b": 1}
    assert relevant_items(queries, 1) == {"a": 1, "b": 1, "c": 1}
    assert relevant_items(queries, 2) == {"d": 1}
    # Requests that name the same share one set, whatever the order of the names.
    assert queries.graded.set_of_query.tolist() == [0, 1, 2, 0]


def test_requests_without_surviving_event_or_item_are_left_out_and_counted(tmp_path: Path) -> None:
    write_truth(
        tmp_path,
        [
            request(1, "red dress", "a", colour="red"),
            request(2, "all rows were malformed", "a", colour="red"),
            request(3, "red dress", "delisted", colour="red"),
        ],
    )
    queries = build(tmp_path, clicks_table(("red dress", "a", 1, 0)))
    assert queries.query_ids.tolist() == ["r1"]
    assert queries.counts == {
        "requests": 3,
        "requests_without_surviving_event": 1,
        "requests_for_items_not_in_catalogue": 1,
        "queries": 1,
    }


def test_a_value_that_no_item_has_matches_nothing(tmp_path: Path) -> None:
    write_truth(
        tmp_path, [request(1, "x", "a", colour="mauve"), request(2, "x", "a", sleeve="long"), request(3, "x", "a")]
    )
    queries = build(tmp_path, clicks_table(("x", "a", 1, 0)))
    assert [relevant_items(queries, n) for n in range(3)] == [{}, {}, {"a": 1}]


def test_a_large_day_is_sampled_by_seed(tmp_path: Path) -> None:
    write_truth(tmp_path, [request(n, "dress", "c", type="dress") for n in range(50)])
    clicks = clicks_table(("dress", "c", 1, 0))
    first, second = (build(tmp_path, clicks, maximum=20) for _ in range(2))
    assert len(set(first.query_ids)) == 20
    assert first.query_ids.tolist() == second.query_ids.tolist()
    assert first.counts["queries"] == 20


def test_without_truth_clicked_items_are_right_and_ordered_ones_more_so(tmp_path: Path) -> None:
    clicks = clicks_table(
        ("dress", "a", 2, 0), ("dress", "d", 1, 1), ("dress", "b", 0, 0), ("novel", "d", 1, 0), ("seen only", "a", 0, 0)
    )
    queries = build(tmp_path, clicks)
    assert queries.basis == "clicks"
    assert queries.queries.tolist() == ["dress", "novel"]
    assert queries.is_visual.tolist() == [True, False]
    assert queries.targets.tolist() == [-1, -1]
    assert relevant_items(queries, 0) == {"a": 1, "d": 2}
    assert queries.found.counts().tolist() == [2, 1]


def test_judgments_give_the_graded_part_of_the_queries_that_they_cover(tmp_path: Path) -> None:
    # Of two raters the median; the same query in two forms is one.
    rows = [
        ("Dress", "b", 3),
        ("dress", "b", 2),
        ("DRESS ", "b", 3),
        ("dress", "a", 0),
        ("dress", "gone", 3),
        ("novel", "a", 0),
        ("never asked", "a", 3),
    ]
    write_rows(
        tmp_path / "judgments.parquet",
        "judgments",
        [{"query": query, "item_id": item, "grade": grade} for query, item, grade in rows],
    )
    queries = build(tmp_path, clicks_table(("dress", "a", 1, 0), ("novel", "d", 1, 0)))
    assert relevant_items(queries, 0) == {"b": 3}
    assert relevant_items(queries, 1) == {"d": 1}, "judged without anything relevant: its clicks count"
    assert queries.found.grades_of(np.array([[0], [3]])).tolist() == [[1], [1]], "recall keeps to the clicks"
    assert queries.counts["queries_with_judgments"] == 1


def test_a_grade_outside_the_scale_is_named(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "judgments.parquet", "judgments", [{"query": "dress", "item_id": "a", "grade": 7}])
    with pytest.raises(InputError, match=r"judgments\.parquet: row 0 .*grade 7"):
        build(tmp_path, clicks_table(("dress", "a", 1, 0)))
    assert file.exists()


def test_nothing_to_evaluate_is_an_error_with_counts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing to evaluate .*clicked queries: 0"):
        build(tmp_path, clicks_table(("dress", "a", 0, 0)))


def test_truth_that_differs_from_its_contract_is_named(tmp_path: Path) -> None:
    write_truth(tmp_path, [request(1, "dress", "a", type="dress")])
    pq.write_table(pa.table({"item_id": ["a"]}), tmp_path / "truth" / "items.parquet")
    with pytest.raises(InputError, match=r"truth/items\.parquet: does not fit .*attributes is missing"):
        build(tmp_path, clicks_table(("dress", "a", 1, 0)))


def test_an_empty_query_text_in_truth_names_the_row(tmp_path: Path) -> None:
    write_truth(tmp_path, [request(1, "dress", "a"), {**request(2, "x", "a"), "query": None}])
    with pytest.raises(InputError, match="truth_requests row 1: query is empty"):
        build(tmp_path, clicks_table(("dress", "a", 1, 0)))


def test_truth_for_some_evaluation_days_only_is_an_error(tmp_path: Path) -> None:
    write_truth(tmp_path, [request(1, "dress", "a")])
    with pytest.raises(InputError, match="dt=2026-11-18: missing"):
        build(tmp_path, clicks_table(("dress", "a", 1, 0)), days=(date(2026, 11, 18), DAY))
