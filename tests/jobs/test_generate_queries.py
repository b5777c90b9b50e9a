"""generate-queries on a sound day, and what it may not know."""

from __future__ import annotations

import re
import shutil
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.generate_queries import SHARES, draws_by_method
from jobs.spark_session import run_sql
from smar_model.data.query_text import normalise_query
from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact
from smar_model.lake.runs import Run
from smar_model.settings import SyntheticQueries
from tests.tiny_shop import DATA_STAGES, DAYS, run_stages, tiny_items, tiny_run, write_rows, write_tiny_shop

LATE = "item-late"
TRAINING_TABLES = DATA_STAGES[:4]


def rows(artifact: Artifact, table: str) -> list[dict[str, Any]]:
    return [row for file in artifact.files(table) for row in pq.read_table(file).to_pylist()]


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, dict[str, Artifact]]]:
    """The tiny shop with one more item, changed on the evaluation day."""
    home = tmp_path_factory.mktemp("queries")
    root = write_tiny_shop(home / "shop")
    changed = datetime(DAYS[-1].year, DAYS[-1].month, DAYS[-1].day, tzinfo=UTC)
    late = tiny_items()[0] | {"item_id": LATE, "title": "Tomorrow's secret", "images": [], "updated_at": changed}
    write_rows(root / "items.parquet", "items", [*tiny_items(), late])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(home))
        run = tiny_run(root)
        yield run, run_stages(run, *DATA_STAGES)


def written_words(item: dict[str, Any]) -> set[str]:
    leaf = item["category"].rsplit(">")[-1]
    return set(
        normalise_query(" ".join([item["title"], item["brand"], leaf, *dict(item["attributes"]).values()])).split()
    )


def draw(spark: SparkSession, *titles: str, draws: int = 60, **row: str) -> dict[str, list[set[str]]]:
    """Method → queries of each item; items differ in their titles alone."""
    row = {"category": "Things > Things", "brand": "", **row}
    items = [(str(n), title, row["category"], row["brand"], {}) for n, title in enumerate(titles)]
    frame = spark.createDataFrame(
        items, "item_id string, title string, category string, brand string, attributes map<string, string>"
    )
    frame.selectExpr("*", "timestamp'2026-11-01' AS updated_at").createOrReplaceTempView("catalogue")
    run_sql(
        spark,
        "generate_queries",
        cutoff=datetime(2026, 11, 2, tzinfo=UTC),
        maximum_words=5,
        seed=0,
        partitions=2,
        **draws_by_method(draws, SyntheticQueries().methods),
    )
    drawn: dict[str, list[set[str]]] = {}
    for row in spark.table("synthetic_queries").toPandas().to_dict("records"):
        drawn.setdefault(row["method"], [set() for _ in titles])[int(row["item_id"])].add(row["query"])
    return drawn


