"""How many steps of each training stage a row of a comparison has: as many as fit into its seconds on this machine.

A probe runs some steps of every row's training stages in turns. What it found stands in `timing.json` beside the measured rows,
so that later calls train the same steps. Rows that are probed later run in turns with two that are known already, the quickest and the slowest: a machine
that is shared, or another one, is slower or quicker that day, and what a step takes is written down as it would have been then.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, replace

from smar_model.errors import InputError
from smar_model.evaluation.comparison import ONCE, TRAINED, Bench, section
from smar_model.evaluation.measured_rows import TIMING, Timing, circumstances
from smar_model.lake.artifacts import Artifact, remove_artifact
from smar_model.lake.digests import digest_json
from smar_model.lake.shared_files import replace_file

PROBE_STEPS, PROBE_SECONDS = 4, 6.0
"""Steps of a stage in the first turn, and the least time that it then gets in the others: the first steps of a training are slow."""
PROBE_ROUNDS, PROBE_SEED = 3, 1_000
"""Turns, each a seed of its own from PROBE_SEED on, so that none finds the last one's output. The first one is not counted."""
ADAPTING = "adapt-vision of "
"""Before a row's name in `timing.json`: what adapting its encoder takes, where that is paid for apart."""
ADAPTED = "adapt_vision"

Steps = dict[str, dict[str, int]]
"""Row → section of `training` → steps."""


def known_steps(bench: Bench) -> Steps:
    """Steps within the budget, of the rows that were probed as they are now."""
    timing = _read_timing(bench)
    found: Steps = {}
    for name in bench.comparison.rows:
        if (entry := timing.get(name)) and entry.digest == _probe_digest(bench, name):
            found[name] = entry.steps
    return found


def find_steps(bench: Bench, names: Iterable[str], failed: dict[str, str]) -> Steps:
    """Likewise, these rows probed now where they were not; what keeps one from it goes into `failed` as "row NAME"."""
    if bench.comparison.seconds is None:
        return {}
    trained = [name for name in names if not bench.comparison.rows[name].baseline]
    needed = list(dict.fromkeys(n for name in trained for n in bench.with_vision(name)))
    if bench.comparison.adapting_seconds:
        _probe_missing(bench, [f"{ADAPTING}{n}" for n in dict.fromkeys(map(bench.adapts, needed)) if n], failed)
    _probe_missing(bench, needed, failed)
    return known_steps(bench)


def _probe_missing(bench: Bench, entries: list[str], failed: dict[str, str]) -> None:
    """Probe what has no entry in `timing.json` as it is now, and write that anew."""
    timing = _read_timing(bench)
    if not (new := [e for e in entries if e not in timing or timing[e].digest != _probe_digest(bench, e)]):
        return
    yardsticks = _yardsticks(bench, timing, new)
    probed = probe(bench, [*new, *yardsticks], failed)
    beside = {entry: probed.pop(entry) for entry in yardsticks if entry in probed}
    for entry, found in probed.items():
        found = _as_before(found, beside, timing)
        try:
            timing[entry] = replace(found, steps=_steps(bench, entry, found, timing))
        except InputError as error:
            failed[f"row {_row(entry)}"] = str(error)
    content = {entry: asdict(found) for entry, found in timing.items()}
    replace_file(bench.folder / TIMING, json.dumps(content, indent=1, ensure_ascii=False))


def _yardsticks(bench: Bench, timing: Mapping[str, Timing], new: Collection[str]) -> list[str]:
    """The quickest and the slowest of the rows that are known and not probed now; none where none is."""
    known = [e for e, of in timing.items() if e not in new and e == _row(e) and of.digest == _probe_digest(bench, e)]
    known.sort(key=lambda entry: _step_seconds(timing[entry]))
    return list(dict.fromkeys([*known[:1], *known[-1:]]))


def _as_before(found: Timing, beside: Mapping[str, Timing], before: Mapping[str, Timing]) -> Timing:
    """What a row would have taken when the others were probed, by the yardstick whose steps take most nearly as long."""
    if not beside:
        return found
    nearest = min(beside, key=lambda entry: abs(math.log(_step_seconds(beside[entry]) / _step_seconds(found))))
    factor = _step_seconds(before[nearest]) / _step_seconds(beside[nearest])
    return replace(
        found,
        fixed_seconds=round(factor * found.fixed_seconds, 2),
        seconds_per_step={stage: round(factor * each, 5) for stage, each in found.seconds_per_step.items()},
        scaled_by={nearest: round(factor, 3)},
    )


def _step_seconds(of: Timing) -> float:
    """Of a step, the geometric mean over stages."""
    return statistics.geometric_mean(of.seconds_per_step.values())


def _row(entry: str) -> str:
    return entry.removeprefix(ADAPTING)


def _read_timing(bench: Bench) -> dict[str, Timing]:
    file = bench.folder / TIMING
    timing = json.loads(file.read_text(encoding="utf-8")) if file.is_file() and bench.comparison.seconds else {}
    order = [entry for name in bench.comparison.rows for entry in (f"{ADAPTING}{name}", name)]
    return {entry: Timing(**timing[entry]) for entry in order if entry in timing}


