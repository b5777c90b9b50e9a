"""What the gate lets pass and what it stops, by simulation: `python benchmarks/gate.py` writes benchmarks/gate.md (half an hour).

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

from smar_model.checks.outcomes import Check
from smar_model.evaluation.decision import Decision
from smar_model.evaluation.evaluation_record import Estimate, EvaluationRecord, Hubness, IntervalMethod, Rival, Shown
from smar_model.evaluation.judged_models import summarise
from smar_model.evaluation.significance import ClusterBootstrap
from smar_model.lake.checkout import commit
from smar_model.release.gate import decide
from smar_model.release.starting_points import PromotedVersion, best_release
from smar_model.settings import REPOSITORY, Gate, load_settings

SPREAD = {"queries": 10_000, "discordant": 0.0885, "standard_error": 0.0032}
"""Of two seeds of `default` on four days of 12,081 real products: wins and losses, and the bootstrap's half interval / 1.96."""
SAMPLE_SHOP: dict[str, Any] = {"queries": 1_500, "fashion": 0.65, "recall": (0.926, 0.987), "noise": 0.14}
"""Like two days of the sample shop, each trained from nothing: 27 queries won, 30 lost, 0.51 points."""
BASELINES = {"bm25": -0.2, "popularity": -0.6}
FIRST_DAY = datetime(2026, 11, 1, tzinfo=UTC)
HUBNESS = {"challenger": Hubness(k=10, skewness=1.0, never=0.0, expected=8.0, worst=[])}
EMBEDDINGS = {"multimodal": {"effective_rank": 60.0, "near_duplicates": 0.0}}
CHECKS = [
    Check(table="extract-clicks/clicks", check="rows", severity="critical", passed=True, observed=""),
    Check(table="measure-drift/query_drift", check="AUC", severity="warning", passed=True, observed="", kind="drift"),
]
INDEX = {"recall_at_100": 1.0}


@dataclass(frozen=True, kw_only=True)
class SimulatedShop:
    """A day's queries: how they fall into clusters and segments."""

    bootstrap: ClusterBootstrap
    segments: dict[str, np.ndarray]
    """Name → (Q,) bool."""
    recall: np.ndarray
    """(Q,) chance that a model without gain or loss finds it."""
    noise: float
    """Share of a model's own noise in what decides whether a query is found."""

    @classmethod
    def draw(
        cls,
        queries: int,
        *,
        fashion: float = 0.938,
        recall: tuple[float, float] = (0.675, 0.945),
        noise: float = 0.05,
        seed: int = 0,
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
            "unseen_words": random.random(queries) < 0.03,
            "title_sparse": sparse[clusters],
        }
        return cls(
            bootstrap=ClusterBootstrap(clusters, samples=20, seed=0),
            segments=segments,
            recall=np.where(is_visual, *recall),
            noise=noise,
        )

    def judge(
        self,
        models: Mapping[str, float | Mapping[str, float]],
        random: np.random.Generator,
        *,
        permutations: int = 1_000,
    ) -> EvaluationRecord:
        """What evaluate would say of a day on which these models answered, with P(q) left out.

        Args:
            models: name → true gain in Recall@50 over a model without gain or loss; or segment → gain there. BM25 and popularity are added.
        """
        count, cluster = len(self.recall), self.bootstrap.cluster

        def noise() -> np.ndarray:
            """A third of it is the cluster's."""
            return np.sqrt(1 / 3) * random.normal(size=self.bootstrap.clusters)[cluster] + np.sqrt(
                2 / 3
            ) * random.normal(size=count)

        easy, precise = noise(), np.clip(0.15 + 0.1 * noise(), 0.02, 1)
        values = {}
        for name, gain in {**BASELINES, **models}.items():
            gains = sum(g * self.segments[s] for s, g in gain.items()) if isinstance(gain, Mapping) else gain
            own = 0.4 if name in BASELINES else self.noise
            score = np.sqrt(1 - own) * easy + np.sqrt(own) * noise()
            found = (score < ndtri(np.clip(self.recall + gains, 0.001, 0.999))).astype(float)
            changed = (random.random(count) < 0.3) * np.rint(random.normal(size=count)) / 50
            precision = np.clip(precise * (1 + np.asarray(gains)) + changed, 0, 1)
            values[name] = {"recall_at_50": found, "ndcg_at_10": found, "precision_at_50": precision}
        baselines = {name: values.pop(name)["recall_at_50"].mean() for name in BASELINES}
        figures = summarise(
            values, self.bootstrap, self.segments, permutations=permutations, seed=int(random.integers(2**31))
        )
        # Of baselines the gate reads no more.
        figures["models"] |= {
            n: {"overall": {"recall_at_50": Estimate(mean=float(mean), low=None, high=None)}}
            for n, mean in baselines.items()
        }
        return EvaluationRecord(
            basis="truth",
            measures={},
            queries=count,
            distinct_queries=count,
            interval=IntervalMethod(level=0.95, method="bootstrap", samples=20),
            counts={},
            mean_relevant_items=1.0,
            permutations=permutations,
            **figures,
            recovered=None,
            hubness=HUBNESS,
            baselines={},
            shown=Shown(beside=None, queries=[]),
            routing=None,
            embeddings=EMBEDDINGS,
        )


