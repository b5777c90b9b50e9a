"""`smar compare`: rows (variants, baselines, oracles) trained for the same time, judged on the same queries, kept as they come.

A comparison is one YAML file (`configs/compare_….yaml`, class Comparison). For each row and seed:

1. Steps: a probe runs some steps of every row's training stages in turns on this machine; each stage gets its share of the
   budget in seconds. What it found stands in `timing.json` beside the rows, so that later calls train the same steps.
2. A run of the pipeline's own stages (`smar_model/lake/stage.py`): what rows have in common is found by its key.
3. The stage `judge` leaves a value for each query in the lake; means and intervals become a line of `rows.jsonl`.

A call stops where the next run would end after its minutes; the same command goes on. Then `quality.md` is written anew.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, replace

import numpy as np

from smar_model.errors import InputError
from smar_model.evaluation.comparison import TRAINED, Bench, Comparison, section
from smar_model.evaluation.evaluation_record import Estimate
from smar_model.evaluation.judge import METRICS, MODEL, WITH_BM25, Results, read_results
from smar_model.evaluation.measured_rows import (
    ROWS,
    TIMING,
    Measured,
    SegmentFigures,
    Timing,
    append_row,
    circumstances,
    read_row,
)
from smar_model.evaluation.significance import ClusterBootstrap
from smar_model.lake.artifacts import Artifact, remove_artifact
from smar_model.lake.digests import digest_json
from smar_model.lake.shared_files import replace_file
from smar_model.network.variants import find_variant
from smar_model.shop.open_shop import open_shop

PROBE_STEPS, PROBE_SECONDS = 20, 4.0
"""Steps of a stage in the first turn, and the least time that it then gets in the others: the first steps of a training are slow."""
PROBE_ROUNDS, PROBE_SEED = 3, 1_000
"""Turns, each a seed of its own from PROBE_SEED on, so that none finds the last one's output. The first one is not counted."""


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
    chosen = [name for name in rows if not only or name in only]
    started = time.monotonic()
    open_shop(bench.settings(chosen[0], seed=0, steps={}), day=bench.comparison.date)
    longest, failed = 0.0, dict[str, str]()
    while tasks:
        name, seed = tasks[0]
        table = next(table for table in bench.comparison.tables.values() if name in table)
        expected = longest if rows[name].baseline else max(longest, bench.comparison.seconds or 0.0)
        if longest and minutes is not None and time.monotonic() - started + expected > 60 * minutes:
            print(f"[{bench.name}] {minutes:g} minutes are over, {len(tasks)} run(s) are left; the command goes on")
            break
        tasks.pop(0)
        steps = find_steps(bench, [o for o in table if o in chosen and f"row {o}" not in failed], failed)
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


def known_steps(bench: Bench) -> dict[str, dict[str, int]]:
    """Row → section → steps within the budget, of the rows that were probed as they are now."""
    timing = _read_timing(bench)
    return {name: entry.steps for name, entry in timing.items() if entry.digest == _probe_digest(bench, name)}


def find_steps(bench: Bench, names: Iterable[str], failed: dict[str, str]) -> dict[str, dict[str, int]]:
    """Likewise, these rows probed now where they were not; what keeps one from it goes into `failed` as "row NAME"."""
    if bench.comparison.seconds is None:
        return {}
    trained = [name for name in names if not bench.comparison.rows[name].baseline]
    known = known_steps(bench)
    if new := [n for n in dict.fromkeys(n for name in trained for n in bench.with_vision(name)) if n not in known]:
        timing = _read_timing(bench)
        for name, found in probe(bench, new, failed).items():
            try:
                timing[name] = replace(found, steps=_steps(bench.comparison, name, found, timing))
            except InputError as error:
                failed[f"row {name}"] = str(error)
        content = {name: asdict(entry) for name, entry in timing.items()}
        replace_file(bench.folder / TIMING, json.dumps(content, indent=1, ensure_ascii=False))
    return known_steps(bench)


def _read_timing(bench: Bench) -> dict[str, Timing]:
    file = bench.folder / TIMING
    timing = json.loads(file.read_text(encoding="utf-8")) if file.is_file() and bench.comparison.seconds else {}
    return {name: Timing(**timing[name]) for name in bench.comparison.rows if name in timing}


def _probe_digest(bench: Bench, name: str) -> str:
    shares = bench.comparison.rows[name].shares or bench.comparison.shares
    return digest_json([bench.digest(name, seed=0, steps={}), bench.comparison.seconds, shares])[:16]


