"""Stage evaluate: the model, the baselines, the champion, the anchors and an oracle answer the same held-out queries.

Output: `evaluation.json`, all figures with their intervals, and the table `query_results`, one row a model and query.

Two measures, never mixed (design, decision 9): *target* metrics ask whether the wanted item is found, *graded* ones whether what is
found fits the query. Recall divides by at most k relevant items, so that 1 can be reached; so do F1 and MAP.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from smar_model.data.catalogue import read_catalogue
from smar_model.errors import InputError
from smar_model.evaluation.baselines import BM25, Popularity
from smar_model.evaluation.diagnostics import alignment, embedding_health, gap, hubness, near_duplicates
from smar_model.evaluation.evaluation_set import EvaluationSet, build_evaluation_set
from smar_model.evaluation.metrics import (
    average_precision,
    f1,
    first_relevant_rank,
    ndcg,
    precision,
    recall,
    reciprocal_rank,
)
from smar_model.evaluation.oracle import VISIBLE, reveal_truth
from smar_model.evaluation.relevance import Relevance, judge
from smar_model.evaluation.routing_quality import answer, encode_texts, flat_figures, routing_quality
from smar_model.evaluation.segments import query_segments
from smar_model.evaluation.shown_queries import choose_shown_queries
from smar_model.evaluation.significance import LEVEL, ClusterBootstrap, compare_by_segment
from smar_model.evaluation.terminal_table import METRIC_NAMES, SEGMENT_NAMES, format_table
from smar_model.lake.contracts import load_contract
from smar_model.lake.release_copies import released_folder
from smar_model.retrieval.ranking import NO_ROW, Ranker, Ranking
from smar_model.settings import Evaluation as EvaluationSettings

if TYPE_CHECKING:
    from smar_model.lake.stage import StageContext

__all__ = ["evaluate", "format_table", "run"]

RECALL_DEPTHS = (1, 5, 10, 20, 50, 100)
TARGET_METRICS = (*(f"recall_at_{k}" for k in RECALL_DEPTHS), "mrr")
GRADED_METRICS = (
    *("ndcg_at_10", "precision_at_10", "precision_at_50", "graded_recall_at_50", "graded_f1_at_50"),
    "graded_map_at_100",
)
COMPARED_METRICS = ("recall_at_50", "ndcg_at_10", "precision_at_50")
"""Precision beside recall: the two can be traded for each other."""
STORED_METRICS = ("recall_at_50", "recall_at_100", "mrr", *GRADED_METRICS)
"""Those that the table `query_results` holds for each query."""
_NO_RIVAL = {
    "champion": "as there was no release before this run or it is this very model",
    "best_release": "as none of the 28 days before was better than the champion",
    "cold_start": "as none of the 28 days before is another model than the champion",
}
PERMUTATIONS = 10_000
TOP_ITEMS = 10
MOST_PAIRS, MOST_ITEMS = 10_000, 50_000
"""Pairs of queries and wanted items, and items, by which the space of the embeddings is judged."""
MEASURES = {
    "truth": {
        "found": "share of requests whose wanted item (the one that the simulated shopper had in mind) is found",
        "graded": "relevant are all items whose true attributes match everything that the query names",
    },
    "clicks": {
        "found": "share of the clicked items that are found, of at most as many as the list is long",
        "graded": "grades are people's judgments where there are some, else 2 for an ordered item, 1 for a clicked one",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelResults:
    """One model's answers, judged."""

    values: dict[str, np.ndarray]
    """Metric → (Q,) float64."""
    target_rank: np.ndarray
    """(Q,) int32; 0 where the target was not found or is unknown."""
    ranking: Ranking
    """To depth TOP_ITEMS."""


