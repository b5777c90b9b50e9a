"""The page of a comparison: written whole from the committed rows and differences, nothing by hand.

Differences between rows need each query's values, which lie in the lake. Once computed they stand in `differences.json` with
the rows that they are of, so that the page can be written where that lake is not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from statistics import mean
from typing import Any

import jinja2
import numpy as np

from smar_model.errors import InputError
from smar_model.evaluation.compare import current_rows
from smar_model.evaluation.comparison import Bench
from smar_model.evaluation.growth_drawing import GROWTH, draw_growth
from smar_model.evaluation.judge import NOVEL, ORDER, Results, read_results
from smar_model.evaluation.measured_rows import ROWS, Measured
from smar_model.evaluation.segments import UNSEEN_WORDS, WRONG_PICTURE
from smar_model.evaluation.significance import ClusterBootstrap, permutation_p
from smar_model.evaluation.terminal_table import percent, points
from smar_model.evaluation.training_steps import known_steps
from smar_model.lake.artifacts import find_artifact
from smar_model.lake.shared_files import replace_file
from smar_model.settings import REPOSITORY

DIFFERENCES = "differences.json"
COMPARED = ("target_recall_at_50", "graded_ndcg_at_10", "graded_precision_at_50")
SAMPLES, PERMUTATIONS = 1_000, 10_000
SHOWN = {
    "target_recall_at_10": "R@10",
    "target_recall_at_100": "R@100",
    "target_mrr": "MRR",
    "graded_recall_at_50": "graded R@50",
    "graded_ndcg_at_10": "nDCG@10",
    "graded_precision_at_50": "P@50",
    "graded_f1_at_50": "F1@50",
}
GUARDED = ("not_fashion", "title_rich", "no_picture")
"""Where a model must not lose against the floor."""
GUARDED_WHERE_THERE = (UNSEEN_WORDS, WRONG_PICTURE, "right_picture")
"""Likewise, in shops that have such queries."""
SHARES = (NOVEL, "all", "fashion")

Seeds = Mapping[int, Measured]
BySegment = dict[str, dict[str, Any]]
"""Segment → figures: of a pair `n` and metric → mean, low, high, p, by_seed, low_by_seed; of a recovered share at 50 mean, low,
high, and the same at 10 as `at_10`. What older entries lack is not shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """An entry of `differences.json`: how rows differ, with the rows that it is of."""

    rows: list[list[str | int]]
    """Name, seed and digest of each."""
    seeds: list[int]
    segments: BySegment


def write_page(bench: Bench, *, command: str) -> Path:
    """Bring `differences.json` up to date and write the page; returns its path."""
    by_name: dict[str, dict[int, Measured]] = {}
    for row in current_rows(bench):
        by_name.setdefault(row.name, {})[row.seed] = row
    file = bench.folder / DIFFERENCES
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    old = {title: Compared(**entry) for title, entry in content.items()}
    found = compare_rows(bench, by_name, old)
    if found != old:
        content = {title: asdict(entry) for title, entry in found.items()}
        replace_file(file, json.dumps(content, ensure_ascii=False, indent=0))
    draw_growth(bench, by_name, bench.folder / GROWTH)
    page = bench.folder.with_suffix(".md")
    replace_file(page, render(bench, by_name, found, command=command))
    return page


