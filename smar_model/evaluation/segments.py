"""The segments by which `judge` and `evaluate` report: what kind of query, wanted item and picture each evaluated query has."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from smar_model.data.training_pairs import in_novel_bucket
from smar_model.evaluation.evaluation_set import EvaluationSet
from smar_model.lake.contracts import load_contract

NOVEL = "novel"
"""Queries without a training click; all items."""
UNSEEN_WORDS = "unseen_words"
"""Queries with a word that training has not read anywhere."""
WRONG_PICTURE = "wrong_picture"
"""Wanted items whose picture is another item's or a placeholder, by a simulated shop's truth."""
SETS = ("seen_query_seen_item", "seen_query_novel_item", "novel_query_seen_item", "novel_query_novel_item")
TIERS = ("head", "torso", "tail", "once")
TITLES = ("rich", "sparse", "misleading", "foreign")
DEPARTMENT = "department: "
GROUPS: tuple[dict[str, str], ...] = (
    {"overall": "all queries", "fashion": "fashion", "not_fashion": "not fashion"},
    {
        **{f"query_{tier}": f"{tier} queries" for tier in TIERS if tier != "once"},
        **{"query_once": "queries clicked once", NOVEL: "queries never clicked", UNSEEN_WORDS: "a word never read"},
    },
    dict(zip(SETS, ("known query and item", "new item", "new query", "new query and item"), strict=True)),
    {f"title_{kind}": f"{kind} titles" for kind in TITLES},
    {
        "informative_picture": "a telling picture",
        "uninformative_picture": "a picture that tells nothing",
        "no_picture": "no picture",
        WRONG_PICTURE: "a picture of something else",
        "right_picture": "a picture of itself",
    },
    {"also_synthetic": "text also synthetic", "not_synthetic": "text not synthetic"},
)
"""Name → words, in the order of pages; departments come last."""
MOST_DEPARTMENTS = 12
FEWEST_CLUSTERS = 20
"""The bootstrap's interval of fewer is too narrow to be believed: charts leave such a segment out."""


def grouped(counts: dict[str, int]) -> list[dict[str, str]]:
    """The segments that have queries, name → words, in groups; of departments the largest.

    Args:
        counts: name → queries.
    """
    departments = sorted((n for n in counts if n.startswith(DEPARTMENT)), key=lambda n: (-counts[n], n))
    groups = [*GROUPS, {name: name.removeprefix(DEPARTMENT) for name in departments[:MOST_DEPARTMENTS]}]
    kept = [{name: words for name, words in group.items() if counts.get(name)} for group in groups]
    return [group for group in kept if group]


def segment_words(name: str) -> str:
    """A segment as pages name it."""
    words = {segment: text for group in GROUPS for segment, text in group.items()}
    return words.get(name, name.removeprefix(DEPARTMENT))


def query_segments(
    queries: EvaluationSet,
    *,
    catalogue: pd.DataFrame,
    trained: pd.DataFrame,
    cutoff: datetime,
    novel_bucket: tuple[float, float],
    files: Sequence[Path],
    wrong_pictures: Collection[str] | None = None,
) -> dict[str, np.ndarray]:
    """Name → (Q,) bool, departments last.

    Titles and pictures are those of the wanted item; where none is known, of the item that was clicked most for the query.
    What the table `segments` does not hold, as nobody clicked it on the evaluation days, is in none of its segments.

    Args:
        catalogue: sorted by item id.
        trained: table `clicks` of the training days.
        cutoff: first moment after training; younger items are novel.
        novel_bucket: ends of what training leaves out of queries and of items (`in_novel_bucket`).
        files: table `segments`.
        wrong_pictures: ids of items whose pictures are not theirs; None, where nobody knows, leaves out the segments by it.
    """
    early = catalogue.loc[catalogue["updated_at"] < cutoff, "item_id"]
    seen = trained[(trained["clicks"] > 0) & trained["item_id"].isin(early)]
    left_out = in_novel_bucket("query", seen["query"].tolist(), novel_bucket) | in_novel_bucket(
        "item", seen["item_id"].tolist(), novel_bucket
    )
    seen = seen[~left_out]
    query_novel = ~np.isin(queries.queries.astype(str), seen["query"].unique().astype(str))

    schema = load_contract("segments").arrow_schema()
    table = ds.dataset([str(f) for f in files], schema=schema).to_table().to_pandas()
    by_query = table.drop_duplicates("query").set_index("query").reindex(queries.queries)
    rows = np.where(queries.targets >= 0, queries.targets, _most_clicked(table, queries.queries, catalogue))
    known = rows >= 0
    items = catalogue.iloc[np.maximum(rows, 0)]
    item_novel = ~items["item_id"].isin(seen["item_id"]).to_numpy()
    kinds = table.drop_duplicates("item_id").set_index("item_id")["title_kind"].reindex(items["item_id"]).to_numpy()
    pictures = items["images"].str.len().to_numpy()
    informative = items["informative_pictures"].fillna(0).to_numpy() > 0
    synthetic = by_query["also_synthetic"].to_numpy()

    segments = {"all": np.ones(len(known), dtype=bool), NOVEL: query_novel}
    for query_kind, of_query in (("seen", ~query_novel), ("novel", query_novel)):
        for item_kind, of_item in (("seen", ~item_novel), ("novel", item_novel)):
            segments[f"{query_kind}_query_{item_kind}_item"] = known & of_query & of_item
    for tier in TIERS:
        segments[f"query_{tier}"] = (by_query["query_tier"] == tier).to_numpy()
    segments |= {"fashion": queries.is_visual, "not_fashion": ~queries.is_visual}
    segments |= {f"title_{kind}": known & (kinds == kind) for kind in TITLES}
    segments |= {
        "no_picture": known & (pictures == 0),
        "uninformative_picture": known & (pictures > 0) & ~informative,
        "informative_picture": known & informative,
        "also_synthetic": synthetic == True,  # noqa: E712 (unknown is None)
        "not_synthetic": synthetic == False,  # noqa: E712
        UNSEEN_WORDS: (by_query["unseen_words"] == True).to_numpy(),  # noqa: E712 (an older table has no such column)
    }
    if wrong_pictures is not None:
        wrong = items["item_id"].isin(wrong_pictures).to_numpy()
        segments |= {
            WRONG_PICTURE: known & (pictures > 0) & wrong,
            "right_picture": known & (pictures > 0) & ~wrong,
        }
    departments = items["department"].to_numpy()
    return segments | {DEPARTMENT + name: known & (departments == name) for name in sorted(set(departments[known]))}


def _most_clicked(table: pd.DataFrame, queries: np.ndarray, catalogue: pd.DataFrame) -> np.ndarray:
    """(Q,) row of the item that was clicked most for a query, of several the lowest; −1 where none was."""
    clicks = table.groupby(["query", "item_id"], as_index=False)["clicks"].sum()
    most = clicks.sort_values(["clicks", "item_id"], ascending=[False, True]).drop_duplicates("query")
    items = most.set_index("query")["item_id"].reindex(queries)
    return pd.Index(catalogue["item_id"]).get_indexer(items)