def run(context: StageContext) -> dict[str, Any]:
    """Measure every model there is; see the module's docstring for what is written.

    Raises:
        InputError: there is nothing to evaluate, or an input does not fit the catalogue.
    """
    settings = context.settings
    catalogue = read_catalogue(context.table("prepare-items", "catalogue"))
    clicks_files = context.table("extract-clicks", "clicks")
    evaluated_clicks = _read_clicks(clicks_files, context.run.evaluation_days)
    queries = build_evaluation_set(
        shop=context.shop,
        days=context.run.evaluation_days,
        clicks=evaluated_clicks,
        catalogue=catalogue,
        visual_departments=settings.shop.visual_departments,
        maximum_queries=settings.evaluation.maximum_queries,
        seed=settings.evaluation.seed,
    )
    context.report(f"{len(queries.queries):,} queries, {len(set(queries.queries)):,} of them distinct")
    training_clicks = _read_clicks(clicks_files, context.run.training_days)
    segments = query_segments(
        queries,
        catalogue=catalogue,
        trained=training_clicks,
        cutoff=context.run.cutoff,
        novel_bucket=settings.segments.novel_bucket,
        files=context.table("assign-segments", "segments"),
    )
    rankers, not_measured = _rankers(context, catalogue, training_clicks, queries.basis)
    evaluation, results = evaluate(
        rankers=rankers,
        queries=queries,
        item_ids=catalogue["item_id"].tolist(),
        settings=settings.evaluation,
        # `all` is the same as `overall`.
        further_segments={name: inside for name, inside in segments.items() if name != "all"},
        report=context.report,
    )
    evaluation |= {
        "evaluation_days": [str(day) for day in context.run.evaluation_days],
        "training_days": [str(context.run.training_days[0]), str(context.run.training_days[-1])],
        "items": len(catalogue),
        "training_clicks": int(training_clicks["clicks"].sum()),
        "rivals": {
            name: {part: rival.get(part) for part in ("version", "run", "cutoff")}
            for name, rival in context.run.rivals().items()
        },
        "not_measured": not_measured,
        "oracle": _describe_oracle(context) if "oracle" in results else None,
        "routing": _routing(context, queries, evaluated_clicks, training_clicks),
        **_embeddings(context, queries),
    }
    evaluation = _rounded(evaluation)
    context.output("evaluation.json").write_text(json.dumps(evaluation, indent=1, ensure_ascii=False), encoding="utf-8")
    write_query_results(context.output("query_results"), queries, results, catalogue["item_id"].to_numpy(object))
    return flat_metrics(evaluation)


def _read_clicks(files: Sequence[Path], days: Sequence[date]) -> pd.DataFrame:
    columns = ["day", "query", "item_id", "clicks", "orders"]
    if not files:
        return pd.DataFrame(columns=columns)
    dataset = ds.dataset([str(f) for f in files])
    return dataset.to_table(columns=columns, filter=ds.field("day").isin(list(days))).to_pandas()


def _rankers(
    context: StageContext, catalogue: pd.DataFrame, training_clicks: pd.DataFrame, basis: str
) -> tuple[dict[str, Callable[[], Ranker]], dict[str, str]]:
    """Name → how to make the ranker, and name → why there is none. Made one at a time: models are large."""
    # torch and FAISS are imported only where models are used: `format_table` must come quickly.
    from smar_model.network.model import load_model
    from smar_model.retrieval.embed import embed_catalogue
    from smar_model.retrieval.search import DenseRanker, Searcher

    catalogue_files = context.table("prepare-items", "catalogue")
    picture_files = context.table("prepare-items", "pictures")

    def dense(folder: Path, files: Sequence[Path] = catalogue_files) -> Ranker:
        """Embeds today's catalogue with a model and searches it exactly."""
        model, tokenizer = load_model(folder), folder / "tokenizer.json"
        return DenseRanker(model, tokenizer, embed_catalogue(model, tokenizer, files, picture_files))

    rankers: dict[str, Callable[[], Ranker]] = {
        "popularity": lambda: Popularity(catalogue["item_id"].tolist(), training_clicks),
        "bm25": lambda: BM25(catalogue),
        # What would be released: the index as it is served, its approximation included.
        "challenger": lambda: Searcher.load(context.input("finetune").folder / "model", context.input("index").folder),
    }
    not_measured = {}
    if text_only := context.inputs.get("train-text-only"):
        rankers["text_only"] = lambda: dense(text_only.folder / "model")
    else:
        not_measured["text_only"] = "as train-text-only has no finished output in this run"
    rivals = context.run.rivals()
    for name, why in _NO_RIVAL.items():
        if name in rivals:
            rankers[name] = partial(dense, released_folder(context.run, rivals[name], "model"))
        else:
            not_measured[name] = why
    if basis != "truth":
        not_measured["oracle"] = "as the shop has no truth to tell it"
    elif oracle := context.run.oracle:
        rankers["oracle"] = lambda: _told(dense, oracle, context)
    else:
        not_measured["oracle"] = (
            "as no oracle was trained on this shop's days up to this run's (smar train-oracle trains one)"
        )
    return rankers, not_measured


