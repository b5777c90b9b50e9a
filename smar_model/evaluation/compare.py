"""`smar compare`: rows (variants, baselines, oracles) trained for the same time, judged on the same queries, kept as they come.

A comparison is one YAML file (`configs/compare_….yaml`, class Comparison). For each row and seed:

1. Steps: each training stage gets its share of the budget in seconds, in steps by a probe (`training_steps.py`).
2. A run of the pipeline's own stages (`smar_model/lake/stage.py`): what rows have in common is found by its key.
3. The stage `judge` leaves a value for each query in the lake; means and intervals become a line of `rows.jsonl`.

A call stops where the next run would end after its minutes; the same command goes on. Then `quality.md` is written anew.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import asdict

import numpy as np

from smar_model.errors import InputError
from smar_model.evaluation.comparison import ONCE, Bench, section
from smar_model.evaluation.evaluation_record import Estimate
from smar_model.evaluation.judge import METRICS, MODEL, WITH_BM25, Results, read_results
from smar_model.evaluation.measured_rows import (
    ROWS,
    Measured,
    SegmentFigures,
    append_row,
    circumstances,
    read_row,
)
from smar_model.evaluation.significance import ClusterBootstrap
from smar_model.evaluation.training_steps import find_steps, known_steps
from smar_model.network.variants import find_variant
from smar_model.shop.open_shop import open_shop


def measure_missing(
    bench: Bench, *, only: Collection[str] = (), seeds: Collection[int] = (), minutes: float | None = None
) -> int:
    """Measure the rows that are missing; returns how many still are.

    Args:
        only: names of rows; empty: all.
        seeds: of those that the comparison names; empty: all.
        minutes: no run begins that would probably end later; the first always does.

    Raises:
        InputError: the comparison is wrong; or, after all others are measured, a row failed.
    """
    tasks = missing_rows(bench, only=only, seeds=seeds)
    rows = bench.comparison.rows
    if not tasks:
        return 0
    started = time.monotonic()
    open_shop(bench.settings(tasks[0][0], seed=0, steps={}), day=bench.comparison.date)
    longest, failed = 0.0, dict[str, str]()
    # All at once: what else the machine does then takes time from all rows alike.
    steps = find_steps(bench, dict.fromkeys(name for name, _ in tasks), failed)
    while tasks:
        name, seed = tasks[0]
        expected = (
            longest if rows[name].baseline else max(longest, bench.seconds(name) if bench.comparison.seconds else 0.0)
        )
        if longest and minutes is not None and time.monotonic() - started + expected > 60 * minutes:
            print(f"[{bench.name}] {minutes:g} minutes are over, {len(tasks)} run(s) are left; the command goes on")
            break
        tasks.pop(0)
        begun = time.monotonic()
        try:
            if f"row {bench.trained(name)}" not in failed:
                append_row(bench.folder / ROWS, measure_row(bench, name, seed, steps=steps))
        except InputError as error:
            # The other rows are still worth measuring.
            failed[f"row {name}, seed {seed}"] = str(error)
            print(f"[{bench.name}] row {name}, seed {seed}: {error}", flush=True)
        longest = max(longest, time.monotonic() - begun)
    if failed:
        lines = [f"{which}: {message}" for which, message in failed.items()]
        raise InputError(f"{bench.name}: {len(failed)} failed:\n" + "\n".join(lines))
    return len(tasks)


def missing_rows(bench: Bench, *, only: Collection[str] = (), seeds: Collection[int] = ()) -> list[tuple[str, int]]:
    """Row and seed of what is not measured yet, in the order in which it is to be measured.

    Args:
        only, seeds: as for `measure_missing`.

    Raises:
        InputError: the comparison is wrong, or has no such row.
    """
    rows = bench.comparison.rows
    if unknown := sorted(set(only) - set(rows)):
        raise InputError(f"{bench.name}: no row is named {unknown[0]!r}; there are {', '.join(rows)}")
    chosen = [name for name in rows if not only or name in only]
    for name in chosen:
        _refuse_impossible(bench, name)
    done = {(row.name, row.seed) for row in current_rows(bench)}
    tasks = [
        (name, bench.seeds(name)[turn])
        for table in bench.comparison.tables.values()
        # Seed by seed, so that rows can be paired as early as possible.
        for turn in range(max(len(bench.seeds(name)) for name in table))
        for name in table
        if name in chosen and turn < len(bench.seeds(name))
    ]
    return [(n, s) for n, s in tasks if (n, s) not in done and (not seeds or s in seeds or rows[n].baseline)]


def _refuse_impossible(bench: Bench, name: str) -> None:
    row = bench.comparison.rows[bench.trained(name)]
    variant = find_variant(bench.settings(bench.trained(name), seed=0, steps={}).network)
    if row.truth and variant.fusion:
        raise InputError(f"{bench.name}: row {name}: an oracle reads no pictures; give it the variant oracle")
    if row.vision and (other := _vision_parts(bench, row.vision)) != (own := _vision_parts(bench, bench.trained(name))):
        different = next(part for part in own if own[part] != other[part])
        raise InputError(
            f"{bench.name}: row {name} takes the vision encoder of {row.vision}, whose {different} is {other[different]!r}; "
            f"its own is {own[different]!r}"
        )


def _vision_parts(bench: Bench, name: str) -> dict[str, object]:
    """What the vision encoder and the image tower are made of."""
    network = bench.settings(name, seed=0, steps={}).network
    variant = find_variant(network)
    return {
        "adapted": variant.adapted,
        "descriptors": variant.descriptors,
        "image_tower": variant.image_tower,
        **network.vision.model_dump(include={"name", "pretrained", "levels", "options"}),
        **network.text.model_dump(include={"width", "heads"}),
        **network.model_dump(include={"image_layers", "frames"}),
    }


def current_rows(bench: Bench) -> list[Measured]:
    """The measured rows that are what the comparison asks for now, the newest of each name and seed; in its order."""
    file = bench.folder / ROWS
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    found = {(row.name, row.seed, row.digest): row for row in map(read_row, lines)}
    steps = known_steps(bench)
    return [
        found[key]
        for name in bench.comparison.rows
        for seed in bench.seeds(name)
        if (key := (name, seed, bench.digest(name, seed=seed, steps=steps))) in found
    ]


def measure_row(bench: Bench, name: str, seed: int, *, steps: Mapping[str, Mapping[str, int]]) -> Measured:
    """Train, judge, summarise."""
    row = bench.comparison.rows[name]
    last = "judge-baselines" if row.baseline else "judge"
    model = row.baseline or (WITH_BM25 if row.with_bm25 else MODEL)
    run = bench.carry_out(bench.trained(name), seed=seed, steps=steps, last=last)
    judged = run.output(last)
    artifacts = [] if row.baseline else [run.output(stage) for stage in bench.training_stages()]
    sizes = run.settings.training
    # A training that was stopped and went on knows all its time, its manifest only that of the last attempt.
    seconds = {a.stage: max(a.manifest["seconds"], a.metrics.get("training_seconds", 0)) for a in artifacts}
    once = sum(seconds.pop(stage, 0.0) for stage in ONCE) if bench.comparison.adapting_seconds else 0.0
    return Measured(
        name=name,
        seed=seed,
        digest=bench.digest(name, seed=seed, steps=steps),
        stage=last,
        key=judged.key,
        model=model,
        steps={section(a.stage): getattr(sizes, section(a.stage)).steps for a in artifacts if "pairs" in a.metrics},
        pairs=int(sum(a.metrics.get("pairs", 0) for a in artifacts)),
        training_seconds=round(sum(a.metrics.get("training_seconds", 0.0) for a in artifacts), 1),
        stage_seconds=round(sum(seconds.values()), 1),
        once_seconds=round(once, 1) if find_variant(run.settings.network).fusion else 0.0,
        metrics=summarise(read_results(judged, model), run.settings.evaluation.bootstrap_samples),
        **circumstances(),
    )


def summarise(results: Results, samples: int) -> dict[str, SegmentFigures]:
    """Figures by segment, intervals by bootstrap over clusters; of the metrics that were measured."""
    bootstrap = ClusterBootstrap(results.clusters, samples=samples, seed=0)
    measured = [metric for metric in METRICS if not np.isnan(results.values[metric]).any()]
    columns = np.stack([results.values[metric] for metric in measured], axis=1)
    return {
        segment: SegmentFigures(
            n=int(inside.sum()),
            estimates={
                metric: Estimate(**{end: round(v, 5) for end, v in asdict(estimate).items()})
                for metric, estimate in zip(measured, bootstrap.estimate(columns, inside), strict=True)
            },
        )
        for segment, inside in results.segments.items()
    }
