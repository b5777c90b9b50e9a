"""What kind of query and item each evaluated query is; with truth also in test_compare.py."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from smar_model.evaluation.evaluation_set import EvaluationSet
from smar_model.evaluation.relevance import Relevance
from smar_model.evaluation.segments import grouped, query_segments
from tests.tiny_shop import write_rows

CUTOFF = datetime(2026, 11, 19, tzinfo=UTC)
OLD, YOUNG = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 19, 8, tzinfo=UTC)
CATALOGUE = pd.DataFrame(
    {
        "item_id": ["a", "b", "c", "d"],
        "department": ["Clothing", "Clothing", "Books", "Books"],
        "images": [["1"], [], ["2"], ["3"]],
        "informative_pictures": [1, 0, 0, 2],
        "updated_at": [OLD, OLD, OLD, YOUNG],
    }
)
TRAINED = pd.DataFrame(
    {"query": ["red", "novel", "young"], "item_id": ["a", "c", "d"], "clicks": [3, 1, 9], "orders": [0, 0, 0]}
)


def evaluation_set(queries: list[str], targets: list[int]) -> EvaluationSet:
    texts, rows = np.array(queries, dtype=object), np.array(targets)
    found = Relevance.from_targets(np.maximum(rows, 0), items=4)
    return EvaluationSet(
        basis="truth" if (rows >= 0).all() else "clicks",
        query_ids=texts,
        queries=texts,
        clusters=texts,
        is_visual=np.isin(rows, [0, 1]),
        departments=np.full(len(texts), "Clothing", dtype=object),
        targets=rows,
        found=found,
        graded=found,
        counts={},
    )


@pytest.fixture
def table(tmp_path: Path) -> Path:
    facts = {"day": date(2026, 11, 19), "query_seen": True, "item_seen": True, "is_visual": True}
    facts |= {"department": "x", "picture_informative": True}
    rows = [
        {
            "query": "red",
            "item_id": "a",
            "clicks": 1,
            "query_tier": "head",
            "title_kind": "rich",
            "also_synthetic": True,
        },
        {
            "query": "red",
            "item_id": "b",
            "clicks": 4,
            "query_tier": "head",
            "title_kind": "foreign",
            "also_synthetic": True,
        },
        {
            "query": "novel",
            "item_id": "c",
            "clicks": 1,
            "query_tier": "once",
            "title_kind": "sparse",
            "also_synthetic": False,
        },
        {
            "query": "new",
            "item_id": "d",
            "clicks": 2,
            "query_tier": "new",
            "title_kind": "misleading",
            "also_synthetic": False,
            "unseen_words": True,
        },
    ]
    return write_rows(tmp_path / "part-0.parquet", "segments", [facts | row for row in rows])


def members(queries: EvaluationSet, table: Path, number: int, wrong_pictures: set[str] | None = None) -> set[str]:
    found = query_segments(
        queries,
        catalogue=CATALOGUE,
        trained=TRAINED,
        cutoff=CUTOFF,
        novel_bucket=(0.0, 0.0),
        files=[table],
        wrong_pictures=wrong_pictures,
    )
    return {name for name, inside in found.items() if inside[number]}


def test_title_and_picture_are_those_of_the_wanted_item(table: Path) -> None:
    queries = evaluation_set(["red", "red", "novel", "new", "unclicked"], [0, 1, 2, 3, 2])
    assert members(queries, table, 0) == {
        *("all", "seen_query_seen_item", "query_head", "fashion", "title_rich"),
        *("informative_picture", "also_synthetic", "department: Clothing"),
    }
    assert {"title_foreign", "no_picture", "seen_query_novel_item"} <= members(queries, table, 1)
    assert {"title_sparse", "uninformative_picture", "query_once", "not_synthetic"} <= members(queries, table, 2)
    # Item d is younger than the cutoff: training has not seen it, though its click is in the log.
    assert {"novel", "novel_query_novel_item", "title_misleading", "unseen_words"} <= members(queries, table, 3)
    unclicked = members(queries, table, 4)
    assert not unclicked & {"also_synthetic", "not_synthetic", "query_head", "query_once"}, "the table does not hold it"
    assert {"novel", "title_sparse"} <= unclicked, "its item's title is known from another query's click"


def test_without_truth_they_are_those_of_the_item_clicked_most(table: Path) -> None:
    queries = evaluation_set(["red", "unclicked"], [-1, -1])
    assert {"title_foreign", "no_picture", "department: Clothing"} <= members(queries, table, 0)
    assert members(queries, table, 1) == {"all", "novel", "not_fashion"}


def test_pictures_that_lie_are_those_of_the_wanted_item_by_truth(table: Path) -> None:
    queries = evaluation_set(["red", "red", "novel"], [0, 1, 2])
    found = [members(queries, table, number, {"a", "b", "z"}) for number in range(3)]
    assert "wrong_picture" in found[0]
    assert not found[1] & {"wrong_picture", "right_picture"}, "it has no picture"
    assert "right_picture" in found[2]
    assert not members(queries, table, 0) & {"wrong_picture", "right_picture"}, "where nobody knows"


def test_a_table_of_an_older_version_knows_no_unseen_words(tmp_path: Path, table: Path) -> None:
    old = pq.read_table(table).drop_columns("unseen_words")
    pq.write_table(old, tmp_path / "old.parquet")
    queries = evaluation_set(["red", "new"], [0, 3])
    assert "unseen_words" not in members(queries, tmp_path / "old.parquet", 1)
    assert "query_new" not in members(queries, table, 1)


def test_pages_list_segments_with_queries_and_the_largest_departments() -> None:
    counts = {"overall": 90, "fashion": 0, "novel": 3, "title_rich": 0} | {
        f"department: {n:02}": n for n in range(1, 20)
    }
    groups = grouped(counts)
    assert groups[:2] == [{"overall": "all queries"}, {"novel": "queries never clicked"}]
    assert list(groups[2].values()) == [f"{n:02}" for n in range(19, 7, -1)]