def _told(dense: Callable[..., Ranker], oracle: dict[str, Any], context: StageContext) -> Ranker:
    """The oracle over today's catalogue, told today's truth."""
    truth = context.shop.truth_items()
    assert truth is not None
    with tempfile.TemporaryDirectory(dir=context.folder, prefix=".oracle-") as folder:
        file = Path(folder) / "catalogue.parquet"
        names = VISIBLE if oracle["truth"] == "visible" else None
        reveal_truth(context.table("prepare-items", "catalogue"), truth, names, file)
        return dense(released_folder(context.run, oracle, "model"), [file])


def _describe_oracle(context: StageContext) -> dict[str, Any]:
    oracle = context.run.oracle
    assert oracle is not None
    age = context.run.cutoff - datetime.fromisoformat(oracle["cutoff"])
    return {name: oracle[name] for name in ("run", "truth", "cutoff")} | {"age_days": age.days}


def _routing(
    context: StageContext, queries: EvaluationSet, evaluated_clicks: pd.DataFrame, training_clicks: pd.DataFrame
) -> dict[str, Any] | None:
    """What `routing_quality` finds; None of a model that does not route."""
    from smar_model.evaluation.bag_of_words import BagOfWords
    from smar_model.retrieval.embed import load_embeddings

    context.report("P(q): is it right, and does routing by it help?")
    embeddings = load_embeddings(context.input("embed").folder)
    answers = answer(context.input("finetune").folder / "model", embeddings, queries)
    if answers is None:
        return None
    files = [str(f) for f in context.table("label-fashion", "fashion_labels")]
    labels = ds.dataset(files).to_table(columns=["query", "is_visual"]).to_pandas().dropna()
    settings = context.settings.evaluation
    return routing_quality(
        answers,
        queries,
        bag=BagOfWords.learn(labels["query"].tolist(), labels["is_visual"].to_numpy(bool), seed=settings.seed),
        trained=set(training_clicks.loc[training_clicks["clicks"] > 0, "query"]),
        clicks=evaluated_clicks.groupby("query")["clicks"].sum(),
        bootstrap=ClusterBootstrap(queries.clusters, samples=settings.bootstrap_samples, seed=settings.seed),
    )


def _embeddings(context: StageContext, queries: EvaluationSet) -> dict[str, dict[str, Any]]:
    """`embeddings`: kind → figures, and `modality_gaps`: the distance between the centres of two kinds."""
    from smar_model.network.model import load_model
    from smar_model.retrieval.embed import load_embeddings

    context.report("health of the embeddings")
    embeddings = load_embeddings(context.input("embed").folder)
    seed = context.settings.evaluation.seed
    vectors = {"text": embeddings.text, "multimodal": embeddings.multimodal}
    drawn = np.sort(np.random.default_rng(seed).permutation(len(embeddings.item_ids))[:MOST_ITEMS])
    health: dict[str, dict[str, float]] = {
        name: embedding_health(v[drawn], seed=seed) | {"near_duplicates": near_duplicates(v, seed=seed)}
        for name, v in vectors.items()
    }
    gaps = {"text to multimodal": gap(embeddings.text[drawn], embeddings.multimodal[drawn])}
    folder = context.input("finetune").folder / "model"
    distinct, place = np.unique(queries.queries.astype(str), return_inverse=True)
    asked, _ = encode_texts(load_model(folder), folder / "tokenizer.json", distinct.tolist())
    if asked.ndim == 2:  # of several heads none is the query
        health["queries"] = embedding_health(asked, seed=seed)
        wanting, wanted = _wanted_pairs(queries.found, seed=seed)
        for name, v in vectors.items():
            health[name]["alignment"] = alignment(asked[place[wanting]], v[wanted])
            gaps[f"queries to {name}"] = gap(asked, v[drawn])
    return {"embeddings": health, "modality_gaps": gaps}


