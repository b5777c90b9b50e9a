"""Whether P(q) is right, and whether routing by it helps, on the queries of the evaluation days.

Right: the area under the ROC curve for visual departments against each other one, beside that of a bag of words which learned
from the same labels; how far P(q) is from the share that it promises, before and after calibration.

Helps: the same embeddings, searched exactly, answer every query by S_t alone, by S_m alone, by hard and by soft routing. All is
measured on all queries and on those without a training click, which the model was not fine-tuned on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from smar_model.evaluation.evaluation_record import (
    Areas,
    Comparison,
    LearnedBag,
    PicturesHelped,
    Population,
    Reliability,
    ReliabilityBin,
    Routing,
    RoutingHelp,
)
from smar_model.evaluation.evaluation_set import EvaluationSet
from smar_model.evaluation.metrics import reciprocal_rank
from smar_model.evaluation.relevance import judge
from smar_model.evaluation.significance import ClusterBootstrap, compare
from smar_model.retrieval.ranking import Ranking, concatenate_rankings, rank_scores

if TYPE_CHECKING:
    import torch

    from smar_model.evaluation.bag_of_words import BagOfWords
    from smar_model.network.model import RetrievalModel
    from smar_model.retrieval.item_embeddings import ItemEmbeddings

BINS = 15
DRAWN_BINS = 10
MOST_DEPARTMENTS = 10
"""So many of the largest are listed."""
DEPTH = 100
"""The reciprocal rank of an item further down is 0."""
QUERIES_AT_A_TIME = 128
COMPARISONS = (
    *(("multimodal", "text"), ("hard", "text"), ("hard", "multimodal")),
    *(("soft", "text"), ("soft", "multimodal")),
)
"""Ways to answer, each against another."""
MINIMUM_CLICKS = 5
MARGIN = 0.01
"""Of reciprocal ranks: one place at rank ten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What a model makes of the evaluation's Q queries."""

    routing: str
    temperature: float
    """Of the header."""
    probability: np.ndarray
    """(Q,) P(q)."""
    uncalibrated: np.ndarray
    """(Q,)"""
    reciprocal_ranks: dict[str, np.ndarray]
    """text, multimodal, hard, soft → (Q,)"""


def answer(model_folder: Path, embeddings: ItemEmbeddings, queries: EvaluationSet) -> Answers | None:
    """Let a model answer in all four ways; None if it does not route.

    `soft` is by the share that the model itself routes by if it does so softly, else by P(q).
    """
    # torch is imported only where models are used: the command line must answer quickly.
    import torch

    from smar_model.training.model_files import load_model

    model = load_model(model_folder)
    routing = model.variant.routing
    if routing == "none":
        return None
    distinct, place = np.unique(queries.queries.astype(str), return_inverse=True)
    asked, logits = encode_texts(model, model_folder / "tokenizer.json", distinct.tolist())
    with torch.inference_mode():
        probability, uncalibrated = model.probability(logits).numpy(), logits.sigmoid().numpy()
        soft = model.route(logits).numpy() if routing == "soft" else probability
    shares = {
        "text": np.zeros_like(soft),
        "multimodal": np.ones_like(soft),
        "hard": (probability >= 0.5).astype(np.float32),
        "soft": soft,
    }
    rankings = rank_by_shares(asked, embeddings, shares)
    return Answers(
        routing=routing,
        temperature=model.header_temperature.item(),
        probability=probability[place],
        uncalibrated=uncalibrated[place],
        reciprocal_ranks={
            way: reciprocal_rank(judge(ranking.take(place), queries.found)) for way, ranking in rankings.items()
        },
    )


def encode_texts(model: RetrievalModel, tokenizer_file: Path, texts: Sequence[str]) -> tuple[np.ndarray, torch.Tensor]:
    """Embeddings of queries, (B, D) or of K heads (B, K, D), and the header's logits, (B,)."""
    import torch

    from smar_model.data.text_tokens import encode_queries, load_numbers, load_tokenizer

    tokenizer, numbers = load_tokenizer(tokenizer_file), load_numbers(tokenizer_file)
    ids = torch.from_numpy(encode_queries(tokenizer, texts, model.shape.query_length, numbers))
    with torch.inference_mode():
        parts = [model.encode_queries(part) for part in ids.split(QUERIES_AT_A_TIME)]
        embeddings, logits = (torch.cat(column) for column in zip(*parts, strict=True))
    return embeddings.numpy(), logits


