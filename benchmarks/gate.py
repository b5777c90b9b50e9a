"""What the gate lets pass and what it stops, by simulation: `python benchmarks/gate.py` writes benchmarks/gate.md (an hour).

Models are simulated by what they find, and judged by the code of the stages evaluate and gate themselves (`summarise`, `decide`,
`best_release`).

1. Queries come in clusters (a wanted item with all its requests) of uneven size, in the segments and with the recall that real
   products had: 94 % of them for fashion, of which a model finds two thirds, outside fashion 95 %.
2. A query is found if how easy it is, plus the model's own noise, is above a threshold set by the model's true recall. Both have a part that
   is the cluster's. How much of it all is noise is set so that two equal models differ in as many queries, and their difference has
   the spread, that two seeds had on 10,000 real queries: 4.4 % won, 4.5 % lost, 0.32 points (`SPREAD`).
3. P@50 is simulated likewise, a figure of its own for each query that changes by little for few.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtri

from smar_model.evaluation.evaluate import summarise
from smar_model.evaluation.significance import ClusterBootstrap, lower_bound
from smar_model.lake.checkout import commit
from smar_model.release.anchors import best_release
from smar_model.release.gate import Decision, decide
from smar_model.settings import REPOSITORY, Gate, load_settings

SPREAD = {"queries": 10_000, "discordant": 0.0885, "standard_error": 0.0032}
"""Of two seeds of `default` on four days of 12,081 real products: wins and losses, and the bootstrap's half interval / 1.96."""
NOISE = 0.05
"""Share of a model's own noise in what decides whether a query is found."""
FIRST_DAY = datetime(2026, 11, 1, tzinfo=UTC)
HEALTHY = {
    "routing": {"populations": {"all": {"calibration_error": 0.01}}},
    "embeddings": {"multimodal": {"effective_rank": 60.0, "near_duplicates": 0.0}},
    "hubness": {"challenger": {"skewness": 1.0, "expected": 8.0}},
}
CHECKS = [{"table": "measure-drift/query_drift", "check": "AUC at most 0.98", "severity": "warning", "passed": True}]
INDEX = {"recall_at_100": 1.0}


@dataclass(frozen=True, kw_only=True)
class SimulatedShop:
    """A day's queries: how they fall into clusters and segments."""

    bootstrap: ClusterBootstrap
    segments: dict[str, np.ndarray]
    """Name → (Q,) bool."""
    recall: np.ndarray
    """(Q,) chance that a model without gain or loss finds it."""

    @classmethod
    def draw(
        cls, queries: int, *, fashion: float = 0.938, recall: tuple[float, float] = (0.675, 0.945), seed: int = 0
    ) -> SimulatedShop:
        """Args:
        fashion: share of the queries.
        recall: Recall@50 in fashion, and outside.
        """
        random = np.random.default_rng(seed)
        weights = random.lognormal(0, 1, int(1.2 * queries))
        clusters = random.choice(len(weights), queries, p=weights / weights.sum())
        visual, sparse = random.random(len(weights)) < fashion, random.random(len(weights)) < 0.28
        is_visual = visual[clusters]
        segments = {
            "overall": np.ones(queries, dtype=bool),
            "fashion": is_visual,
            "not_fashion": ~is_visual,
            "novel": random.random(queries) < 0.7,
            "query_once": random.random(queries) < 0.045,
            "title_sparse": sparse[clusters],
        }
        return cls(
            bootstrap=ClusterBootstrap(clusters, samples=100, seed=0),
            segments=segments,
            recall=np.where(is_visual, *recall),
        )

    def judge(
        self, models: Mapping[str, float | Mapping[str, float]], random: np.random.Generator, *, permutations: int = 1_000
    ) -> dict[str, Any]:
        """`evaluation.json` of a day on which these models answered.

        Args:
            models: name → true gain in Recall@50 over a model without gain or loss; or segment → gain there. BM25 and popularity are added.
        """
        count, cluster = len(self.recall), self.bootstrap.cluster

        def noise() -> np.ndarray:
            """A third of it is the cluster's."""
            return np.sqrt(1 / 3) * random.normal(size=self.bootstrap.clusters)[cluster] + np.sqrt(2 / 3) * random.normal(
                size=count
            )

        easy, precise = noise(), np.clip(0.15 + 0.1 * noise(), 0.02, 1)
        values = {}
        for name, gain in {"bm25": -0.2, "popularity": -0.6, **models}.items():
            gains = sum(g * self.segments[s] for s, g in gain.items()) if isinstance(gain, Mapping) else gain
            own = 0.4 if name in {"bm25", "popularity"} else NOISE
            score = np.sqrt(1 - own) * easy + np.sqrt(own) * noise()
            found = (score < ndtri(np.clip(self.recall + gains, 0.001, 0.999))).astype(float)
            changed = (random.random(count) < 0.3) * np.rint(random.normal(size=count)) / 50
            precision = np.clip(precise * (1 + np.asarray(gains)) + changed, 0, 1)
            values[name] = {"recall_at_50": found, "ndcg_at_10": found, "precision_at_50": precision}
        figures = summarise(values, self.bootstrap, self.segments, permutations=permutations, seed=int(random.integers(2**31)))
        return {"queries": count, **figures, **HEALTHY}