def compare_rows(bench: Bench, rows: Mapping[str, Seeds], old: Mapping[str, Compared]) -> dict[str, Compared]:
    """Differences of the comparison's pairs and recovered shares; taken from `old` where they are of the same rows.

    Raises:
        InputError: two rows were judged on different queries.
    """
    comparison = bench.comparison
    read = lru_cache(maxsize=64)(lambda stage, key, model: _read(stage, key, model))

    def results(of: Seeds, seeds: Sequence[int]) -> list[Results] | None:
        """One for each seed; the only one of a baseline stands for all."""
        found = [read(m.stage, m.key, m.model) for m in (_of(of, seed) for seed in seeds)]
        there = [r for r in found if r is not None]
        return there if len(there) == len(seeds) else None

    found: dict[str, Compared] = {}

    def add(title: str, names: Sequence[str], figures: Callable[..., BySegment]) -> None:
        involved = [rows[name] for name in names if name in rows]
        seeds = _common_seeds(involved) if len(involved) == len(names) else []
        if not seeds:
            return
        ids: list[list[str | int]] = [
            [_of(of, seed).name, _of(of, seed).seed, _of(of, seed).digest] for of in involved for seed in seeds
        ]
        if title in old and old[title].rows == ids:
            found[title] = old[title]
        elif all(values := [results(of, seeds) for of in involved]):
            _refuse_other_queries(title, [r for each in values for r in each or []])
            found[title] = Compared(rows=ids, seeds=seeds, segments=figures(*values))

    for pair in comparison.pairs:
        add(f"{pair.first} − {pair.second}", (pair.first, pair.second), difference)
    floors = {name: row.floor or comparison.floor for name, row in comparison.rows.items() if row.truth}
    for table in comparison.tables.values():
        for oracle, floor in floors.items():
            for name, row in table.items():
                if oracle in table and row.variant and not row.truth and name != floor:
                    add(f"{name} of {oracle} over {floor}", (name, floor, oracle), recovered)
    return found


def _read(stage: str, key: str, model: str) -> Results | None:
    artifact = find_artifact(stage, key)
    return read_results(artifact, model) if artifact else None


def _of(of: Seeds, seed: int) -> Measured:
    return of[seed] if seed in of else next(iter(of.values()))


def _common_seeds(involved: Sequence[Seeds]) -> list[int]:
    """Seeds that all have; a baseline has all that others have."""
    learned = [set(of) for of in involved if next(iter(of.values())).stage == "judge"]
    return sorted(set.intersection(*learned)) if learned else [0]


def _refuse_other_queries(title: str, results: Sequence[Results]) -> None:
    if any(not np.array_equal(r.query_ids, results[0].query_ids) for r in results):
        raise InputError(
            f"{title}: judged on different queries, as the shop's log has changed; take the older line out of {ROWS} and "
            "measure it again"
        )


def difference(first: Sequence[Results], second: Sequence[Results]) -> BySegment:
    """First − second by segment and metric: mean over seeds of the same queries, interval, p, and each seed's own."""
    clusters = first[0].clusters
    by_seed = np.stack(
        [np.stack([a.values[m] - b.values[m] for m in COMPARED], axis=1) for a, b in zip(first, second, strict=True)]
    )  # (S, Q, M)
    differences = by_seed.mean(axis=0)
    bootstrap = ClusterBootstrap(clusters, samples=SAMPLES, seed=0)
    segments = {name: inside for name, inside in first[0].segments.items() if name in second[0].segments}
    columns = np.concatenate([differences * inside[:, None] for inside in segments.values()], axis=1)
    p = permutation_p(columns, clusters, samples=PERMUTATIONS, seed=0).reshape(len(segments), -1)
    each = [bootstrap.estimate_segments(of_seed, segments) for of_seed in by_seed]
    return {
        name: {
            "n": int(inside.sum()),
            **{
                metric: {
                    **{k: round(v, 5) for k, v in asdict(estimate).items()},
                    "p": round(float(p[place, column]), 5),
                    "by_seed": [round(float(v), 5) for v in by_seed[:, inside, column].mean(axis=1)],
                    "low_by_seed": [
                        low if low is None else round(low, 5) for low in (e[name][column].low for e in each)
                    ],
                }
                for column, (metric, estimate) in enumerate(
                    zip(COMPARED, bootstrap.estimate(differences, inside), strict=True)
                )
            },
        }
        for place, (name, inside) in enumerate(segments.items())
    }


