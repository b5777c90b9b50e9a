"""Stage evaluate: the model, the baselines, the champion, the anchors and an oracle answer the same held-out queries.

Output: `evaluation.json`, all figures with their intervals, and the table `query_results`, one row a model and query.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from smar_model.errors import InputError
from smar_model.evaluation.baselines import BM25
from smar_model.evaluation.diagnostics import hubness, measure_space
from smar_model.evaluation.evaluation_record import (
    Estimate,
    EvaluationRecord,
    Hubness,
    IntervalMethod,
    JudgedOracle,
    PictureConfidence,
    Routing,
    parse_evaluation,
    rivals_of,
)
from smar_model.evaluation.evaluation_set import EvaluationSet
from smar_model.evaluation.held_out import HeldOut, read_held_out
from smar_model.evaluation.incumbent import ClickedLists, judge_incumbent
from smar_model.evaluation.interleaved_lists import judge_interleaved_lists
from smar_model.evaluation.judged_models import (
    GRADED_METRICS,
    RECALL_DEPTHS,
    ModelResults,
    judge_model,
    summarise,
)
from smar_model.evaluation.picture_confidence import measure_picture_confidence
from smar_model.evaluation.rankers import find_rankers
from smar_model.evaluation.routing_quality import answer, flat_figures, routing_quality
from smar_model.evaluation.shown_lists import ShownLists, read_propensities, read_shown_lists
from smar_model.evaluation.shown_queries import show_queries
from smar_model.evaluation.significance import LEVEL, ClusterBootstrap
from smar_model.evaluation.terminal_table import METRIC_NAMES, SEGMENT_NAMES
from smar_model.lake.contracts import load_contract
from smar_model.retrieval.ranking import NO_ROW, Ranker
from smar_model.settings import Evaluation

if TYPE_CHECKING:
    from smar_model.lake.runs import Run
    from smar_model.lake.stage import StageContext

STORED_METRICS = ("recall_at_50", "recall_at_100", "mrr", *GRADED_METRICS)
"""Those that the table `query_results` holds for each query."""
PERMUTATIONS = 10_000
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


def run(context: StageContext) -> dict[str, float | str]:
    """Measure every model there is; see the module's docstring for what is written.

    Raises:
        InputError: there is nothing to evaluate, or an input does not fit the catalogue.
    """
    run = context.run
    held_out = read_held_out(context)
    queries, item_ids = held_out.queries, held_out.catalogue["item_id"].tolist()
    context.report(f"{len(queries.queries):,} queries, {len(set(queries.queries)):,} of them distinct")
    rankers, not_measured = find_rankers(context, held_out.catalogue, held_out.trained, queries.basis)
    shown_lists = context.table("extract-clicks", "shown_lists")
    lists = read_shown_lists(shown_lists, item_ids, run.evaluation_days)
    if lists is None:
        not_measured["incumbent"] = "as the log of the evaluation days shows no list of more than one place"
    evaluation, results = evaluate(
        rankers=rankers,
        queries=queries,
        item_ids=item_ids,
        settings=context.settings.evaluation,
        # `all` is the same as `overall`.
        further_segments={name: inside for name, inside in held_out.segments.items() if name != "all"},
        lists=lists,
        propensities=read_propensities(context.table("extract-clicks", "propensities")),
        report=context.report,
    )
    routing = _routing(context, held_out)
    embeddings, modality_gaps = measure_space(context, queries)
    whole = replace(
        evaluation,
        evaluation_days=[str(day) for day in run.evaluation_days],
        training_days=[str(run.training_days[0]), str(run.training_days[-1])],
        items=len(item_ids),
        training_clicks=int(held_out.trained["clicks"].sum()),
        rivals=rivals_of(run),
        not_measured=not_measured,
        oracle=_describe_oracle(run) if "oracle" in results else None,
        interleaving=judge_interleaved_lists(shown_lists),
        routing=routing,
        picture_confidence=_picture_confidence(context, held_out),
        embeddings=embeddings,
        modality_gaps=modality_gaps,
    )
    content = _rounded(asdict(whole))
    written = json.dumps(content, indent=1, ensure_ascii=False, default=date.isoformat)
    context.output("evaluation.json").write_text(written, encoding="utf-8")
    write_query_results(context.output("query_results"), queries, results, np.array(item_ids, dtype=object))
    return flat_metrics(parse_evaluation(content))


def _describe_oracle(run: Run) -> JudgedOracle:
    oracle = run.oracle
    assert oracle is not None
    age = run.cutoff - datetime.fromisoformat(oracle.cutoff)
    return JudgedOracle(run=oracle.run, truth=oracle.truth, cutoff=oracle.cutoff, age_days=age.days)


def _routing(context: StageContext, held_out: HeldOut) -> Routing | None:
    """What `routing_quality` finds; None of a model that does not route."""
    from smar_model.evaluation.bag_of_words import BagOfWords
    from smar_model.retrieval.item_embeddings import load_embeddings

    context.report("P(q): is it right, and does routing by it help?")
    queries, trained = held_out.queries, held_out.trained
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
        trained=set(trained.loc[trained["clicks"] > 0, "query"]),
        clicks=held_out.evaluated.groupby("query")["clicks"].sum(),
        bootstrap=ClusterBootstrap(queries.clusters, samples=settings.bootstrap_samples, seed=settings.seed),
    )


def _picture_confidence(context: StageContext, held_out: HeldOut) -> PictureConfidence | None:
    from smar_model.retrieval.item_embeddings import load_embeddings

    return measure_picture_confidence(
        load_embeddings(context.input("embed").folder), held_out.catalogue, held_out.wrong_pictures
    )


def evaluate(
    *,
    rankers: dict[str, Callable[[], Ranker]],
    queries: EvaluationSet,
    item_ids: list[str],
    settings: Evaluation,
    further_segments: dict[str, np.ndarray] | None = None,
    lists: ShownLists | None = None,
    propensities: np.ndarray | None = None,
    report: Callable[[str], None] = lambda message: None,
) -> tuple[EvaluationRecord, dict[str, ModelResults]]:
    """Let each ranker answer, judge the answers, compare the challenger with the others.

    Args:
        further_segments: name → (Q,) bool, beside those of `EvaluationSet.segments`.
        lists: what the incumbent showed.
        propensities: (K,) chance of a look at each place; None: all alike.

    Returns:
        The figures that need no more than answers, and each model's results.

    Raises:
        InputError: a ranker was made for another catalogue.
    """
    distinct, first, place = np.unique(queries.queries.astype(str), return_index=True, return_inverse=True)
    results, gains = {}, {}
    clicked = None
    if lists:
        theta = np.ones(1) if propensities is None else propensities
        clicked = ClickedLists.of(lists, theta, maximum=settings.maximum_queries, seed=settings.seed)
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
        if clicked:
            gains[name] = clicked.gains(ranker)
    report("bootstrap")
    segments = queries.segments() | (further_segments or {})
    bootstrap = ClusterBootstrap(queries.clusters, samples=settings.bootstrap_samples, seed=settings.seed)
    values = {name: result.values for name, result in results.items()}
    evaluation = EvaluationRecord(
        basis=queries.basis,
        measures=MEASURES[queries.basis],
        queries=len(queries.queries),
        distinct_queries=len(distinct),
        interval=IntervalMethod(level=LEVEL, method="bootstrap over clusters", samples=settings.bootstrap_samples),
        counts=queries.counts,
        mean_relevant_items=float(queries.graded.counts().mean()),
        permutations=PERMUTATIONS,
        **summarise(values, bootstrap, segments, permutations=PERMUTATIONS, seed=settings.seed),
        recovered=_recovered(bootstrap, results, segments),
        hubness={name: _hubness(result, queries, first, item_ids) for name, result in results.items()},
        baselines={"bm25": BM25.DESCRIPTION, "popularity": "clicks in the training days"},
        shown=show_queries(queries, results, item_ids, count=settings.shown_queries, seed=settings.seed),
        incumbent=judge_incumbent(
            lists, clicked, gains, queries, results, item_ids, settings=settings, permutations=PERMUTATIONS
        )
        if lists
        else None,
    )
    return evaluation, results


def _recovered(
    bootstrap: ClusterBootstrap, results: dict[str, ModelResults], segments: dict[str, np.ndarray]
) -> dict[str, Estimate] | None:
    """Segment → (model − text-only) / (oracle − text-only) of target Recall@50; None without an oracle or a text-only model."""
    if not {"challenger", "text_only", "oracle"} <= set(results):
        return None
    model, floor, oracle = (results[name].values["recall_at_50"] for name in ("challenger", "text_only", "oracle"))
    return {
        name: bootstrap.share(model - floor, oracle - floor, inside)
        for name, inside in segments.items()
        if inside.any()
    }


def _hubness(result: ModelResults, queries: EvaluationSet, first: np.ndarray, item_ids: list[str]) -> Hubness:
    """`hubness` of the answers to distinct queries. An item fits if it is wanted or relevant."""
    rows = result.ranking.rows
    fits = (queries.graded.grades_of(rows) > 0) | (queries.found.grades_of(rows) > 0)
    return hubness(rows[first], fits[first], item_ids=item_ids)


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


def flat_metrics(evaluation: EvaluationRecord) -> dict[str, float | str]:
    """The figures worth tracking from day to day, by flat names such as `challenger_overall_recall_at_50`.

    Of all models those of the first segments; of the others Recall@50 of the challenger alone.
    """
    flat: dict[str, float | str | None] = {"queries": evaluation.queries, "basis": evaluation.basis}
    tracked = (*METRIC_NAMES, "mrr", *(name for name in GRADED_METRICS if name not in METRIC_NAMES))
    for model, segments in evaluation.models.items():
        for segment in SEGMENT_NAMES:
            flat |= {f"{model}_{segment}_{metric}": segments[segment][metric].mean for metric in tracked}
    for segment in set(evaluation.segments) - set(SEGMENT_NAMES):
        flat[f"challenger_{_slug(segment)}_recall_at_50"] = evaluation.figure("challenger", segment, "recall_at_50")
    for other, differences in evaluation.differences.items():
        for segment in SEGMENT_NAMES:
            found = differences[segment]["recall_at_50"]
            flat |= {
                f"challenger_minus_{other}_{segment}_recall_at_50_{bound}": getattr(found, bound)
                for bound in ("mean", "low", "high", "p")
            }
    within = evaluation.incumbent.within_list if evaluation.incumbent else None
    if within:
        flat |= {f"order_within_lists_{model}": figure.mean for model, figure in within.models.items()}
    if evaluation.interleaving:
        shoppers = evaluation.interleaving.preference
        flat |= {"interleaving_preference": shoppers.preference, "interleaving_p": shoppers.corrected_p}
    flat |= flat_figures(evaluation.routing) if isinstance(evaluation.routing, Routing) else {}
    if evaluation.picture_confidence:
        flat |= {f"picture_confidence_{kind}": of.mean for kind, of in evaluation.picture_confidence.items.items()}
    for kind, health in evaluation.embeddings.items():
        flat |= {f"embedding_{kind}_{name}": value for name, value in health.items()}
    flat |= {f"gap_{_slug(name)}": value for name, value in evaluation.modality_gaps.items()}
    flat |= {f"hubness_{name}": getattr(evaluation.hubness["challenger"], name) for name in ("skewness", "never")}
    if recovered := evaluation.recovered:
        flat |= {f"recovered_{s}": recovered[s].mean for s in SEGMENT_NAMES if s in recovered}
    return {name: value for name, value in flat.items() if value is not None}


def _slug(name: str) -> str:
    return re.sub(r"\W+", "_", name.lower())


def _rounded(value: Any) -> Any:
    """Floats to six digits after the point, far below what the queries can tell apart, and no −0."""
    if isinstance(value, dict):
        return {name: _rounded(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return round(value, 6) + 0.0 if isinstance(value, float) else value
