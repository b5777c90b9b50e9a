"""The one loop that every training stage runs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from smar_model.errors import InputError
from smar_model.lake.stage import StageContext
from smar_model.settings import Optimisation
from smar_model.training.batches import Batch, TrainingData
from smar_model.training.checkpoints import Checkpoints
from smar_model.training.gradient_cache import Embeddings, backward

GRADIENT_NORM = 1.0
HISTORY_POINTS = 60
"""Points of the published loss curve."""


def learning_rate_at(step: int, optimisation: Optimisation) -> float:
    """Linear warm-up, then cosine to a twentieth of the peak."""
    warmup = max(1, round(optimisation.steps * optimisation.warmup_share))
    if step < warmup:
        return optimisation.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, optimisation.steps - warmup)
    return optimisation.learning_rate * (0.05 + 0.95 * (1 + math.cos(math.pi * progress)) / 2)


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
    if nothing had happened, bit for bit on a CPU. Writes the loss curve (means over stretches of steps; every part that
    the objective names) as `<phase>.json`.

    Args:
        data: where `batches` come from; its random generator is part of a checkpoint.
        phase: tells the trainings of one stage apart.

    Returns:
        Last values of the curve, seconds and pairs seen.

    Raises:
        InputError: the loss is not finite; the step is named.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    # Biases, norms and single numbers are not decayed.
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": optimisation.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=optimisation.learning_rate, betas=(0.9, 0.98), fused=True)
    model.train()
    checkpoints = Checkpoints(context=context, phase=phase)
    progress: dict[str, Any] = {"step": 0, "seconds": 0.0, "history": [], "sums": {}, "saved": False}
    if found := checkpoints.restore(model, optimizer, data.random):
        progress = found
        context.report(f"goes on after step {progress['step']} of {optimisation.steps}")
    history, sums = progress["history"], progress["sums"]
    stretch = max(1, optimisation.steps // HISTORY_POINTS)
    first = progress["step"]
    started = last_report = last_saved = time.monotonic()
    before = progress["seconds"]
    for step, batch in zip(range(first, optimisation.steps), batches, strict=False):
        rate = learning_rate_at(step, optimisation)
        for group in optimizer.param_groups:
            group["lr"] = rate
        parts = backward(
            batch,
            partial(encode, step),
            partial(objective, step),
            trainable,
            chunk=optimisation.chunk,
        )
        if not math.isfinite(parts["loss"].item()):
            values = {name: round(value.item(), 4) for name, value in parts.items()}
            raise InputError(
                f"step {step}: the loss is not finite ({values}); lower learning_rate, or look at the batch"
            )
        torch.nn.utils.clip_grad_norm_(trainable, GRADIENT_NORM)
        optimizer.step()
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + value.item()
        if (step + 1) % stretch == 0:
            history.append(
                {"step": step + 1, **{n: round(s / stretch, 5) for n, s in sums.items()}, "learning_rate": rate}
            )
            sums.clear()
        now = time.monotonic()
        if now - last_report > 5:
            last_report = now
            speed = (step + 1 - first) / (now - started)
            context.report(
                f"step {step + 1} of {optimisation.steps}, loss {parts['loss'].item():.3f}, "
                f"{speed * optimisation.batch:,.0f} pairs/s, {(optimisation.steps - step - 1) / speed:.0f} s to go"
            )
        # The end of a phase that was worth saving is worth saving too: the stage may have another.
        due = now - last_saved >= 60 * context.settings.training.checkpoint_minutes
        if due or (progress["saved"] and step + 1 == optimisation.steps):
            last_saved = now
            progress |= {"step": step + 1, "seconds": before + now - started, "saved": True}
            checkpoints.save(model, optimizer, data.random, progress)
    seconds = before + time.monotonic() - started
    context.output(f"{phase}.json").write_text(json.dumps(history, indent=1), encoding="utf-8")
    last = {f"final_{name}": value for name, value in (history[-1] if history else {}).items() if name != "step"}
    return last | {
        "pairs": float(optimisation.steps * optimisation.batch),
        "training_seconds": round(seconds, 1),
        "pairs_per_second": round(optimisation.steps * optimisation.batch / seconds, 1),
    }