def decide_on(
    evaluation: EvaluationRecord, settings: Gate, *, day: int = 0, rivals: Mapping[str, Rival] | None = None
) -> Decision:
    """The gate's decision; rivals are all models that were judged and are none of the baselines."""
    cutoff = FIRST_DAY + timedelta(days=day)
    names = set(evaluation.models) - {"challenger", *BASELINES}
    described = {n: Rival(version="1", run=n, cutoff=FIRST_DAY.isoformat()) for n in sorted(names)}
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
) -> Iterator[tuple[EvaluationRecord, Decision]]:
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
        days = [
            n
            for n, rules in enumerate(self.refused_by, 1)
            if {"not_worse_than_best_release", "not_worse_than_cold_start"} & {*rules}
        ]
        return days[0] if days else None


def lose_daily(
    shop: SimulatedShop,
    settings: Gate,
    *,
    days: int,
    loss: float,
    anchors: tuple[str, ...],
    seed: int,
    permutations: int = 200,
) -> DailyLosses:
    """Retrain daily, each challenger `loss` below the champion, promoting what the gate lets pass.

    Args:
        anchors: which of `best_release` and `cold_start` are resolved; a cold start is trained every seventh day and has lost nothing.
    """
    random = np.random.default_rng(seed)
    versions: list[dict[str, Any]] = []

    def release(day: int, total: float, evaluation: EvaluationRecord) -> None:
        recall, floor = (evaluation.figure(name, "overall", "recall_at_50") for name in ("challenger", "bm25"))
        assert recall is not None and floor is not None
        advantage = recall - floor
        cutoff = (FIRST_DAY + timedelta(days=day)).isoformat()
        versions.append(
            {"version": str(len(versions) + 1), "run": "daily", "cutoff": cutoff, "over_bm25": advantage, "lost": total}
        )

    release(0, 0.0, shop.judge({"challenger": 0.0}, random, permutations=permutations))
    lost, refused_by = [], []
    for day in range(1, days + 1):
        champion = versions[-1]
        names = ("version", "cutoff", "over_bm25")
        promoted = [PromotedVersion(**{name: version[name] for name in names}) for version in versions]
        best = best_release(promoted, FIRST_DAY + timedelta(days=day))
        rivals = {"champion": champion}
        if "best_release" in anchors and best and best.version != champion["version"]:
            rivals["best_release"] = versions[int(best.version) - 1]
        if "cold_start" in anchors and day > 7:
            rivals["cold_start"] = {"version": None, "run": "cold", "cutoff": FIRST_DAY.isoformat(), "lost": 0.0}
        total = champion["lost"] + loss
        models = {"challenger": -total} | {name: -rival["lost"] for name, rival in rivals.items()}
        evaluation = shop.judge(models, random, permutations=permutations)
        described = {
            name: Rival(version=rival["version"], run=rival["run"], cutoff=rival["cutoff"])
            for name, rival in rivals.items()
        }
        decision = decide_on(evaluation, settings, day=day, rivals=described)
        refused_by.append([reason.rule for reason in decision.reasons if not reason.passed])
        if decision.promote:
            release(day, total, evaluation)
        lost.append(versions[-1]["lost"])
    return DailyLosses(lost=lost, refused_by=refused_by)


PAIR = {"challenger": 0.0, "champion": 0.0}
EQUAL = PAIR | {"best_release": 0.0, "cold_start": 0.0}
RULES = ("not_worse_than_champion", "not_worse_than_best_release", "not_worse_than_cold_start")


def shops() -> dict[str, tuple[SimulatedShop, Gate]]:
    """Name → a shop with the settings that ship for one of its size."""
    return {
        "10,000 queries, 6 % outside fashion, Recall@50 69 %: the defaults": (SimulatedShop.draw(10_000), Gate()),
        "6,000 queries, likewise, 82 %: `configs/real_products.yaml`": (
            SimulatedShop.draw(6_000, recall=(0.816, 0.975)),
            load_settings(REPOSITORY / "configs" / "real_products.yaml").gate,
        ),
        "1,500 queries, 35 % outside fashion, 95 %: `configs/sample_shop.yaml`": (
            SimulatedShop.draw(**SAMPLE_SHOP),
            load_settings(REPOSITORY / "configs" / "sample_shop.yaml").gate,
        ),
    }


def scenarios(settings: Gate) -> dict[str, dict[str, Any]]:
    lost = max(settings.guarded_segments.values())
    return {
        "equal to all of them": EQUAL,
        f"{100 * lost:g} points worse everywhere, the margin of the guarded segments": EQUAL | {"challenger": -lost},
        "2 points better": EQUAL | {"challenger": 0.02},
        "2 points better in fashion, 5 worse outside": EQUAL | {"challenger": {"fashion": 0.02, "not_fashion": -0.05}},
        "3 points worse": EQUAL | {"challenger": -0.03},
    }