def probe(bench: Bench, names: Collection[str], failed: dict[str, str]) -> dict[str, Timing]:
    """What rows take, medians over the turns; their steps are still to be found."""
    stages = [section(stage) for stage in TRAINED]
    steps = {row: dict.fromkeys(stages, PROBE_STEPS) for name in names for row in bench.with_vision(name)}
    taken: dict[str, list[tuple[float, dict[str, float]]]] = {}
    enough: dict[str, dict[str, int]] = {}
    outputs: dict[str, Artifact] = {}
    for turn in range(PROBE_ROUNDS):
        for name in names:
            if f"row {name}" in failed:
                continue
            try:
                run = bench.carry_out(name, seed=PROBE_SEED + turn, steps=steps, last="finetune")
            except InputError as error:
                failed[f"row {name}"] = str(error)
                taken.pop(name, None)
                print(f"[{bench.name}] row {name}: {error}", flush=True)
                continue
            artifacts = [run.output(stage) for stage in bench.training_stages()]
            outputs |= {artifact.key: artifact for artifact in artifacts}
            # A short training is looked at nearly every step, one of any length sixty times: that is not a step's time.
            in_steps = {
                section(a.stage): a.metrics["pairs"] / a.metrics["pairs_per_second"] - a.metrics["looking_seconds"]
                for a in artifacts
                if "pairs_per_second" in a.metrics
            }
            fixed = sum(a.manifest["seconds"] for a in artifacts) - sum(in_steps.values())
            if bench.comparison.rows[name].vision:
                in_steps.pop("adapt_vision", None)  # the other row's own
            ran = {stage: seconds / steps[name][stage] for stage, seconds in in_steps.items()}
            if turn:
                taken.setdefault(name, []).append((fixed, ran))
            else:
                enough[name] = {stage: max(PROBE_STEPS, round(PROBE_SECONDS / each)) for stage, each in ran.items()}
        steps |= {name: steps[name] | of for name, of in enough.items()}
    for artifact in outputs.values():  # patch tokens are large
        remove_artifact(artifact)
    return {
        name: Timing(
            digest=_probe_digest(bench, name),
            fixed_seconds=round(statistics.median(fixed for fixed, _ in turns), 2),
            seconds_per_step={
                stage: round(statistics.median(per_step[stage] for _, per_step in turns), 5) for stage in turns[0][1]
            },
            **circumstances(),
        )
        for name, turns in taken.items()
    }


def _steps(comparison: Comparison, name: str, own: Timing, timing: Mapping[str, Timing]) -> dict[str, int]:
    """Each stage's share of the budget in steps, what comes without steps paid first."""
    per_step = own.seconds_per_step
    assert comparison.seconds is not None
    left = comparison.seconds - own.fixed_seconds
    steps: dict[str, int] = {}
    vision = comparison.rows[name].vision
    if vision and vision not in timing:
        raise InputError(f"row {vision}, whose vision encoder it takes, could not be probed")
    if vision and "adapt_vision" in timing[vision].steps:
        steps["adapt_vision"] = timing[vision].steps["adapt_vision"]
        left -= steps["adapt_vision"] * timing[vision].seconds_per_step["adapt_vision"]
    wanted = comparison.rows[name].shares or comparison.shares
    shares = {stage: wanted.get(stage, 0.0) for stage in per_step if stage not in steps}
    for stage, share in shares.items():
        steps[stage] = max(1, int(left * share / sum(shares.values()) / per_step[stage]))
    if left <= 0:
        raise InputError(f"{comparison.seconds:g} s do not even pay for reading and encoding; give it more")
    return steps


def measure_row(bench: Bench, name: str, seed: int, *, steps: Mapping[str, Mapping[str, int]]) -> Measured:
    """Train, judge, summarise."""
    row = bench.comparison.rows[name]
    last = "judge-baselines" if row.baseline else "judge"
    model = row.baseline or (WITH_BM25 if row.with_bm25 else MODEL)
    run = bench.carry_out(bench.trained(name), seed=seed, steps=steps, last=last)
    judged = run.output(last)
    artifacts = [] if row.baseline else [run.output(stage) for stage in bench.training_stages()]
    sizes = run.settings.training
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
        # A training that was stopped and went on knows all its time, its manifest only that of the last attempt.
        stage_seconds=round(
            sum(max(a.manifest["seconds"], a.metrics.get("training_seconds", 0)) for a in artifacts), 1
        ),
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
