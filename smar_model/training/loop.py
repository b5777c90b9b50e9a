"""The one loop that every training stage runs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smar_model.lake.records import read_lines
from smar_model.lake.shared_files import fetched, share_files
from smar_model.lake.stage import StageContext
from smar_model.settings import Optimisation
from smar_model.training.batches import Batch, TrainingData
from smar_model.training.checkpoints import Checkpoints
from smar_model.training.device import clock, keep_freed_memory, mixed_precision
from smar_model.training.gradient_cache import Embeddings, backward
from smar_model.training.guards import FIRST_STEPS, Guards
from smar_model.training.prefetch import prefetch
from smar_model.training.processes import average_statistics, from_first, gather, rank, seed_step

GRADIENT_NORM = 1.0
HISTORY_POINTS = 60
"""Points of the published curves."""
HELD_OUT_BATCHES = 4
"""What early stopping measures the loss on."""
LOOK_STEPS = 100
"""Steps after which embeddings and gradients are looked at, or sooner where points of the curves are nearer."""


def learning_rate_at(step: int, optimisation: Optimisation) -> float:
    """Linear warm-up, then cosine to a twentieth of the peak."""
    warmup = max(1, round(optimisation.steps * optimisation.warmup_share))
    if step < warmup:
        return optimisation.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, optimisation.steps - warmup)
    return optimisation.learning_rate * (0.05 + 0.95 * (1 + math.cos(math.pi * progress)) / 2)


def make_optimizer(trainable: Sequence[torch.nn.Parameter], optimisation: Optimisation) -> torch.optim.AdamW:
    """AdamW that decays neither biases nor norms nor single numbers."""
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": optimisation.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optimisation.learning_rate, betas=(0.9, 0.98), fused=True)


def train(
    model: torch.nn.Module,
    data: TrainingData,
    batches: Iterable[Batch],
    *,
    encode: Callable[[int, Batch], Embeddings],
    objective: Callable[[int, Embeddings], dict[str, Tensor]],
    optimisation: Optimisation,
    context: StageContext,
    phase: str = "history",
) -> dict[str, float]:
    """Minimise `objective(step, encode(step, batch))["loss"]` over the trainable parameters for the stated steps.

    Saves a checkpoint every `training.checkpoint_minutes` and takes up the newest one of the same output: the rest goes as
    if nothing had happened, bit for bit on a CPU. Writes `<phase>.json`, the curves: means over stretches of steps of every
    part that the objective names, `held_out` where there is a patience, and `watched/…`, which are no losses (shares of the batch, `guards.py`). The same lines,
    with `pairs_per_second`, come one by one into `<stage>.<phase>.jsonl` in the run's folder while it trains.

    Args:
        data: where `batches` come from; its random generator is part of a checkpoint.
        phase: tells the trainings of one stage apart.

    Returns:
        Last losses of the curves, seconds (and of them those for looks at embeddings and gradients), pairs seen, warnings.

    Raises:
        InputError: the training has gone wrong (`guards.py`); the step is named.
    """
    keep_freed_memory()
    training = context.settings.training
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(trainable, optimisation)
    model.train()
    checkpoints = Checkpoints(context=context, phase=phase)
    guards = Guards(
        model=model,
        report=context.report,
        quiet_steps=max(FIRST_STEPS, round(optimisation.steps * optimisation.warmup_share)),
    )
    progress: dict[str, Any] = {"step": 0, "seconds": 0.0, "looking": 0.0, "history": [], "sums": {}, "saved": False}
    progress |= {"guards": guards.state, "waiting": {"points": 0}}
    batches = iter(batches)
    held_out = data.hold_out(batches, HELD_OUT_BATCHES) if optimisation.patience else []
    if found := checkpoints.restore(model, optimizer, data.random):
        progress, guards.state = found, found["guards"]
        context.report(f"goes on after step {progress['step']} of {optimisation.steps}")
    history, sums, waiting = progress["history"], progress["sums"], progress["waiting"]
    stretch = max(1, optimisation.steps // HISTORY_POINTS)
    first = done = progress["step"]
    patience = optimisation.patience or math.inf
    end = optimisation.steps if waiting["points"] < patience else first
    curve = (context.run.folder if rank() == 0 else context.folder) / f"{context.stage.name}.{phase}.jsonl"

    def encoded(step: int, batch: Batch) -> Embeddings:
        with mixed_precision(training.precision):
            embeddings = encode(step, batch)
        return {name: value.float() if value.is_floating_point() else value for name, value in embeddings.items()}

    def look(watched: dict[str, float], watch: Callable[[], dict[str, float]]) -> None:
        began = clock()
        watched |= watch()
        progress["looking"] += clock() - began

    if first:
        _cut_curve(fetched(curve), first)
    else:
        curve.unlink(missing_ok=True)
    started = last_report = last_saved = last_point = time.monotonic()
    before = progress["seconds"]
    for step, (batch, random_state) in zip(range(first, end), prefetch(batches, data.random), strict=False):
        done = step + 1
        rate = learning_rate_at(step, optimisation)
        for group in optimizer.param_groups:
            group["lr"] = rate
        seed_step(training.seed, step)
        watched: dict[str, float] = {}
        is_look = done % min(stretch, LOOK_STEPS) == 0

        def watched_objective(
            embeddings: Embeddings, step: int = step, watched: dict[str, float] = watched, is_look: bool = is_look
        ) -> dict[str, Tensor]:
            watched |= _shares(embeddings)
            if is_look:
                look(watched, partial(guards.watch_embeddings, step, embeddings))
            return objective(step, embeddings)

        parts = backward(batch, partial(encoded, step), watched_objective, trainable, chunk=optimisation.chunk)
        guards.watch_loss(step, parts, partial(data.describe, batch))
        if is_look:
            look(watched, partial(guards.watch_gradients, step))
        torch.nn.utils.clip_grad_norm_(trainable, GRADIENT_NORM)
        optimizer.step()
        average_statistics(model)
        values = {n: value.item() for n, value in parts.items()} | {f"watched/{n}": v for n, v in watched.items()}
        for name, value in values.items():
            total, count = sums.get(name, (0.0, 0))
            sums[name] = (total + value, count + 1)
        if done % stretch == 0 and held_out:
            losses = _losses(model, held_out, lambda batch, step=step: objective(step, gather(encoded(step, batch))))  # type: ignore[misc]
            _wait(waiting, from_first(losses))
            sums["held_out"] = (losses["loss"], 1)
        now = time.monotonic()
        if done % stretch == 0:
            means = {name: round(total / count, 5) for name, (total, count) in sums.items()}
            history.append({"step": done, **means, "learning_rate": rate})
            sums.clear()
            speed = round(stretch * optimisation.batch / (now - last_point), 1)
            last_point = now
            with curve.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(history[-1] | {"pairs_per_second": speed}) + "\n")
        if now - last_report > 5:
            last_report = now
            steps_per_second = (done - first) / (now - started)
            context.report(
                f"step {done} of {optimisation.steps}, loss {parts['loss'].item():.3f}, "
                f"{steps_per_second * optimisation.batch:,.0f} pairs/s, "
                f"{(optimisation.steps - done) / steps_per_second:.0f} s to go"
            )
        # The end of a phase that was worth saving is worth saving too: the stage may have another.
        due = now - last_saved >= 60 * training.checkpoint_minutes
        is_last = done == optimisation.steps or waiting["points"] >= patience
        if due or (progress["saved"] and is_last):
            last_saved = now
            progress |= {"step": done, "seconds": before + now - started, "saved": True}
            checkpoints.save(model, optimizer, random_state, progress)
            if rank() == 0 and curve.is_file():
                share_files([curve])
        if is_last:
            break
    seconds = before + time.monotonic() - started
    context.output(f"{phase}.json").write_text(json.dumps(history, indent=1), encoding="utf-8")
    final = history[-1] if history else {}
    last = {f"final_{name}": value for name, value in final.items() if name != "step" and "/" not in name}
    return last | {
        **guards.warnings,
        "pairs": float(done * optimisation.batch),
        "training_seconds": round(seconds, 1),
        "looking_seconds": round(progress["looking"], 3),
        "pairs_per_second": round(done * optimisation.batch / seconds, 1),
    }


@torch.no_grad()
def _losses(
    model: torch.nn.Module, batches: Sequence[Batch], compute: Callable[[Batch], dict[str, Tensor]]
) -> dict[str, float]:
    """Means of the objective's parts over batches that are not learned from, without dropout."""
    model.eval()
    found = [{name: value.item() for name, value in compute(batch).items()} for batch in batches]
    model.train()
    everywhere = set.intersection(*map(set, found))
    return {name: sum(parts[name] for parts in found) / len(found) for name in sorted(everywhere)}


def _cut_curve(curve: Path, step: int) -> None:
    """Take away what a process that died wrote after the checkpoint that the training goes on from."""
    if curve.is_file():
        points = read_lines(curve, needs={"step"})
        lines = [json.dumps(point) + "\n" for point in points if point["step"] <= step]
        curve.write_text("".join(lines), encoding="utf-8")


def _wait(waiting: dict[str, Any], losses: Mapping[str, float]) -> None:
    """Count the points of the curve since the loss was lowest; anew where the objective has got other parts."""
    if waiting.get("parts") != sorted(losses) or losses["loss"] < waiting["lowest"]:
        waiting |= {"parts": sorted(losses), "lowest": losses["loss"], "points": 0}
    else:
        waiting["points"] += 1


def _shares(embeddings: Embeddings) -> dict[str, float]:
    """Of the batch's items those with a picture, and of its queries those that P(q) sends to the multimodal embedding."""
    shares = {}
    if "has_picture" in embeddings:
        shares["picture_share"] = embeddings["has_picture"].float().mean().item()
    if "labels" in embeddings:
        shares["gate_share"] = (embeddings["header"] > 0).float().mean().item()
    return shares