def decide_on(
    evaluation: dict[str, Any], settings: Gate, *, day: int = 0, rivals: Mapping[str, Any] | None = None
) -> Decision:
    """The gate's decision; rivals are all models that were judged and are none of the baselines."""
    cutoff = FIRST_DAY + timedelta(days=day)
    names = set(evaluation["models"]) - {"challenger", "bm25", "popularity"}
    described = {n: {"version": "1", "run": n, "cutoff": FIRST_DAY.isoformat()} for n in sorted(names)}
    return decide(
        evaluation=evaluation,
        checks=CHECKS,
        index=INDEX,
        minimum_index_recall=0.99,
        settings=settings,
        cutoff=cutoff,
        rivals=dict(rivals or described),
    )


def decisions(
    shop: SimulatedShop,
    settings: Gate,
    models: Mapping[str, float | Mapping[str, float]],
    *,
    pairs: int,
    seed: int,
    permutations: int = 1_000,
) -> Iterator[tuple[dict[str, Any], Decision]]:
    """What came of as many challengers, each judged on queries of its own."""
    random = np.random.default_rng(seed)
    for _ in range(pairs):
        evaluation = shop.judge(models, random, permutations=permutations)
        yield evaluation, decide_on(evaluation, settings)


def lost_in_segments(decision: Decision) -> bool:
    """Whether any guarded segment refuses."""
    return any(not r.passed for r in decision.reasons if r.rule.startswith("no_loss_in_"))


@dataclass(frozen=True, kw_only=True)
class DailyLosses:
    """Days on which every challenger is a little worse than the champion that it is trained from."""

    lost: list[float]
    """True loss of the champion against the first release, after each day."""
    refused_by: list[list[str]]
    """Rules that refused, by day."""

    @property
    def first_anchored(self) -> int | None:
        """First day, from 1, on which an anchor refused."""
        days = [n for n, rules in enumerate(self.refused_by, 1) if {"not_worse_than_best_release", "not_worse_than_cold_start"} & {*rules}]
        return days[0] if days else None


def lose_daily(
    shop: SimulatedShop, settings: Gate, *, days: int, loss: float, anchors: tuple[str, ...], seed: int, permutations: int = 200
) -> DailyLosses:
    """Retrain daily, each challenger `loss` below the champion, promoting what the gate lets pass.

    Args:
        anchors: which of `best_release` and `cold_start` are resolved; a cold start is trained every seventh day and has lost nothing.
    """
    random = np.random.default_rng(seed)
    versions: list[dict[str, Any]] = []

    def release(day: int, total: float, evaluation: dict[str, Any]) -> None:
        advantage = evaluation["differences"]["bm25"]["overall"]["recall_at_50"]["mean"]
        cutoff = (FIRST_DAY + timedelta(days=day)).isoformat()
        versions.append(
            {"version": str(len(versions) + 1), "run": "daily", "cutoff": cutoff, "over_bm25": advantage, "lost": total}
        )

    release(0, 0.0, shop.judge({"challenger": 0.0}, random, permutations=permutations))
    lost, refused_by = [], []
    for day in range(1, days + 1):
        champion = versions[-1]
        best = best_release(versions, FIRST_DAY + timedelta(days=day))
        rivals = {"champion": champion}
        if "best_release" in anchors and best and best is not champion:
            rivals["best_release"] = best
        if "cold_start" in anchors and day > 7:
            rivals["cold_start"] = {"version": None, "run": "cold", "cutoff": FIRST_DAY.isoformat(), "lost": 0.0}
        total = champion["lost"] + loss
        models = {"challenger": -total} | {name: -rival["lost"] for name, rival in rivals.items()}
        evaluation = shop.judge(models, random, permutations=permutations)
        decision = decide_on(evaluation, settings, day=day, rivals=rivals)
        refused_by.append([reason.rule for reason in decision.reasons if not reason.passed])
        if decision.promote:
            release(day, total, evaluation)
        lost.append(versions[-1]["lost"])
    return DailyLosses(lost=lost, refused_by=refused_by)
