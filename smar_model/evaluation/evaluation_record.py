"""What `evaluation.json` holds: every figure of a run's judging. `evaluate` writes it; whoever reads it reads it here."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import TypeAdapter

from smar_model.evaluation.preference import Preference

if TYPE_CHECKING:
    from smar_model.lake.runs import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over queries with its 95 % interval; all None where there is no query."""

    mean: float | None
    low: float | None
    high: float | None


NOTHING = Estimate(mean=None, low=None, high=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Estimate):
    """The challenger minus another model on the same queries of one segment, in one metric."""

    standard_error: float | None
    """Over clusters; None of fewer than two."""
    wins: int
    ties: int
    losses: int
    p: float | None
    p_adjusted: float | None
    """By Holm's rule over the segments but the first, which is all queries."""


BySegment = dict[str, dict[str, Estimate]]
"""Segment → metric → figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A release that the run's model is compared with: the champion, or an anchor."""

    version: str | None
    run: str | None
    cutoff: str
    """ISO time: first moment after its training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalMethod:
    level: float
    method: str
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """An item that is found where it does not fit."""

    found: int
    """Queries that find it among their first k."""
    fits: int
    item_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hubness:
    """Whether some items appear everywhere."""

    k: int
    skewness: float
    """Of the number of queries that find an item among their first k."""
    never: float
    """Share of items that no query finds."""
    expected: float
    """Mean number of queries that find an item."""
    worst: list[Hub]
    """The items with the most queries that they do not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownAnswer:
    item_id: str
    grade: float
    wanted: bool
    people: float | None = None
    """The grade that people gave; None where they judged the query or the item not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownQuery:
    """A query that the report shows with what models found, by name."""

    query: str
    reason: str
    is_visual: bool
    target: str | None
    target_rank: dict[str, int | None]
    answers: dict[str, list[ShownAnswer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    beside: str | None
    """The model that gains and losses are over."""
    queries: list[ShownQuery]


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedLists:
    """How well the first ten of the lists shown fit, beside what models answer to the same queries."""

    judged_by: Literal["truth", "people"]
    requests: int
    queries: int
    """Of which each is the mean over its requests."""
    clusters: int
    shorter: int
    """Requests whose list has fewer than ten places: it is judged as it is, empty places count 0."""
    models: dict[str, dict[str, Estimate]]
    """Model, `incumbent` among them → metric → figure."""
    differences: dict[str, dict[str, Difference]]
    """Model → metric → the model minus the incumbent."""

    def figures(self, metric: str) -> dict[str, Estimate]:
        """By model."""
        return {model: of[metric] for model, of in self.models.items()}

    def differences_in(self, metric: str) -> dict[str, Difference]:
        """By model."""
        return {model: of[metric] for model, of in self.differences.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderWithinLists:
    """How each ranker orders the items of the lists shown, by clicks weighed by place (`incumbent.py`)."""

    requests: int
    clusters: int
    """Query texts."""
    clicks: int
    effective_clicks: float
    """(Σ w)² / Σ w²: as many clicks of equal weight would tell as much."""
    maximum_weight: float
    clicks_at_maximum: int
    """Clicks whose weight was cut to it."""
    left_out: dict[str, int]
    models: dict[str, Estimate]
    """Model, `incumbent` among them → Σ w / log2(1 + rank) / Σ w."""
    differences: dict[str, Difference]
    """Model → the model minus the incumbent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incumbent:
    """The engine whose lists the log shows."""

    lists: int
    versions: dict[str, int]
    """Model version that made them, as far as the log says → lists."""
    counts: dict[str, int]
    """What was read and left out."""
    graded: GradedLists | None
    """None where nobody judged a list."""
    within_list: OrderWithinLists | None
    """None where no list of two known items was clicked in."""
    shown: list[ShownQuery]
    """Queries on which it is better than the challenger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """What one version came to in interleaved lists."""

    shown: int
    """Items that it put into lists."""
    clicked: int
    """Of those; each once a request."""
    requests: int
    """In which more of its items were clicked than of the other's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interleaving:
    """The newest pair of versions whose lists the log of the run's days interleaves."""

    preference: Preference
    champion: Team
    challenger: Team
    counts: dict[str, int]
    """What was read and left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedOracle:
    run: str
    truth: str
    cutoff: str
    age_days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Areas:
    """How well visual queries are told from others: areas under the ROC curve, None where one kind is missing."""

    queries: int
    others: int
    auc: float | None
    bag_of_words_auc: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Estimate):
    """One way to answer over another: difference of reciprocal ranks, and shares of the queries."""

    helped: float | None
    same: float | None
    hurt: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PicturesHelped:
    """Distinct queries, and the shares of them that pictures helped, hurt, or of which it is unknown (None of no query)."""

    queries: int
    helped: float | None
    hurt: float | None
    unknown: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingHelp:
    queries: int
    comparisons: dict[str, Comparison]
    """`WAY_over_WAY` → figures."""
    by_query: PicturesHelped


@dataclass(frozen=True, slots=True, kw_only=True)
class Population(Areas):
    """P(q) among some of the queries."""

    accuracy: float | None
    calibration_error: float | None
    calibration_error_before: float | None
    auc_of_help: float | None
    """Whether P(q) is higher for queries that pictures helped than for those that they hurt."""
    against: dict[str, Areas]
    """Department → visual queries against its own."""
    segments: dict[str, RoutingHelp]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    low: float
    high: float
    queries: int
    mean_probability: float
    visual_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """The reliability curve of P(q), before and after calibration."""

    before: list[ReliabilityBin]
    after: list[ReliabilityBin]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedBag:
    setting: str
    labels: int
    """Queries that it learned from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    routing: str
    temperature: float
    bins: int
    margin: float
    minimum_clicks: int
    bag_of_words: LearnedBag | None
    reliability: Reliability
    populations: dict[str, Population]
    """`all` and `novel`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceOf:
    """c(s) of some items: how much each one's picture counts, from 0 to 1."""

    items: int
    mean: float
    low: float
    """A tenth of the items are below; likewise `high`, above."""
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureConfidence:
    items: dict[str, ConfidenceOf]
    """`all` with a picture; where a shop knows which pictures lie also `right`, `another_item`, `placeholder`, those that there are."""
    right_above_wrong: float | None
    """How often a right picture's is above a wrong one's, ties counted half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecord:
    basis: Literal["truth", "clicks"]
    measures: dict[str, str]
    """`found` and `graded`, in words."""
    queries: int
    distinct_queries: int
    interval: IntervalMethod
    counts: dict[str, int]
    mean_relevant_items: float
    permutations: int
    clusters: int
    segments: dict[str, int]
    """Name → queries."""
    segment_clusters: dict[str, int]
    models: dict[str, BySegment]
    differences: dict[str, dict[str, dict[str, Difference]]]
    """Other model → segment → metric → the challenger minus it."""
    recovered: dict[str, Estimate] | None
    hubness: dict[str, Hubness]
    baselines: dict[str, str]
    shown: Shown
    evaluation_days: list[str] = field(default_factory=list)
    training_days: list[str] = field(default_factory=list)
    """The first and the last."""
    items: int = 0
    training_clicks: int = 0
    rivals: dict[str, Rival] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)
    """Model → why."""
    oracle: JudgedOracle | None = None
    incumbent: Incumbent | None = None
    """None where the log shows no lists, or of an older version."""
    interleaving: Interleaving | None = None
    """None where the log interleaves none, or of an older version."""
    routing: Routing | Literal["not measured"] | None = "not measured"
    """None: the model does not route."""
    picture_confidence: PictureConfidence | None = None
    """None: the model has no item confidence, or an older version measured it."""
    embeddings: dict[str, dict[str, float]] = field(default_factory=dict)
    """Kind → figure → value, as `diagnostics.embedding_health` has them."""
    modality_gaps: dict[str, float] = field(default_factory=dict)

    def figure(self, model: str, segment: str, metric: str) -> float | None:
        """A model's mean; None where it was not measured."""
        found = self.models.get(model, {}).get(segment, {}).get(metric)
        return found.mean if found else None


def rivals_of(run: Run) -> dict[str, Rival]:
    """Champion and anchors of a run, by name, where there are."""
    return {
        name: Rival(version=rival.version, run=rival.run, cutoff=rival.cutoff) for name, rival in run.rivals().items()
    }


_RECORD = TypeAdapter(EvaluationRecord)


def parse_evaluation(content: object) -> EvaluationRecord:
    """The record of plain values, which an older version may have written."""
    return _RECORD.validate_python(content)


def read_evaluation(file: Path) -> EvaluationRecord:
    return parse_evaluation(json.loads(file.read_text(encoding="utf-8")))
