"""Stage mine-negatives: for each clicked training pair, items that a release ranks high for the query, but not at the top.

1. Search the release's index for every distinct query with the release's own query tower; keep the stated ranks (EBR,
   Huang et al. 2020, arXiv 2006.11632: 101–500).
2. Leave out items that the query was clicked with on a training day, and those that training does not know.
3. For each clicked pair leave out what scores more than `margin` of the clicked item's score: probably another match
   (NV-Retriever, Moreira et al. 2024, arXiv 2407.15831, "TopK-PercPos"). A clicked item that the index lacks has no score, so
   its pairs have no hard negatives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from smar_model.data.hard_negatives import NO_ITEM
from smar_model.data.sorted_keys import as_bytes, find_rows
from smar_model.data.token_tables import query_keys, read_item_tokens, read_pair_tokens
from smar_model.data.training_pairs import clicked_pairs
from smar_model.lake.release_copies import released_folder
from smar_model.lake.stage import StageContext

if TYPE_CHECKING:
    from smar_model.retrieval.search import Searcher

QUERIES_AT_A_TIME = 512


def run(context: StageContext) -> dict[str, float | str]:
    """Publish `hard_negatives/` (`smar_model/data/hard_negatives.py`); without a release to mine, nothing but the fact.

    Raises:
        InputError: the release's files are gone or damaged, or its index is another model's.
    """
    release = context.run.mined_from
    if release is None:
        training = context.settings.training
        if training.pretrain.hard_negatives or training.finetune.hard_negatives:
            context.report("no release trained up to an earlier day: training goes on without hard negatives")
        context.output("no_negatives").touch()
        return {"queries": 0.0}
    # Not where there is nothing to mine.
    from smar_model.retrieval.search import Searcher

    searcher = Searcher.load(
        released_folder(context.run, release, "model"), released_folder(context.run, release, "index")
    )
    return mine(context, searcher) | {"release": release.run}


def mine(context: StageContext, searcher: Searcher) -> dict[str, float | str]:
    """Search, filter and write; returns how much was found."""
    mining, bucket = context.settings.training.mining, context.settings.segments.novel_range
    tokens = context.input("train-tokenizer").folder / "tokens"
    items, clicked = read_item_tokens(tokens / "items"), read_pair_tokens(tokens / "clicked")
    item_of_row = find_rows(items.item_ids, as_bytes(searcher.item_ids))
    row_of_item = np.full(len(items.item_ids), -1)
    row_of_item[item_of_row[item_of_row >= 0]] = np.flatnonzero(item_of_row >= 0)

    clicks = clicked_pairs(context.table("extract-clicks", "clicks"), context.run.training_days, novel_bucket=bucket)
    texts = sorted(set().union(*(frame["query"] for frame in clicks)))
    by_key = dict(zip(query_keys(texts).tolist(), texts, strict=True))
    keys, queries = np.unique(clicked.keys, return_inverse=True)
    texts = [by_key[key] for key in keys.tolist()]
    pairs = np.argsort(queries, kind="stable")
    bounds = np.searchsorted(queries[pairs], np.arange(len(texts) + 1))

    high, low = mining.ranks
    depth = min(low, len(item_of_row))
    width = max(1, depth - high + 1)
    path = context.output("hard_negatives/items.npy")
    found = np.lib.format.open_memmap(path, mode="w+", dtype=np.int32, shape=(len(texts), width))
    found[:] = NO_ITEM
    count, first = np.zeros(len(texts), np.int32), np.zeros(len(pairs), np.int32)
    context.report(f"searching for {len(texts):,} queries, ranks {high} to {low} of {len(item_of_row):,} items")
    for start in range(0, len(texts), QUERIES_AT_A_TIME):
        asked, _, _ = searcher.encoder.encode(texts[start : start + QUERIES_AT_A_TIME])
        asked = asked.reshape(-1, searcher.encoder.heads, asked.shape[1])
        ranking = searcher.rank_routed(asked.reshape(-1, asked.shape[2]), depth)
        for number, (rows, scores) in enumerate(
            zip(ranking.rows[:, high - 1 :], ranking.scores[:, high - 1 :], strict=True)
        ):
            query = start + number
            own = pairs[bounds[query] : bounds[query + 1]]
            candidates = np.where(rows >= 0, item_of_row[rows], NO_ITEM)
            kept = (candidates >= 0) & ~np.isin(candidates, clicked.rows[own])
            count[query] = kept.sum()
            found[query, : count[query]] = candidates[kept]
            # From the best to the worst, so that a limit on the score is a place in the list.
            limits = _limits(searcher, asked[number], row_of_item[clicked.rows[own]], mining.margin)
            first[own] = np.searchsorted(-scores[kept], -limits)
    for name, array in {"count": count, "queries": queries.astype(np.int32), "first": first}.items():
        np.save(path.with_name(f"{name}.npy"), array)
    left = np.maximum(count[queries] - first, 0)
    return {
        "queries": float(len(texts)),
        "pairs": float(len(pairs)),
        "pairs_with_negatives": float((left > 0).sum()),
        "negatives_per_pair": float(left.mean()),
        "above_margin_per_pair": float(np.minimum(first, count[queries]).mean()),
    }


def _limits(searcher: Searcher, asked: np.ndarray, rows: np.ndarray, margin: float) -> np.ndarray:
    """Highest score of a negative for each of a query's clicked items, given their rows in the index: (K, 2D), (N,) → (N,)"""
    limits = np.full(len(rows), -np.inf, np.float32)
    scores = searcher.score(asked, rows[rows >= 0])
    # margin × score; where a score is below 0 that would be above it.
    limits[rows >= 0] = scores - (1 - margin) * np.abs(scores)
    return limits
