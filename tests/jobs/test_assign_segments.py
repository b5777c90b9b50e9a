"""assign-segments: each evaluated pair in the segments that its rules state, from what training could know alone."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.dataset as ds
import pytest

from smar_model.data.training_pairs import clicked_pairs, in_novel_bucket, synthetic_pairs
from smar_model.lake.artifacts import Artifact
from smar_model.lake.digests import digest_json
from smar_model.lake.publishing import Attempt
from smar_model.lake.runs import Run
from smar_model.lake.stage import run_stage
from smar_model.stages import STAGES
from tests.tiny_shop import DAYS, LAST_DAY, tiny_run, write_rows

TITLES = {
    "rich": ("Red cotton summer shirt striped", "Clothing > Shirts"),
    "plural": ("Warm padded winter coats", "Clothing > Coats"),
    "sparse": ("Acme shirt X100", "Clothing > Shirts"),
    "foreign-script": ("Рубашка красная летняя хлопок", "Clothing > Shirts"),
    "foreign-language": ("Hemd mit Streifen und Kragen für Herren", "Clothing > Shirts"),
    "other-kind": ("Green velvet evening dress long", "Clothing > Shirts"),
    "contradicted": ("Blue wool garment light knitted", "Clothing > Sweaters"),
    "dress": ("Yellow linen dress for garden and beach", "Clothing > Dresses"),
    "novel": ("A history of the garden and the city", "Books > Novels"),
    "english": ("A novel of the sea and the wind", "Books > Novels"),
}


def catalogue() -> list[dict[str, Any]]:
    return [
        {
            "item_id": name,
            "title": title,
            "category": category,
            "department": category.split(" > ")[0],
            "brand": "Acme" if name == "sparse" else "",
            "attributes": [("material", "viscose"), ("made for", "Cafe\u0301")] if name == "rich" else [],
            "images": ["picture.jpg"],
            "informative_pictures": 0 if name == "sparse" else 1,
            # Changed after the cutoff: its training clicks teach nothing, as training does not know the item.
            "updated_at": datetime(2026, 11, 19 if name == "novel" else 1, tzinfo=UTC),
        }
        for name, (title, category) in TITLES.items()
    ]


def click(day: date, query: str, item: str, clicks: int = 1) -> dict[str, Any]:
    return {
        "day": day,
        "query": query,
        "item_id": item,
        "impressions": 9,
        "clicks": clicks,
        "carts": 0,
        "orders": 0,
    } | {"weight": float(clicks)}


UNSEEN = {
    "azure shirt": "nobody typed it, no seller wrote it",
    "history of linen": "it stands in the text of an item that changed after the cutoff alone",
    "histroy": "the misspelling was made from that item",
    "कपड़े": "a script with marks inside its words",
}
READ = {
    "shirts": "the plural of a word in a title",
    "knitted pullovers": "of a training query",
    "CLICKED": "typed in training, though nobody clicked; in other letters",
    "acme": "a brand",
    "viscose": "a seller's attribute",
    "café": "the same letters, written otherwise",
    "sumer": "misspelt for training",
    "coat x200 501 q": "a code, a number and a letter are no words",
    "赤いシャツ": "no spaces between words",
    "kept out": "typed in training, whatever the bucket",
}
CLICKS = [
    click(DAYS[1], "kept out", "rich"),
    *(click(DAYS[0], "red shirt", "rich", 50), click(DAYS[1], "coat", "plural", 30), click(DAYS[0], "tie", "rich", 12)),
    *(
        click(DAYS[0], "blue jumper", "rich", 7),
        click(DAYS[0], "one", "dress", 1),
        click(DAYS[1], "story", "novel", 9),
    ),
    *(click(DAYS[1], "grey pullover", "contradicted", 4), click(DAYS[0], "blue", "contradicted", 1)),
    click(DAYS[0], "seen but not clicked", "english", 0),
    *(click(LAST_DAY, "red shirt", item) for item in TITLES),
    *(click(LAST_DAY, query, "dress", 2) for query in ("coat", "tie", "blue jumper", "one", "new", "story")),
    *(click(LAST_DAY, "grey pullover", "contradicted", 90), click(LAST_DAY, "not clicked", "rich", 0)),
    click(LAST_DAY, "seen but not clicked", "english"),
    *(click(LAST_DAY, query, "dress") for query in (*UNSEEN, *READ)),
]
SYNTHETIC = [
    {"item_id": "rich", "query": "red shirt", "method": "substring"},
    {"item_id": "rich", "query": "summer", "method": "substring"},
    {"item_id": "rich", "query": "sumer", "method": "misspelling"},
    {"item_id": "novel", "query": "histroy", "method": "misspelling"},
]


def publish(run: Run, stage: str, tables: dict[str, list[dict[str, Any]]]) -> None:
    attempt = Attempt(stage, digest_json([run.name, stage]))
    for table, rows in tables.items():
        write_rows(attempt.folder / table / "part-0.parquet", table, rows)
    artifact = attempt.publish(metrics={}, inputs={}, settings={})
    run.write_state(stage, "finished", key=artifact.key)


def segments_of(run: Run) -> tuple[Artifact, pd.DataFrame]:
    publish(run, "prepare-items", {"catalogue": catalogue()})
    publish(run, "extract-clicks", {"clicks": CLICKS})
    publish(run, "generate-queries", {"synthetic_queries": SYNTHETIC})
    publish(run, "check-data", {})
    artifact = run_stage(STAGES["assign-segments"], run)
    frame = ds.dataset([str(f) for f in artifact.files("segments")]).to_table().to_pandas()
    return artifact, frame.set_index(["query", "item_id"]).sort_index()


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory):
    home = tmp_path_factory.mktemp("segments")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(home))
        yield segments_of(tiny_run(home / "shop"))


def test_one_row_for_each_clicked_pair_of_the_evaluation_days(segments: tuple[Artifact, pd.DataFrame]) -> None:
    artifact, frame = segments
    expected = {(c["query"], c["item_id"]) for c in CLICKS if c["day"] == LAST_DAY and c["clicks"]}
    assert set(frame.index) == expected
    assert len(frame) == len(expected) == artifact.metrics["pairs"]
    assert set(frame["day"]) == {LAST_DAY}
    assert frame.loc[("grey pullover", "contradicted"), "clicks"] == 90


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        ("rich", "rich"),
        ("plural", "rich"),
        ("sparse", "sparse"),
        ("foreign-script", "foreign"),
        ("foreign-language", "foreign"),
        ("other-kind", "misleading"),
        ("contradicted", "misleading"),
        ("dress", "rich"),
        ("english", "rich"),
    ],
)
def test_kinds_of_titles(segments: tuple[Artifact, pd.DataFrame], item: str, kind: str) -> None:
    assert segments[1].loc[("red shirt", item), "title_kind"] == kind


def test_tiers_and_what_is_seen_count_training_days_alone(segments: tuple[Artifact, pd.DataFrame]) -> None:
    frame = segments[1]
    tiers = {
        query: frame.xs("dress", level="item_id").loc[query, "query_tier"] for query in ("coat", "tie", "one", "new")
    }
    # Of 106 clicks 50 are before "coat" (47 %), 80 before "tie" (75 %), 92 before "blue jumper" (87 %).
    assert tiers == {"coat": "head", "tie": "torso", "one": "once", "new": "new"}
    assert frame.loc[("blue jumper", "dress"), "query_tier"] == "tail"
    assert frame.loc[("grey pullover", "contradicted"), "query_tier"] == "tail"  # 4 clicks, not 94
    seen = frame.reset_index().groupby("item_id")["item_seen"].first()
    assert set(seen[seen].index) == {"rich", "plural", "dress", "contradicted"}
    assert not frame.loc[("story", "dress"), "query_seen"]  # clicked in training, but for an item changed since
    assert not frame.loc[("seen but not clicked", "english"), "query_seen"]
    assert frame.loc[("red shirt", "novel"), "query_seen"]


def test_item_columns_and_queries_that_were_also_made(segments: tuple[Artifact, pd.DataFrame]) -> None:
    frame = segments[1]
    assert frame.loc[("red shirt", "english"), ["department", "is_visual"]].tolist() == ["Books", False]
    assert frame.loc[("red shirt", "rich"), ["department", "is_visual"]].tolist() == ["Clothing", True]
    assert not frame.loc[("red shirt", "sparse"), "picture_informative"]
    made = {"red shirt", "sumer", "histroy"}
    assert set(frame.index[frame["also_synthetic"]].get_level_values("query")) == made


def test_queries_with_a_word_that_training_never_read(segments: tuple[Artifact, pd.DataFrame]) -> None:
    frame = segments[1].xs("dress", level="item_id")
    assert set(frame.index[frame["unseen_words"]]) == {*UNSEEN, "new"}
    assert segments[0].metrics["unseen_words"] == len(UNSEEN) + 1


def test_the_novel_bucket_is_kept_out_of_training_and_is_novel_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    bucket = (0.1, 0.5)
    run = tiny_run(tmp_path / "shop", segments={"novel_bucket": bucket})
    _, frame = segments_of(run)
    items = sorted(TITLES)
    clicks = run.output("extract-clicks").files("clicks")
    pairs = pd.concat(clicked_pairs(clicks, run.training_days, novel_bucket=bucket))
    trained = set(zip(pairs["query"], pairs["item_id"], strict=True)) - {("story", "novel")}
    known = [c for c in CLICKS if c["day"] < LAST_DAY and c["clicks"] and c["item_id"] != "novel"]
    novel_query = dict(zip(q := [c["query"] for c in known], in_novel_bucket("query", q, bucket), strict=True))
    novel_item = dict(zip(items, in_novel_bucket("item", items, bucket), strict=True))
    assert any(novel_query.values()) and not all(novel_query.values())
    assert any(novel_item.values()) and not all(novel_item.values())
    assert trained == {
        (c["query"], c["item_id"]) for c in known if not novel_query[c["query"]] and not novel_item[c["item_id"]]
    }
    # What the table calls seen is what the readers give to training.
    seen = frame.reset_index()
    assert set(seen.loc[seen["query_seen"], "query"]) == {q for q, _ in trained} & set(seen["query"])
    assert set(seen.loc[seen["item_seen"], "item_id"]) == {i for _, i in trained} & set(seen["item_id"])
    synthetic = run.output("generate-queries").files("synthetic_queries")
    assert len(pd.concat(synthetic_pairs(synthetic))) == len(SYNTHETIC)
    for bucket in ((0.0, 0.05), (0.2, 0.4), (0.1, 0.6), (0.0, 0.8)):
        made = pd.DataFrame(SYNTHETIC)
        left = made[
            ~in_novel_bucket("query", made["query"], bucket) & ~in_novel_bucket("item", made["item_id"], bucket)
        ]
        if len(left):
            assert set(pd.concat(synthetic_pairs(synthetic, novel_bucket=bucket))["query"]) == set(left["query"])