def rank_by_shares(asked: np.ndarray, embeddings: ItemEmbeddings, shares: dict[str, np.ndarray]) -> dict[str, Ranking]:
    """Exact rankings by Q·S_t + share·Q·(S_m − S_t): queries (B, D), name → shares (B,), to name → results to DEPTH."""
    parts: dict[str, list[Ranking]] = {name: [] for name in shares}
    for start in range(0, len(asked), QUERIES_AT_A_TIME):
        rows = slice(start, start + QUERIES_AT_A_TIME)
        by_text = asked[rows] @ embeddings.text.T
        gain = asked[rows] @ embeddings.multimodal.T - by_text
        for name, share in shares.items():
            parts[name].append(rank_scores(by_text + share[rows, None] * gain, DEPTH))
    return {name: concatenate_rankings(part) for name, part in parts.items()}


def routing_quality(
    answers: Answers,
    queries: EvaluationSet,
    *,
    bag: BagOfWords | None,
    trained: set[str],
    clicks: pd.Series,
    bootstrap: ClusterBootstrap,
) -> Routing:
    """All figures, as `evaluation.json` has them under `routing`.

    Args:
        bag: None: there were too few labels for one.
        trained: queries with training clicks.
        clicks: of the evaluation days, by query.
    """
    texts = queries.queries.astype(str)
    by_words = bag.probability(texts.tolist()) if bag else None
    populations = {"all": np.ones(len(texts), dtype=bool), "novel": ~np.isin(texts, sorted(trained))}
    return Routing(
        routing=answers.routing,
        temperature=answers.temperature,
        bins=BINS,
        margin=MARGIN,
        minimum_clicks=MINIMUM_CLICKS,
        bag_of_words=LearnedBag(setting=bag.setting, labels=bag.labels) if bag else None,
        reliability=Reliability(
            before=reliability(answers.uncalibrated, queries.is_visual),
            after=reliability(answers.probability, queries.is_visual),
        ),
        populations={
            name: _population(answers, queries, by_words, clicks, bootstrap, inside)
            for name, inside in populations.items()
        },
    )


def _population(
    answers: Answers,
    queries: EvaluationSet,
    by_words: np.ndarray | None,
    clicks: pd.Series,
    bootstrap: ClusterBootstrap,
    inside: np.ndarray,
) -> Population:
    visual, p = queries.is_visual, answers.probability

    def areas(among: np.ndarray) -> Areas:
        return Areas(
            queries=int(among.sum()),
            others=int((among & ~visual).sum()),
            auc=area_under_curve(p[among], visual[among]),
            bag_of_words_auc=None if by_words is None else area_under_curve(by_words[among], visual[among]),
        )

    helped = answers.reciprocal_ranks["multimodal"] - answers.reciprocal_ranks["text"]
    told = inside & (np.abs(helped) >= MARGIN)
    return Population(
        **asdict(areas(inside)),
        accuracy=float(((p >= 0.5) == visual)[inside].mean()) if inside.any() else None,
        calibration_error=calibration_error(p[inside], visual[inside]),
        calibration_error_before=calibration_error(answers.uncalibrated[inside], visual[inside]),
        auc_of_help=area_under_curve(p[told], helped[told] > 0),
        against={
            department: areas(inside & (visual | (queries.departments == department)))
            for department in _departments(queries, ~visual)
        },
        segments={
            segment: _routing_help(answers, queries, clicks, bootstrap, inside & part)
            for segment, part in _segments(queries)
        },
    )


