"""Stages judge and judge-baselines: how one row of a comparison answers every query of the evaluation days.

Output: the table `comparison_results`, one row a model and query. A comparison keeps queries and items out of training
(`settings.segments.novel_bucket`); those and the ones that no training click has are novel. All items are searched.
Beside the log's queries stand synthetic ones for the items kept out, in a segment of their own: how far they foretell the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from smar_model.data.training_pairs import in_novel_bucket
from smar_model.errors import InputError
from smar_model.evaluation.baselines import BM25, Popularity, fuse_by_rank
from smar_model.evaluation.evaluation_set import EvaluationSet, synthetic_evaluation_set
from smar_model.evaluation.held_out import read_held_out
from smar_model.evaluation.incumbent import INCUMBENT
from smar_model.evaluation.metrics import f1, first_relevant_rank, ndcg, precision, recall, reciprocal_rank
from smar_model.evaluation.relevance import judge
from smar_model.evaluation.segments import NOVEL, SETS, TIERS, TITLES, UNSEEN_WORDS, WRONG_PICTURE
from smar_model.evaluation.shown_lists import ShownLists, read_shown_lists
from smar_model.lake.artifacts import Artifact
from smar_model.lake.contracts import load_contract
from smar_model.retrieval.ranking import NO_ROW, Ranking

if TYPE_CHECKING:
    from smar_model.lake.stage import StageContext

DEPTHS = (10, 50, 100)
MODEL, WITH_BM25 = "model", "model_with_bm25"
METRICS = tuple(
    f"{measure}_{name}"
    for measure in ("target", "graded")
    for name in (*(f"{m}_at_{k}" for m in ("recall", "precision", "f1") for k in DEPTHS), "ndcg_at_10", "mrr")
)
SHOWN_METRICS = ("graded_ndcg_at_10", "graded_precision_at_10")
"""What can be said of lists that an engine showed."""
SYNTHETIC = "synthetic_query_novel_item"
"""Of queries that nobody typed."""
ORDER = (
    *("all", *SETS, SYNTHETIC),
    *(f"query_{tier}" for tier in TIERS),
    *(NOVEL, UNSEEN_WORDS, "fashion", "not_fashion"),
    *(f"title_{kind}" for kind in TITLES),
    *("no_picture", "uninformative_picture", "informative_picture", WRONG_PICTURE, "right_picture"),
    *("also_synthetic", "not_synthetic"),
)
"""Segments as pages list them; departments come after. Rows are compared on NOVEL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What one model's rows of `comparison_results` say, Q queries in the order of their ids."""

    query_ids: np.ndarray
    clusters: np.ndarray
    segments: dict[str, np.ndarray]
    """Name → (Q,) bool."""
    values: dict[str, np.ndarray]
    """Metric → (Q,) float64."""


def run(context: StageContext) -> dict[str, float | str]:
    """Judge a trained model, alone and joined with BM25 by reciprocal rank fusion."""
    # torch is imported only where models are used: the command line must answer quickly.
    import torch

    from smar_model.retrieval.item_embeddings import load_embeddings
    from smar_model.retrieval.network_queries import DenseRanker
    from smar_model.retrieval.rerank import embed_images, rerank
    from smar_model.training.model_files import load_model

    torch.set_num_threads(context.settings.training.threads)
    folder = context.input("finetune").folder / "model"
    embeddings = load_embeddings(context.input("embed").folder)
    model = load_model(folder)
    ranker = DenseRanker(model, folder / "tokenizer.json", embeddings)

    def answers(catalogue: pd.DataFrame, clicks: pd.DataFrame, queries: list[str]) -> dict[str, Ranking]:
        if list(ranker.item_ids) != catalogue["item_id"].tolist():
            raise InputError("embed: made for other items than this run's catalogue; run embed again")
        dense = ranker.rank(queries, DEPTHS[-1])
        if model.variant.reranker:
            images = embed_images(model, embeddings.item_ids, context.table("prepare-items", "pictures"))
            dense = rerank(model, ranker.encoder, queries, dense, embeddings, images)
        fused = fuse_by_rank([dense, BM25(catalogue).rank(queries, DEPTHS[-1])], items=len(catalogue))
        return {MODEL: dense, WITH_BM25: fused}

    return _judge(context, answers)


def run_baselines(context: StageContext) -> dict[str, float | str]:
    """Judge what needs no training, and the lists that the log shows, where it has lists."""

    def answers(catalogue: pd.DataFrame, clicks: pd.DataFrame, queries: list[str]) -> dict[str, Ranking]:
        popularity = Popularity(catalogue["item_id"].tolist(), clicks)
        return {
            name: r.rank(queries, DEPTHS[-1]) for name, r in (("popularity", popularity), ("bm25", BM25(catalogue)))
        }

    return _judge(context, answers, context.table("extract-clicks", "shown_lists"))