def _probe_digest(bench: Bench, entry: str) -> str:
    name, comparison = _row(entry), bench.comparison
    asked = [
        bench.digest(name, seed=0, steps={}),
        bench.seconds(name),
        comparison.rows[name].shares or comparison.shares,
    ]
    return digest_json([*asked, comparison.adapting_seconds] if comparison.adapting_seconds else asked)[:16]


def probe(bench: Bench, entries: Collection[str], failed: dict[str, str]) -> dict[str, Timing]:
    """What rows take, medians over the turns; their steps are still to be found."""
    steps = {entry: dict.fromkeys(map(section, TRAINED), PROBE_STEPS) for entry in entries}
    taken: dict[str, list[tuple[float, dict[str, float]]]] = {}
    enough: Steps = {}
    outputs: dict[str, Artifact] = {}
    for turn in range(PROBE_ROUNDS):
        for entry in entries:
            name = _row(entry)
            if f"row {name}" in failed:
                continue
            try:
                artifacts = _probed(bench, entry, seed=PROBE_SEED + turn, steps=steps)
            except InputError as error:
                failed[f"row {name}"] = str(error)
                taken.pop(entry, None)
                print(f"[{bench.name}] row {name}: {error}", flush=True)
                continue
            outputs |= {artifact.key: artifact for artifact in artifacts}
            # A short training is looked at nearly every step, one of any length sixty times: that is not a step's time.
            in_steps = {
                section(a.stage): a.metrics["pairs"] / a.metrics["pairs_per_second"] - a.metrics["looking_seconds"]
                for a in artifacts
                if "pairs_per_second" in a.metrics
            }
            fixed = sum(a.manifest["seconds"] for a in artifacts) - sum(in_steps.values())
            if bench.comparison.rows[name].vision:
                in_steps.pop(ADAPTED, None)  # the other row's own
            ran = {stage: seconds / steps[entry][stage] for stage, seconds in in_steps.items()}
            if turn:
                taken.setdefault(entry, []).append((fixed, ran))
            else:
                enough[entry] = {stage: max(PROBE_STEPS, round(PROBE_SECONDS / each)) for stage, each in ran.items()}
        steps = {entry: of | enough.get(entry, {}) for entry, of in steps.items()}
    for artifact in outputs.values():  # patch tokens are large
        remove_artifact(artifact)
    return {
        entry: Timing(
            digest=_probe_digest(bench, entry),
            fixed_seconds=round(statistics.median(fixed for fixed, _ in turns), 2),
            seconds_per_step={
                stage: round(statistics.median(per_step[stage] for _, per_step in turns), 5) for stage in turns[0][1]
            },
            **circumstances(),
        )
        for entry, turns in taken.items()
    }


def _probed(bench: Bench, entry: str, *, seed: int, steps: Steps) -> list[Artifact]:
    """Outputs of one turn whose time is to be known, and which nothing else needs."""
    name, comparison = _row(entry), bench.comparison
    if entry != name:
        run = bench.carry_out(name, seed=seed, steps={name: steps[entry]}, last="adapt-vision")
        return [run.output("adapt-vision")]
    of = {row: steps.get(row, steps[name]) for row in bench.with_vision(name)}
    if adapts := comparison.adapting_seconds and bench.adapts(name):
        # With the encoder that the row will have: adapted and its pictures encoded once, not in each turn.
        timing = _read_timing(bench)
        if f"{ADAPTING}{adapts}" not in timing:
            raise InputError(f"row {adapts}, whose vision encoder it takes, could not be probed")
        of[adapts] = of.get(adapts, {}) | timing[f"{ADAPTING}{adapts}"].steps
    run = bench.carry_out(name, seed=seed, steps=of, last="finetune")
    once = ONCE if comparison.adapting_seconds else ()
    return [run.output(stage) for stage in bench.training_stages() if stage not in once]


def _steps(bench: Bench, entry: str, own: Timing, timing: Mapping[str, Timing]) -> dict[str, int]:
    """Each stage's share of the budget in steps, what comes without steps paid first."""
    name, comparison, per_step = _row(entry), bench.comparison, own.seconds_per_step
    if entry != name:
        assert comparison.adapting_seconds is not None
        return {ADAPTED: _within(comparison.adapting_seconds - own.fixed_seconds, per_step[ADAPTED])}
    seconds = bench.seconds(name)
    left, steps = seconds - own.fixed_seconds, dict[str, int]()
    if comparison.adapting_seconds:
        if adapts := bench.adapts(name):
            steps |= timing[f"{ADAPTING}{adapts}"].steps
    elif vision := comparison.rows[name].vision:
        if vision not in timing:
            raise InputError(f"row {vision}, whose vision encoder it takes, could not be probed")
        if ADAPTED in timing[vision].steps:
            steps[ADAPTED] = timing[vision].steps[ADAPTED]
            left -= steps[ADAPTED] * timing[vision].seconds_per_step[ADAPTED]
    wanted = comparison.rows[name].shares or comparison.shares
    shares = {stage: wanted.get(stage, 0.0) for stage in per_step if stage not in steps}
    if left <= 0:
        raise InputError(f"{seconds:g} s do not even pay for reading and encoding; give it more")
    return steps | {
        stage: _within(left * share / sum(shares.values()), per_step[stage]) for stage, share in shares.items()
    }


def _within(seconds: float, per_step: float) -> int:
    return max(1, int(seconds / per_step))