def area_under_curve(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Probability that a positive scores above a negative, ties counted half; None where one kind is missing."""
    return float(roc_auc_score(positive, scores)) if len(np.unique(positive)) > 1 else None


def calibration_error(probability: np.ndarray, is_visual: np.ndarray, *, bins: int = BINS) -> float | None:
    """Mean distance of P(q) from the share of visual queries, over bins, weighted by queries (Naeini et al. 2015).

    Bins of equal mass, but equal P(q) share one. Of no query: None.

    Args:
        probability: (Q,)
        is_visual: (Q,) bool
    """
    if not len(probability):
        return None
    edges = np.sort(probability)[len(probability) * np.arange(1, bins) // bins]
    bin_of = np.searchsorted(edges, probability, side="right")
    gaps = np.bincount(bin_of, probability - is_visual.astype(np.float64))
    return float(np.abs(gaps).sum() / len(probability))


def reliability(probability: np.ndarray, is_visual: np.ndarray) -> list[ReliabilityBin]:
    """The reliability curve: DRAWN_BINS bins of equal width, those without queries left out."""
    bin_of = np.minimum((probability * DRAWN_BINS).astype(int), DRAWN_BINS - 1)
    return [
        ReliabilityBin(
            low=float(number / DRAWN_BINS),
            high=float((number + 1) / DRAWN_BINS),
            queries=int((bin_of == number).sum()),
            mean_probability=float(probability[bin_of == number].mean()),
            visual_share=float(is_visual[bin_of == number].mean()),
        )
        for number in np.unique(bin_of)
    ]


def _routing_help(
    answers: Answers, queries: EvaluationSet, clicks: pd.Series, bootstrap: ClusterBootstrap, inside: np.ndarray
) -> RoutingHelp:
    """How often each way puts the wanted item higher than another does, and the diagnostic by distinct query."""
    ranks, count = answers.reciprocal_ranks, int(inside.sum())
    comparisons = {}
    for way, other in COMPARISONS:
        paired = compare(bootstrap, ranks[way], ranks[other], inside)
        helped, same, hurt = (number / count if count else None for number in (paired.wins, paired.ties, paired.losses))
        comparisons[f"{way}_over_{other}"] = Comparison(
            **asdict(paired.difference), helped=helped, same=same, hurt=hurt
        )
    return RoutingHelp(
        queries=count,
        comparisons=comparisons,
        by_query=pictures_helped(queries.queries[inside], (ranks["multimodal"] - ranks["text"])[inside], clicks),
    )


def pictures_helped(queries: np.ndarray, difference: np.ndarray, clicks: pd.Series) -> PicturesHelped:
    """The diagnostic "pictures helped this query": mean reciprocal rank by S_m minus by S_t over its requests.

    Args:
        queries: (Q,) texts, one a request.
        difference: (Q,)
        clicks: of the evaluation days, by query; a query with under MINIMUM_CLICKS is unknown, as is one whose
            difference is under MARGIN.
    """
    mean = pd.Series(difference).groupby(queries).mean()
    known = (clicks.reindex(mean.index).fillna(0) >= MINIMUM_CLICKS) & (mean.abs() >= MARGIN)
    helped, hurt = (known & (mean > 0)).sum(), (known & (mean < 0)).sum()
    shares = (float(part / len(mean)) if len(mean) else None for part in (helped, hurt, len(mean) - helped - hurt))
    return PicturesHelped(queries=len(mean), **dict(zip(("helped", "hurt", "unknown"), shares, strict=True)))


def _segments(queries: EvaluationSet) -> Iterator[tuple[str, np.ndarray]]:
    yield from queries.segments().items()
    for department in _departments(queries, np.ones(len(queries.queries), dtype=bool)):
        yield f"department: {department}", queries.departments == department


def _departments(queries: EvaluationSet, inside: np.ndarray) -> list[str]:
    """The largest departments of some of the queries, the largest first."""
    names, counts = np.unique(queries.departments[inside].astype(str), return_counts=True)
    return [str(name) for name in names[np.argsort(-counts, kind="stable")][:MOST_DEPARTMENTS]]


def flat_figures(routing: Routing) -> dict[str, float | None]:
    """What is worth tracking from day to day."""
    flat: dict[str, float | None] = {}
    for population, prefix in (("all", ""), ("novel", "novel_")):
        figures = routing.populations[population]
        names = ("auc", "bag_of_words_auc", "accuracy", "calibration_error", "calibration_error_before")
        flat |= {f"gate_{prefix}{name}": getattr(figures, name) for name in names}
        for department, against in figures.against.items():
            slug = re.sub(r"\W+", "_", department.lower())
            flat |= {f"gate_{prefix}{n}_against_{slug}": getattr(against, n) for n in ("auc", "bag_of_words_auc")}
    for name, row in routing.populations["novel"].segments["overall"].comparisons.items():
        flat |= {f"routing_novel_{name}_{part}": getattr(row, part) for part in ("helped", "hurt", "mean")}
    return flat