def _judge(
    context: StageContext,
    answers: Callable[[pd.DataFrame, pd.DataFrame, list[str]], dict[str, Ranking]],
    list_files: Sequence[Path] = (),
) -> dict[str, float | str]:
    """`list_files`: of the table `shown_lists`, which is judged beside the answers."""
    settings, held_out = context.settings, read_held_out(context)
    catalogue, queries = held_out.catalogue, held_out.queries
    # All but these are of novel queries alone.
    whole = {"all", NOVEL, *SETS, *(f"query_{tier}" for tier in TIERS)}
    segments = {
        name: inside if name in whole else held_out.segments[NOVEL] & inside
        for name, inside in held_out.segments.items()
    }
    kept_out = in_novel_bucket("item", catalogue["item_id"].tolist(), settings.segments.novel_range)
    if queries.basis == "truth" and kept_out.any():
        synthetic = synthetic_evaluation_set(
            catalogue,
            np.flatnonzero(kept_out),
            visual_departments=settings.shop.visual_departments,
            seed=settings.evaluation.seed,
        )
        queries = queries.followed_by(synthetic)
        is_synthetic = np.arange(len(queries.queries)) >= len(segments["all"])
        segments = {
            **{name: np.append(inside, np.zeros(is_synthetic.sum(), dtype=bool)) for name, inside in segments.items()},
            SYNTHETIC: is_synthetic,
        }
    distinct, place = np.unique(queries.queries.astype(str), return_inverse=True)
    count = int(segments["all"].sum())
    context.report(f"{count:,} queries, {int(segments[NOVEL].sum()):,} of them novel")
    results = {
        name: measure(r.take(place), queries)
        for name, r in answers(catalogue, held_out.trained, distinct.tolist()).items()
    }
    everyone = np.ones(len(queries.queries), dtype=bool)
    for name, values in results.items():
        _write(context, queries, segments, everyone, name, values)
    lists = read_shown_lists(list_files, catalogue["item_id"].tolist(), context.run.evaluation_days)
    if lists is not None and queries.basis == "truth":
        _write(context, queries, segments, *_judge_lists(lists, queries))
    flat = {f"{name}_{m}": float(v[m][segments["all"]].mean()) for name, v in results.items() for m in METRICS}
    return {"basis": queries.basis, "queries": count, **queries.counts, **flat}


def measure(ranking: Ranking, queries: EvaluationSet) -> dict[str, np.ndarray]:
    """Every metric, (Q,) each: `target_…` looks for the wanted item, `graded_…` for all that fit (design, decision 9).

    Recall and F1 are of at most k relevant items, so that 1 can be reached. `target_rank` is 0 where not found.
    """
    values = {}
    for name, relevance in (("target", queries.found), ("graded", queries.graded)):
        judged = judge(ranking, relevance)
        for k in DEPTHS:
            values[f"{name}_recall_at_{k}"] = recall(judged, k, capped=True)
            values[f"{name}_precision_at_{k}"] = precision(judged, k)
            values[f"{name}_f1_at_{k}"] = f1(judged, k, capped=True)
        values[f"{name}_ndcg_at_10"] = ndcg(judged, 10)
        values[f"{name}_mrr"] = reciprocal_rank(judged)
        if name == "target":
            values["target_rank"] = np.where(queries.targets >= 0, first_relevant_rank(judged), 0)
    return values


def _judge_lists(lists: ShownLists, queries: EvaluationSet) -> tuple[np.ndarray, str, dict[str, np.ndarray]]:
    """Which queries (Q,) have a list that was shown, the incumbent's name, and its values of those: SHOWN_METRICS, NaN in all others.

    A wanted item that was clicked was in its list by construction, and lists are short.
    """
    numbers = pd.Index(queries.query_ids).get_indexer(lists.request_ids)
    shown = np.zeros(len(queries.queries), dtype=bool)
    shown[numbers[numbers >= 0]] = True
    rows = np.full((len(queries.queries), DEPTHS[-1]), NO_ROW, dtype=np.int32)
    rows[numbers[numbers >= 0], : lists.rows.shape[1]] = lists.rows[numbers >= 0]
    values = measure(Ranking(rows=rows, scores=np.zeros(rows.shape, dtype=np.float32)), queries)
    values = {m: v if m in SHOWN_METRICS else np.full(len(v), np.nan) for m, v in values.items()}
    return shown, INCUMBENT, values | {"target_rank": np.zeros(len(shown), dtype=np.int32)}


def _write(
    context: StageContext,
    queries: EvaluationSet,
    segments: dict[str, np.ndarray],
    answered: np.ndarray,
    model: str,
    values: dict[str, np.ndarray],
) -> None:
    """One model's file, of the queries (Q,) that it answered."""
    schema = load_contract("comparison_results").arrow_schema()
    names = np.array(list(segments), dtype=object)
    members = [names[row].tolist() for row in np.stack(list(segments.values()), axis=1)]
    columns = {
        "model": [model] * len(members),
        "query_id": queries.query_ids,
        "query": queries.queries,
        "cluster": queries.clusters,
        "segments": members,
        "target_rank": pa.array(values["target_rank"], pa.int32(), mask=values["target_rank"] == 0),
        **{metric: values[metric] for metric in METRICS},
    }
    table = pa.table(columns, schema=schema).filter(pa.array(answered))
    pq.write_table(table, context.output(f"comparison_results/{model}.parquet"))


def read_results(artifact: Artifact, model: str) -> Results:
    """What a judged row left.

    Raises:
        InputError: it judged no such model, or its files are damaged.
    """
    table = pq.read_table(artifact.file(f"comparison_results/{model}.parquet")).sort_by("query_id")
    counts = pa.compute.list_value_length(table["segments"]).to_numpy()
    names = table["segments"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    owners = np.repeat(np.arange(len(counts)), counts)
    segments = {}
    for name in dict.fromkeys(names):
        segments[name] = np.zeros(len(counts), dtype=bool)
        segments[name][owners[names == name]] = True
    return Results(
        query_ids=table["query_id"].to_numpy(),
        clusters=table["cluster"].to_numpy(),
        segments=segments,
        values={metric: table[metric].to_numpy() for metric in METRICS},
    )