def _wanted_pairs(relevance: Relevance, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Queries' numbers and rows of items wanted for them, at most MOST_PAIRS."""
    counts = relevance.counts()
    numbers = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(numbers)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = relevance.rows[np.repeat(relevance.starts[relevance.set_of_query], counts) + within]
    drawn = np.random.default_rng(seed).permutation(len(rows))[:MOST_PAIRS]
    return numbers[drawn], rows[drawn]


def evaluate(
    *,
    rankers: dict[str, Callable[[], Ranker]],
    queries: EvaluationSet,
    item_ids: list[str],
    settings: EvaluationSettings,
    further_segments: dict[str, np.ndarray] | None = None,
    report: Callable[[str], None] = lambda message: None,
) -> tuple[dict[str, Any], dict[str, ModelResults]]:
    """Let each ranker answer, judge the answers, compare the challenger with the others.

    Args:
        further_segments: name → (Q,) bool, beside those of `EvaluationSet.segments`.

    Returns:
        The figures as `evaluation.json` has them, and each model's results.

    Raises:
        InputError: a ranker was made for another catalogue.
    """
    distinct, first, place = np.unique(queries.queries.astype(str), return_index=True, return_inverse=True)
    results = {}
    for name, make in rankers.items():
        report(f"{name} answers {len(distinct):,} distinct queries")
        ranker = make()
        if list(ranker.item_ids) != item_ids:
            raise InputError(
                f"{name}: made for {len(ranker.item_ids)} items that are not the {len(item_ids)} of this run's "
                "catalogue; run embed and index again"
            )
        # Recall@100 is always reported, however shallow the setting.
        ranking = ranker.rank(distinct.tolist(), max(settings.depth, RECALL_DEPTHS[-1]))
        results[name] = judge_model(ranking.take(place), queries)
    report("bootstrap")
    segments = queries.segments() | (further_segments or {})
    bootstrap = ClusterBootstrap(queries.clusters, samples=settings.bootstrap_samples, seed=settings.seed)
    values = {name: result.values for name, result in results.items()}
    evaluation = {
        "basis": queries.basis,
        "measures": MEASURES[queries.basis],
        "queries": len(queries.queries),
        "distinct_queries": len(distinct),
        "interval": {"level": LEVEL, "method": "bootstrap over clusters", "samples": settings.bootstrap_samples},
        "counts": queries.counts,
        "mean_relevant_items": float(queries.graded.counts().mean()),
        "permutations": PERMUTATIONS,
        **summarise(values, bootstrap, segments, permutations=PERMUTATIONS, seed=settings.seed),
        "recovered": _recovered(bootstrap, results, segments),
        "hubness": {name: _hubness(result, queries, first, item_ids) for name, result in results.items()},
        "baselines": {"bm25": BM25.DESCRIPTION, "popularity": "clicks in the training days"},
        "shown": _shown(queries, results, item_ids, settings),
    }
    return evaluation, results


def judge_model(ranking: Ranking, queries: EvaluationSet) -> ModelResults:
    """Every metric of one model; TARGET_METRICS over `queries.found`, GRADED_METRICS over `queries.graded`."""
    found, graded = judge(ranking, queries.found), judge(ranking, queries.graded)
    values = {f"recall_at_{k}": recall(found, k, capped=True) for k in RECALL_DEPTHS} | {
        "mrr": reciprocal_rank(found),
        "ndcg_at_10": ndcg(graded, 10),
        "precision_at_10": precision(graded, 10),
        "precision_at_50": precision(graded, 50),
        "graded_recall_at_50": recall(graded, 50, capped=True),
        "graded_f1_at_50": f1(graded, 50, capped=True),
        "graded_map_at_100": average_precision(graded, 100, capped=True),
    }
    return ModelResults(
        values=values,
        target_rank=np.where(queries.targets >= 0, first_relevant_rank(found), 0).astype(np.int32),
        ranking=Ranking(rows=ranking.rows[:, :TOP_ITEMS], scores=ranking.scores[:, :TOP_ITEMS]),
    )


def summarise(
    values: dict[str, dict[str, np.ndarray]],
    bootstrap: ClusterBootstrap,
    segments: dict[str, np.ndarray],
    *,
    permutations: int,
    seed: int,
) -> dict[str, Any]:
    """Figures of all models by segment, and how the challenger differs from each other one, as `evaluation.json` has them.

    Args:
        values: model → metric → (Q,).
        segments: name → (Q,) bool, all queries first.
    """
    return {
        "clusters": bootstrap.clusters,
        "segments": {name: int(inside.sum()) for name, inside in segments.items()},
        "segment_clusters": {name: len(np.unique(bootstrap.cluster[inside])) for name, inside in segments.items()},
        "models": {name: _estimates(bootstrap, of_model, segments) for name, of_model in values.items()},
        "differences": _differences(bootstrap, values, segments, permutations=permutations, seed=seed),
    }


def _estimates(
    bootstrap: ClusterBootstrap, values: dict[str, np.ndarray], segments: dict[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    estimates = bootstrap.estimate_segments(np.stack(list(values.values()), axis=1), segments)
    return {
        segment: {metric: asdict(estimate) for metric, estimate in zip(values, found, strict=True)}
        for segment, found in estimates.items()
    }


def _differences(
    bootstrap: ClusterBootstrap,
    values: dict[str, dict[str, np.ndarray]],
    segments: dict[str, np.ndarray],
    *,
    permutations: int,
    seed: int,
) -> dict[str, Any]:
    """Challenger minus each other model: other → segment → metric → what `compare_by_segment` finds."""
    if "challenger" not in values:
        return {}
    columns = {name: np.stack([of_model[m] for m in COMPARED_METRICS], axis=1) for name, of_model in values.items()}
    differences: dict[str, Any] = {}
    for other in sorted(set(values) - {"challenger"}):
        compared = compare_by_segment(
            bootstrap, columns["challenger"], columns[other], segments, permutations=permutations, seed=seed
        )
        differences[other] = {
            segment: dict(zip(COMPARED_METRICS, found, strict=True)) for segment, found in compared.items()
        }
    return differences


def _recovered(
    bootstrap: ClusterBootstrap, results: dict[str, ModelResults], segments: dict[str, np.ndarray]
) -> dict[str, Any] | None:
    """Segment → (model − text-only) / (oracle − text-only) of target Recall@50; None without an oracle or a text-only model."""
    if not {"challenger", "text_only", "oracle"} <= set(results):
        return None
    model, floor, oracle = (results[name].values["recall_at_50"] for name in ("challenger", "text_only", "oracle"))
    return {
        name: asdict(bootstrap.share(model - floor, oracle - floor, inside))
        for name, inside in segments.items()
        if inside.any()
    }


def _hubness(result: ModelResults, queries: EvaluationSet, first: np.ndarray, item_ids: list[str]) -> dict[str, Any]:
    """`hubness` of the answers to distinct queries, items by their ids. An item fits if it is wanted or relevant."""
    rows = result.ranking.rows
    fits = (queries.graded.grades_of(rows) > 0) | (queries.found.grades_of(rows) > 0)
    found = hubness(rows[first], fits[first], items=len(item_ids))
    return found | {"worst": [entry | {"item_id": item_ids[entry.pop("row")]} for entry in found["worst"]]}


def _shown(
    queries: EvaluationSet, results: dict[str, ModelResults], item_ids: list[str], settings: EvaluationSettings
) -> dict[str, Any]:
    """Queries for the report, answered by the challenger, the champion and the text-only model (without it by BM25).

    Gains and losses are over `beside`: the champion, as that is what would be replaced, else text-only, else BM25.
    """
    others = [name for name in ("text_only" if "text_only" in results else "bm25", "champion") if name in results]
    if not others or "challenger" not in results:
        return {"beside": None, "queries": []}
    beside = others[-1]
    models = {name: results[name] for name in (*others, "challenger")}
    # Both measures at once: where the wanted item stands, and how good the first ten are.
    merit = {name: r.values["mrr"] + r.values["ndcg_at_10"] for name, r in models.items()}
    chosen = choose_shown_queries(
        queries=queries.queries,
        is_visual=queries.is_visual,
        gain=merit["challenger"] - merit[beside],
        count=settings.shown_queries,
        seed=settings.seed,
    )
    grades = {
        name: (queries.graded.grades_of(r.ranking.rows), queries.found.grades_of(r.ranking.rows))
        for name, r in models.items()
    }
    shown = []
    for entry in chosen:
        n = entry.number
        answers = {
            name: [
                {"item_id": item_ids[row], "grade": float(graded), "wanted": bool(wanted)}
                for row, graded, wanted in zip(r.ranking.rows[n], grades[name][0][n], grades[name][1][n], strict=True)
                if row != NO_ROW
            ]
            for name, r in models.items()
        }
        target = int(queries.targets[n])
        shown.append(
            {
                "query": str(queries.queries[n]),
                "reason": entry.reason,
                "is_visual": bool(queries.is_visual[n]),
                "target": item_ids[target] if target >= 0 else None,
                "target_rank": {name: int(r.target_rank[n]) or None for name, r in models.items()},
                "answers": answers,
            }
        )
    return {"beside": beside, "queries": shown}


def write_query_results(
    folder: Path, queries: EvaluationSet, results: dict[str, ModelResults], item_ids: np.ndarray
) -> None:
    """Write the table `query_results`, one file a model."""
    schema = load_contract("query_results").arrow_schema()
    folder.mkdir(parents=True)
    for name, result in results.items():
        columns = {
            "model": [name] * len(queries.queries),
            "query_id": queries.query_ids,
            "query": queries.queries,
            "cluster": queries.clusters,
            "is_visual": queries.is_visual,
            "target_rank": pa.array(result.target_rank, mask=result.target_rank == 0),
            **{name: result.values[name] for name in STORED_METRICS},
            "top_items": [item_ids[rows[rows != NO_ROW]].tolist() for rows in result.ranking.rows],
        }
        pq.write_table(pa.table(columns, schema=schema), folder / f"{name}.parquet")


def flat_metrics(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The figures worth tracking from day to day, by flat names such as `challenger_overall_recall_at_50`.

    Of all models those of the first segments; of the others Recall@50 of the challenger alone.
    """
    flat: dict[str, Any] = {"queries": evaluation["queries"], "basis": evaluation["basis"]}
    tracked = (*METRIC_NAMES, "mrr", *(name for name in GRADED_METRICS if name not in METRIC_NAMES))
    for model, segments in evaluation["models"].items():
        for segment in SEGMENT_NAMES:
            flat |= {f"{model}_{segment}_{metric}": segments[segment][metric]["mean"] for metric in tracked}
    for segment in set(evaluation["segments"]) - set(SEGMENT_NAMES):
        flat[f"challenger_{_slug(segment)}_recall_at_50"] = evaluation["models"]["challenger"][segment]["recall_at_50"][
            "mean"
        ]
    for other, segments in evaluation["differences"].items():
        for segment in SEGMENT_NAMES:
            for bound in ("mean", "low", "high", "p"):
                name = f"challenger_minus_{other}_{segment}_recall_at_50_{bound}"
                flat[name] = segments[segment]["recall_at_50"][bound]
    flat |= flat_figures(evaluation["routing"]) if evaluation["routing"] else {}
    for kind, health in evaluation["embeddings"].items():
        flat |= {f"embedding_{kind}_{name}": value for name, value in health.items()}
    flat |= {f"gap_{_slug(name)}": value for name, value in evaluation["modality_gaps"].items()}
    flat |= {f"hubness_{name}": evaluation["hubness"]["challenger"][name] for name in ("skewness", "never")}
    if evaluation["recovered"]:
        flat |= {f"recovered_{s}": evaluation["recovered"].get(s, {}).get("mean") for s in SEGMENT_NAMES}
    return {name: value for name, value in flat.items() if value is not None}


def _slug(name: str) -> str:
    return re.sub(r"\W+", "_", name.lower())


def _rounded(value: Any) -> Any:
    """Floats to six digits after the point, far below what the queries can tell apart, and no −0."""
    if isinstance(value, dict):
        return {name: _rounded(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return round(value, 6) + 0.0 if isinstance(value, float) else value
