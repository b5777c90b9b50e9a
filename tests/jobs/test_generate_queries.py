"""generate-queries and label-fashion on a sound day, and what neither may know."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from smar_model.data.query_text import normalise_query
from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact
from smar_model.lake.runs import Run
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


def test_queries_are_parts_of_what_sellers_wrote(day: tuple[Run, dict[str, Artifact]]) -> None:
    run, outputs = day
    items = {row["item_id"]: row for row in rows(outputs["prepare-items"], "catalogue")}
    synthetic = rows(outputs["generate-queries"], "synthetic_queries")
    assert {row["method"] for row in synthetic} == {"substring", "combination"}
    for row in synthetic:
        item, words = items[row["item_id"]], row["query"].split(" ")
        assert row["query"] == normalise_query(row["query"])
        assert 1 <= len(words) <= run.settings.synthetic_queries.maximum_words
        if row["method"] == "substring":
            assert f" {row['query']} " in f" {normalise_query(item['title'])} "
        else:
            assert len(set(words)) == len(words)
            assert set(words) <= written_words(item)


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
    assert metrics["distinct_queries"] == len({row["query"] for row in synthetic})
    assert metrics["per_true_query"] == round(len(synthetic) / len(clicked), 2)
    assert metrics["per_true_query"] >= run.settings.synthetic_queries.per_true_query


def test_every_item_known_before_the_cutoff_has_queries_and_no_later_one(day: tuple[Run, dict[str, Artifact]]) -> None:
    _, outputs = day
    assert LATE in {row["item_id"] for row in rows(outputs["prepare-items"], "catalogue")}
    found = {row["item_id"] for row in rows(outputs["generate-queries"], "synthetic_queries")}
    assert found == {item["item_id"] for item in tiny_items()}


def test_labels_follow_the_departments_of_training_clicks(day: tuple[Run, dict[str, Artifact]]) -> None:
    run, outputs = day
    departments = {row["item_id"]: row["department"] for row in rows(outputs["prepare-items"], "catalogue")}
    clicks: Counter[str] = Counter()
    visual: Counter[str] = Counter()
    for row in rows(outputs["extract-clicks"], "clicks"):
        if row["day"] in run.training_days and row["clicks"]:
            clicks[row["query"]] += row["clicks"]
            visual[row["query"]] += row["clicks"] * (departments[row["item_id"]] == "Clothing")
    labels = {row["query"]: row for row in rows(outputs["label-fashion"], "fashion_labels")}
    assert {query: row["clicks"] for query, row in labels.items()} == clicks
    for query, row in labels.items():
        assert row["visual_share"] == pytest.approx(visual[query] / clicks[query])
        assert row["is_visual"] == (row["visual_share"] >= run.settings.labels.visual_share)
    assert {row["is_visual"] for row in labels.values()} == {True, False}


def test_label_settings_are_obeyed(day: tuple[Run, dict[str, Artifact]]) -> None:
    run, outputs = day
    labels = rows(outputs["label-fashion"], "fashion_labels")
    least = sorted(row["clicks"] for row in labels)[len(labels) // 2]
    other = tiny_run(run.settings.shop.root, name="labels", labels={"minimum_clicks": least, "visual_share": 0.0})
    stricter = run_stages(other, *TRAINING_TABLES)["label-fashion"]
    assert {row["query"] for row in rows(stricter, "fashion_labels")} == {
        row["query"] for row in labels if row["clicks"] >= least
    }
    assert all(row["is_visual"] for row in rows(stricter, "fashion_labels"))


def test_visual_departments_that_the_catalogue_lacks_are_an_error(day: tuple[Run, dict[str, Artifact]]) -> None:
    run, _ = day
    shop = {"root": str(run.settings.shop.root), "visual_departments": ["Cloths"]}
    with pytest.raises(InputError, match=r"visual_departments: none of \['Cloths'\].*'Clothing'"):
        run_stages(tiny_run(run.settings.shop.root, name="typo", shop=shop), *TRAINING_TABLES)


def test_another_seed_draws_other_queries_and_short_texts_are_drawn_from_twice(
    day: tuple[Run, dict[str, Artifact]],
) -> None:
    run, outputs = day
    scarce = tiny_run(
        run.settings.shop.root,
        name="scarce",
        synthetic_queries={"per_true_query": 20, "maximum_words": 1, "seed": 1},
    )
    output = run_stages(scarce, "prepare-items", "extract-clicks", "generate-queries")["generate-queries"]
    assert output.metrics["tries"] == 2
    assert 0 < output.metrics["per_true_query"] < 20
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