def outcomes(shop: SimulatedShop, settings: Gate, models: Mapping[str, Any], *, pairs: int, seed: int) -> Counter[str]:
    """How many challengers were called better anywhere, promoted, and refused by which rules."""
    counts: Counter[str] = Counter()
    for _, decision in decisions(shop, settings, models, pairs=pairs, seed=seed):
        broken = {reason.rule for reason in decision.reasons if not reason.passed}
        counts["better"] += bool(decision.better)
        counts["promoted"] += decision.promote
        counts["segments"] += lost_in_segments(decision)
        counts.update(broken)
    return counts


def standard_errors(queries: int, *, pairs: int) -> tuple[float, float]:
    """Of the difference of two equal models in Recall@50, in points: over all queries, and outside fashion."""
    shop, random = SimulatedShop.draw(queries), np.random.default_rng(queries)
    judged = [shop.judge(PAIR, random, permutations=1).differences["champion"] for _ in range(pairs)]
    overall, outside = (
        100 * float(np.mean([segments[name]["recall_at_50"].standard_error for segments in judged]))
        for name in ("overall", "not_fashion")
    )
    return overall, outside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_000, help="pairs of equal models")
    parser.add_argument("--challengers", type=int, default=200, help="challengers of each other kind")
    parser.add_argument("--repeats", type=int, default=20, help="times that thirty days are simulated")
    parser.add_argument("--write", type=Path, default=REPOSITORY / "benchmarks" / "gate.md")
    arguments = parser.parse_args()
    pairs, challengers, repeats = arguments.pairs, arguments.challengers, arguments.repeats
    lines: list[str] = []

    def write(*more: str) -> None:
        print(*more, sep="\n", flush=True)
        lines.extend(more)

    write(
        f"# The gate, simulated, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"Written whole by `python benchmarks/gate.py --pairs {pairs} --challengers {challengers} --repeats {repeats}`, commit {commit()}. The head of that",
        "file says how models are simulated; they are judged by the code of the stages evaluate and gate themselves, with 1,000 permutations.",
        "",
        "## What a number of queries can show",
        "",
        "Two equal models, segments and recall as of real products (69 %; 6 % of the queries outside fashion), points of Recall@50. A margin below the",
        "last column refuses more than one in twenty challengers that are as good as the champion: it is 2 · 1.645 standard errors.",
        "",
        "| queries | standard error of the difference | outside fashion | margin that lets 80 % of equals pass | 95 % |",
        "| --- | --- | --- | --- | --- |",
    )
    for queries in (500, 1_500, 3_000, 6_000, 10_000, 20_000):
        overall, outside = standard_errors(queries, pairs=40)
        margins = [(1.645 + z) * overall for z in (0.842, 1.645)]
        write(f"| {queries:,} | {overall:.2f} | {outside:.2f} | {margins[0]:.2f} | {margins[1]:.2f} |")
    for name, (shop, settings) in shops().items():
        called = outcomes(shop, settings, PAIR, pairs=pairs, seed=99)["better"]
        write(
            "",
            f"## {name}",
            "",
            f"Of {pairs:,} pairs of equal models **{called} were called better** anywhere. Below: {challengers} challengers of each kind against a champion, a best release "
            f"and a cold start, in per cent; margins {100 * settings.champion_margin:g} and {100 * settings.anchor_margin:g} points.",
            "",
            "| the challenger is | called better | promoted | refused: champion | best release | cold start | any guarded segment | precision |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        )
        for seed, (scenario, models) in enumerate(scenarios(settings).items()):
            counts = outcomes(shop, settings, models, pairs=challengers, seed=seed)
            columns = ("better", "promoted", *RULES, "segments", "precision_outside_fashion")
            write(f"| {scenario} | {' | '.join(f'{100 * counts[column] / challengers:.1f}' for column in columns)} |")
    write(
        "",
        "## Thirty days of −0.3 points",
        "",
        "Every day a challenger 0.3 points below the champion that it goes on from, 10,000 queries a day, the defaults; what is promoted is the next",
        f"day's champion. {repeats} times thirty days: true loss of the champion against the first release, in points.",
        "",
        "| anchors | after 10 days | after 20 | after 30 (range) | first day that an anchor refuses (range) |",
        "| --- | --- | --- | --- | --- |",
    )
    for words, anchors in {
        "none": (),
        "best release": ("best_release",),
        "cold start, weekly": ("cold_start",),
        "both": ("best_release", "cold_start"),
    }.items():
        shop = SimulatedShop.draw(10_000)
        found = [lose_daily(shop, Gate(), days=30, loss=0.003, anchors=anchors, seed=seed) for seed in range(repeats)]
        lost = 100 * np.array([days.lost for days in found])
        first = [days.first_anchored for days in found if days.first_anchored]
        stopped = f"{np.median(first):g} ({min(first)}–{max(first)})" if first else "–"
        write(
            f"| {words} | {lost[:, 9].mean():.1f} | {lost[:, 19].mean():.1f} | {lost[:, 29].mean():.1f} ({lost[:, 29].min():.1f}–"
            f"{lost[:, 29].max():.1f}) | {stopped} |"
        )
    arguments.write.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
