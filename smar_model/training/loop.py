"""The one loop that every training stage runs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smar_model.errors import InputError
from smar_model.settings import Optimisation

GRADIENT_NORM = 1.0
HISTORY_POINTS = 60
"""Points of the published loss curve."""


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seed_everything(seed: int, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(seed)


def learning_rate_at(step: int, optimisation: Optimisation) -> float:
    """Linear warm-up, then cosine to a twentieth of the peak."""
    warmup = max(1, round(optimisation.steps * optimisation.warmup_share))
    if step < warmup:
        return optimisation.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, optimisation.steps - warmup)
    return optimisation.learning_rate * (0.05 + 0.95 * (1 + math.cos(math.pi * progress)) / 2)


def train(
    model: torch.nn.Module,
    batches: Iterable[Any],
    loss_of: Callable[[Any], dict[str, Tensor]],
    optimisation: Optimisation,
    *,
    report: Callable[[str], None],
    history_file: Path,
) -> dict[str, float]:
    """Minimise `loss_of(batch)["loss"]` over the model's trainable parameters for the stated steps.

    Writes the loss curve (means over stretches of steps; every part that `loss_of` names) as JSON.

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
    history: list[dict[str, float]] = []
    sums: dict[str, float] = {}
    stretch = max(1, optimisation.steps // HISTORY_POINTS)
    started = last_report = time.monotonic()
    for step, batch in zip(range(optimisation.steps), batches, strict=False):
        rate = learning_rate_at(step, optimisation)
        for group in optimizer.param_groups:
            group["lr"] = rate
        parts = loss_of(batch)
        if not math.isfinite(parts["loss"].item()):
            values = {name: round(value.item(), 4) for name, value in parts.items()}
            raise InputError(
                f"step {step}: the loss is not finite ({values}); lower learning_rate, or look at the batch"
            )
        optimizer.zero_grad(set_to_none=True)
        parts["loss"].backward()
        torch.nn.utils.clip_grad_norm_(trainable, GRADIENT_NORM)
        optimizer.step()
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + value.item()
        if (step + 1) % stretch == 0:
            history.append(
                {"step": step + 1, **{n: round(s / stretch, 5) for n, s in sums.items()}, "learning_rate": rate}
            )
            sums = {}
        if time.monotonic() - last_report > 5:
            last_report = time.monotonic()
            speed = (step + 1) / (last_report - started)
            report(
                f"step {step + 1} of {optimisation.steps}, loss {parts['loss'].item():.3f}, "
                f"{speed * optimisation.batch:,.0f} pairs/s, {(optimisation.steps - step - 1) / speed:.0f} s to go"
            )
    seconds = time.monotonic() - started
    history_file.write_text(json.dumps(history, indent=1), encoding="utf-8")
    last = {f"final_{name}": value for name, value in (history[-1] if history else {}).items() if name != "step"}
    return last | {
        "pairs": float(optimisation.steps * optimisation.batch),
        "training_seconds": round(seconds, 1),
        "pairs_per_second": round(optimisation.steps * optimisation.batch / seconds, 1),
    }