def recovered(model: Sequence[Results], floor: Sequence[Results], oracle: Sequence[Results]) -> BySegment:
    """(model − floor) / (oracle − floor) of target Recall@50, and @10, by segment, means over seeds."""
    bootstrap = ClusterBootstrap(model[0].clusters, samples=SAMPLES, seed=0)

    def share(metric: str, segment: str) -> dict[str, Any]:
        own, floors, oracles = (np.mean([r.values[metric] for r in of], axis=0) for of in (model, floor, oracle))
        estimate = bootstrap.share(own - floors, oracles - floors, model[0].segments[segment])
        return {k: None if v is None else round(v, 4) for k, v in asdict(estimate).items()}

    return {
        name: share(COMPARED[0], name) | {"at_10": share("target_recall_at_10", name)}
        for name in SHARES
        if name in model[0].segments
    }


def render(bench: Bench, rows: Mapping[str, Seeds], differences: Mapping[str, Compared], *, command: str) -> str:
    """The page as Markdown."""
    comparison = bench.comparison
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "points": points}
    template = environment.from_string(Path(__file__).with_name("quality.md.j2").read_text(encoding="utf-8"))
    measured = [row for of in rows.values() for row in of.values()]
    core = [name for name in next(iter(comparison.tables.values())) if name in rows]
    found = {segment for row in measured for segment in row.metrics}
    segments = [name for name in ORDER if name in found] + sorted(found - set(ORDER))
    pairs = [(pair, differences.get(f"{pair.first} − {pair.second}")) for pair in comparison.pairs]
    return template.render(
        command=command,
        comparison=comparison,
        folder=bench.folder.name,
        measured=measured,
        commits=sorted({row.commit for row in measured}),
        machines=sorted({row.machine for row in measured}),
        dates=sorted({row.date for row in measured}),
        tables={
            heading: [(row.label, name, _cells(rows[name]) if name in rows else None) for name, row in table.items()]
            for heading, table in comparison.tables.items()
        },
        shown=SHOWN,
        novel=next((row.metrics[NOVEL].n for row in measured if NOVEL in row.metrics), 0),
        all_queries=next((row.metrics["all"].n for row in measured), 0),
        core=core,
        segments=[
            (
                segment,
                next(row.metrics[segment].n for row in measured if segment in row.metrics),
                [_mean_of(rows[name], segment, COMPARED[0]) for name in core],
            )
            for segment in segments
        ],
        pairs=[(pair, entry and entry.segments) for pair, entry in pairs],
        guarded=(*GUARDED, *(name for name in GUARDED_WHERE_THERE if any(e and name in e.segments for _, e in pairs))),
        metric=COMPARED[0],
        compared={COMPARED[1]: "nDCG@10", COMPARED[2]: "P@50"},
        shares={title: entry.segments for title, entry in differences.items() if " of " in title},
        steps=known_steps(bench),
        growth=GROWTH if (bench.folder / GROWTH).is_file() else None,
        sweep="sweep.svg" if (bench.folder / "sweep.svg").is_file() else None,
        root=REPOSITORY.name,
    )


def _cells(of: Seeds) -> dict[str, object]:
    """One row of a table: means over seeds; interval and spread of Recall@50."""
    recalls = [
        row.metrics[NOVEL].estimates[COMPARED[0]]
        for row in of.values()
        if NOVEL in row.metrics and COMPARED[0] in row.metrics[NOVEL].estimates
    ]
    margins = [(r.high - r.low) / 2 for r in recalls if r.high is not None and r.low is not None]
    return {
        "recall": _mean_of(of, NOVEL, COMPARED[0]),
        "margin": mean(margins) if margins else None,
        "spread": [r.mean for r in recalls],
        "shown": [_mean_of(of, NOVEL, name) for name in SHOWN],
        "pairs": next(iter(of.values())).pairs,
        "seconds": mean(row.stage_seconds for row in of.values()),
        "once": mean(row.once_seconds for row in of.values()),
    }


def _mean_of(of: Seeds, segment: str, metric: str) -> float | None:
    found = (row.metrics[segment].estimates.get(metric) for row in of.values() if segment in row.metrics)
    values = [estimate.mean for estimate in found if estimate and estimate.mean is not None]
    return mean(values) if values else None