def edits(one: str, other: str) -> int:
    """Optimal string alignment distance: letters left out, added, changed or swapped with the next."""
    table = [[max(i, j) if not i or not j else 0 for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            cost = one[i - 1] != other[j - 1]
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + cost)
            if i > 1 and j > 1 and one[i - 2 : i] == other[j - 2 : j][::-1]:
                table[i][j] = min(table[i][j], table[i - 2][j - 2] + 1)
    return table[-1][-1]


def is_part(words: list[str], title: list[str]) -> bool:
    """Whether the words stand in the title in this order."""
    rest = iter(title)
    return all(word in rest for word in words)


def test_every_method_makes_what_it_says_of_what_sellers_wrote(day: tuple[Run, dict[str, Artifact]]) -> None:
    run, outputs = day
    items = {row["item_id"]: row for row in rows(outputs["prepare-items"], "catalogue")}
    synthetic = rows(outputs["generate-queries"], "synthetic_queries")
    assert {row["method"] for row in synthetic} == {*SHARES} - {"characters"}
    for row in synthetic:
        item, words = items[row["item_id"]], row["query"].split(" ")
        title, written = normalise_query(item["title"]), written_words(item)
        assert row["query"] == normalise_query(row["query"])
        assert 1 <= len(words) <= run.settings.synthetic_queries.maximum_words
        match row["method"]:
            case "substring":
                assert f" {row['query']} " in f" {title} "
            case "drop":
                assert is_part(words, title.split())
            case "swap":
                swapped = [[*words[:n], words[n + 1], words[n], *words[n + 2 :]] for n in range(len(words) - 1)]
                assert any(f" {' '.join(back)} " in f" {title} " for back in swapped)
            case "brand_type":
                assert words[-1] == normalise_query(item["category"].rsplit(">")[-1]) and set(words) <= written
            case "combination":
                assert len(set(words)) == len(words) and set(words) <= written
            case "misspelling":
                wrong = [word for word in words if word not in written]
                assert 0 < sum(min(edits(word, right) for right in written) for word in wrong) <= 2


def test_scripts_without_spaces_give_parts_that_are_written_without_spaces(spark: SparkSession) -> None:
    titles = ("夏季新款连衣裙女装", "เสื้อยืดผู้ชายสีแดง", "とても長いワンピース", "iphone手机壳", "red cotton shirt")
    drawn = draw(spark, *titles)
    for title, found in zip(titles[:4], drawn["characters"], strict=False):
        assert len(found) > 3 and all(text in title for text in found)
    assert drawn["characters"][4] == set(), "spaces part its words"
    # No part begins with a mark that belongs to the letter before.
    assert not any(unicodedata.category(text[0]).startswith("M") for text in drawn["characters"][1])
    for method in ("substring", "combination", "swap", "drop"):
        for text in set().union(*drawn[method][:3]):
            assert not re.search("[^ -~] [^ -~]", text)
            assert set(text) - set(" things") <= set("".join(titles))
    assert any("ワンピース" in text for text in drawn["combination"][2]), "Katakana stays whole"


def test_poor_texts_give_what_they_can(spark: SparkSession) -> None:
    drawn = draw(spark, "-", "shirt", "a b " * 200, draws=400, category="Z")
    found = [set().union(*(of_method[n] for of_method in drawn.values())) for n in range(3)]
    assert found[0] == {"z"}
    assert {"shirt", "z", "shirt z", "z shirt"} <= found[1]
    assert {"a", "b", "a b a b a", "z"} <= found[2]


def test_methods_can_be_switched_off(day: tuple[Run, dict[str, Artifact]]) -> None:
    run, _ = day
    methods = ["misspelling", "swap"]
    only = tiny_run(run.settings.shop.root, name="methods", synthetic_queries={"per_true_query": 5, "methods": methods})
    output = run_stages(only, "prepare-items", "extract-clicks", "generate-queries")["generate-queries"]
    assert {row["method"] for row in rows(output, "synthetic_queries")} == set(methods)
    assert output.metrics["substring_queries"] == 0 < output.metrics["swap_queries"]
    with pytest.raises(InputError, match=r"synthetic_queries\.methods"):
        tiny_run(run.settings.shop.root, name="none", synthetic_queries={"methods": []})


def test_the_sample_has_true_queries_once_and_synthetic_ones_with_their_method(
    day: tuple[Run, dict[str, Artifact]],
) -> None:
    run, outputs = day
    sample = rows(outputs["generate-queries"], "query_sample")
    clicked = {
        r["query"] for r in rows(outputs["extract-clicks"], "clicks") if r["clicks"] and r["day"] in run.training_days
    }
    assert sorted(r["query"] for r in sample if r["origin"] == "true") == sorted(clicked)
    departments = {row["item_id"]: row["department"] for row in rows(outputs["prepare-items"], "catalogue")}
    made = [
        (r["query"], departments[r["item_id"]], r["method"])
        for r in rows(outputs["generate-queries"], "synthetic_queries")
    ]
    assert sorted((r["query"], r["department"], r["origin"]) for r in sample if r["origin"] != "true") == sorted(made)


def test_rows_are_distinct_and_enough_for_the_true_queries(day: tuple[Run, dict[str, Artifact]]) -> None:
    run, outputs = day
    synthetic = rows(outputs["generate-queries"], "synthetic_queries")
    assert len({(row["item_id"], row["query"]) for row in synthetic}) == len(synthetic)
    clicked = {
        row["query"]
        for row in rows(outputs["extract-clicks"], "clicks")
        if row["clicks"] and row["day"] in run.training_days
    }
    metrics = outputs["generate-queries"].metrics
    assert metrics["true_queries"] == len(clicked)
    assert metrics["synthetic_queries"] == len(synthetic)
    assert sum(metrics[f"{method}_queries"] for method in SHARES) == len(synthetic)
    assert metrics["per_true_query"] == round(len(synthetic) / len(clicked), 2)
    assert metrics["per_true_query"] >= run.settings.synthetic_queries.per_true_query


def test_every_item_known_before_the_cutoff_has_queries_and_no_later_one(day: tuple[Run, dict[str, Artifact]]) -> None:
    _, outputs = day
    assert LATE in {row["item_id"] for row in rows(outputs["prepare-items"], "catalogue")}
    found = {row["item_id"] for row in rows(outputs["generate-queries"], "synthetic_queries")}
    assert found == {item["item_id"] for item in tiny_items()}


def test_another_seed_draws_other_queries_and_short_texts_are_drawn_from_twice(
    day: tuple[Run, dict[str, Artifact]],
) -> None:
    run, outputs = day
    scarce = tiny_run(
        run.settings.shop.root,
        name="scarce",
        synthetic_queries={"per_true_query": 30, "maximum_words": 1, "methods": ["substring", "combination"]},
    )
    output = run_stages(scarce, "prepare-items", "extract-clicks", "generate-queries")["generate-queries"]
    assert output.metrics["tries"] == 2
    assert 0 < output.metrics["per_true_query"] < 30
    words = {item["item_id"]: written_words(item) for item in rows(outputs["prepare-items"], "catalogue")}
    found: dict[str, set[str]] = {}
    for row in rows(output, "synthetic_queries"):
        found.setdefault(row["item_id"], set()).add(row["query"])
    assert sum(map(len, found.values())) == output.metrics["synthetic_queries"]
    assert all(queries <= words[item] for item, queries in found.items())
    reseeded = tiny_run(run.settings.shop.root, name="seed", synthetic_queries={"per_true_query": 20, "seed": 1})
    other = run_stages(reseeded, "prepare-items", "extract-clicks", "generate-queries")["generate-queries"]
    assert other.digest != outputs["generate-queries"].digest


def test_training_tables_do_not_depend_on_truth_or_on_partitions(
    day: tuple[Run, dict[str, Artifact]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark: SparkSession
) -> None:
    run, outputs = day
    root = shutil.copytree(run.settings.shop_root, tmp_path / "shop")
    assert list((root / "truth").rglob("*.parquet"))
    shutil.rmtree(root / "truth")
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "other"))
    partitions = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", "7")
    try:
        without = run_stages(tiny_run(root), *TRAINING_TABLES)
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", partitions)
    for stage in TRAINING_TABLES:
        assert without[stage].manifest["attempt"] != outputs[stage].manifest["attempt"]
        assert without[stage].digest == outputs[stage].digest
