"""The one loop that every training stage runs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from smar_model.lake.records import read_lines
from smar_model.lake.shared_files import fetched, share_files
from smar_model.lake.stage import StageContext
from smar_model.network.model import RetrievalModel
from smar_model.network.pretrained_text import PretrainedRate
from smar_model.settings import Optimisation
from smar_model.training.batches import Batch, TrainingData
from smar_model.training.checkpoints import Checkpoints, Progress
from smar_model.training.device import clock, keep_freed_memory, mixed_precision
from smar_model.training.gradient_cache import Embeddings, backward
from smar_model.training.guards import FIRST_STEPS, Guards
from smar_model.training.prefetch import prefetch
from smar_model.training.processes import average_statistics, from_first, gather, rank, seed_rows

GRADIENT_NORM = 1.0
SENT_AS = {"fp32": torch.float32, "bf16": torch.bfloat16}
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


def make_optimizer(model: torch.nn.Module, optimisation: Optimisation) -> torch.optim.AdamW:
    """AdamW that decays neither biases nor norms nor single numbers.

    Weights of a pretrained encoder have learning rates of their own: groups of parameters with the same `share` of the stage's.
    """
    rates: dict[torch.nn.Parameter, PretrainedRate] = {}
    for module in model.modules():
        if isinstance(module, RetrievalModel):
            rates |= module.pretrained_rates()
    by_share: dict[float, list[torch.nn.Parameter]] = {1.0: []}
    for parameter in trainable_parameters(model):
        rate = rates.get(parameter)
        share = rate.share_of(optimisation.learning_rate) if rate else 1.0
        by_share.setdefault(share, []).append(parameter)
    groups = []
    for share, parameters in by_share.items():
        matrices, others = [p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]
        groups.append({"params": matrices, "weight_decay": optimisation.weight_decay, "share": share})
        groups.append({"params": others, "weight_decay": 0.0, "share": share})
    return torch.optim.AdamW(groups, lr=optimisation.learning_rate, betas=(0.9, 0.98), fused=True)


def trainable_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The stage's; each group of parameters takes its share."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]


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
        Last losses of the curves, the final learning rate, seconds (and of them those for looks at embeddings and gradients), pairs
        seen, warnings.

    Raises:
        InputError: the training has gone wrong (`guards.py`); the step is named.
    """
    keep_freed_memory()
    model.train()
    batches = iter(batches)
    training = _Training(
        model=model,
        data=data,
        held_out=data.hold_out(batches, HELD_OUT_BATCHES) if optimisation.patience else [],
        encode=encode,
        objective=objective,
        optimisation=optimisation,
        context=context,
        phase=phase,
    )
    return training.run(batches)


class _Training:
    def __init__(
        self,
        *,
        model: torch.nn.Module,
        data: TrainingData,
        held_out: list[Batch],
        encode: Callable[[int, Batch], Embeddings],
        objective: Callable[[int, Embeddings], dict[str, Tensor]],
        optimisation: Optimisation,
        context: StageContext,
        phase: str,
    ) -> None:
        self.model, self.data, self.held_out = model, data, held_out
        self.encode, self.objective = encode, objective
        self.optimisation, self.context, self.phase = optimisation, context, phase
        self.trainable = trainable_parameters(model)
        self.optimizer = make_optimizer(model, optimisation)
        self.checkpoints = Checkpoints(context=context, optimisation=optimisation, phase=phase)
        self.progress = self.checkpoints.restore(model, self.optimizer, data.random) or Progress()
        self.guards = Guards(
            model=model,
            report=context.report,
            quiet_steps=max(FIRST_STEPS, round(optimisation.steps * optimisation.warmup_share)),
            state=self.progress.guards,
        )
        self.stretch = max(1, optimisation.steps // HISTORY_POINTS)
        self.curve = (context.run.folder if rank() == 0 else context.folder) / f"{context.stage.name}.{phase}.jsonl"

    def run(self, batches: Iterator[Batch]) -> dict[str, float]:
        progress, optimisation, first = self.progress, self.optimisation, self.progress.step
        if first:
            self.context.report(f"goes on after step {first} of {optimisation.steps}")
            _cut_curve(fetched(self.curve), first)
        else:
            self.curve.unlink(missing_ok=True)
        patience = optimisation.patience or math.inf
        end = optimisation.steps if progress.patience.points < patience else first
        started = last_report = last_saved = last_point = time.monotonic()
        before = progress.seconds
        for step, (batch, random_state) in zip(range(first, end), prefetch(batches, self.data.random), strict=False):
            loss = self._step(step, batch)
            progress.step = done = step + 1
            if done % self.stretch == 0:
                self._add_point(step, since=last_point)
                last_point = time.monotonic()
            now = time.monotonic()
            if now - last_report > 5:
                last_report = now
                speed = (done - first) / (now - started)
                self.context.report(
                    f"step {done} of {optimisation.steps}, loss {loss:.3f}, {speed * optimisation.batch:,.0f} pairs/s, "
                    f"{(optimisation.steps - done) / speed:.0f} s to go"
                )
            # The end of a phase that was worth saving is worth saving too: the stage may have another.
            due = now - last_saved >= 60 * self.context.settings.training.checkpoint_minutes
            is_last = done == optimisation.steps or progress.patience.points >= patience
            if due or (progress.saved and is_last):
                last_saved, progress.seconds, progress.saved = now, before + now - started, True
                self.checkpoints.save(self.model, self.optimizer, random_state, progress)
                if rank() == 0 and self.curve.is_file():
                    share_files([self.curve])
            if is_last:
                break
        return self._finish(seconds=before + time.monotonic() - started)

    def _step(self, step: int, batch: Batch) -> float:
        """Learn from a batch; returns the loss."""
        set_learning_rate(self.optimizer, learning_rate_at(step, self.optimisation))
        watched: dict[str, float] = {}
        is_look = (step + 1) % min(self.stretch, LOOK_STEPS) == 0

        def watched_objective(embeddings: Embeddings) -> dict[str, Tensor]:
            watched.update(_shares(embeddings))
            if is_look:
                watched.update(self._look(partial(self.guards.watch_embeddings, step, embeddings)))
            return self.objective(step, embeddings)

        training = self.context.settings.training
        parts = backward(
            batch,
            partial(self._encode, step),
            watched_objective,
            self.trainable,
            chunk=self.optimisation.chunk,
            seed=partial(seed_rows, training.seed, step),
            sent_as=SENT_AS[training.gradients],
        )
        self.guards.watch_loss(step, parts, partial(self.data.describe, batch))
        if is_look:
            watched |= self._look(partial(self.guards.watch_gradients, step))
        torch.nn.utils.clip_grad_norm_(self.trainable, GRADIENT_NORM)
        self.optimizer.step()
        average_statistics(self.model)
        values = {n: value.item() for n, value in parts.items()} | {f"watched/{n}": v for n, v in watched.items()}
        for name, value in values.items():
            total, count = self.progress.sums.get(name, (0.0, 0))
            self.progress.sums[name] = (total + value, count + 1)
        return values["loss"]

    def _encode(self, step: int, batch: Batch) -> Embeddings:
        with mixed_precision(self.context.settings.training.precision):
            embeddings = self.encode(step, batch)
        return {name: value.float() if value.is_floating_point() else value for name, value in embeddings.items()}

    def _look(self, watch: Callable[[], dict[str, float]]) -> dict[str, float]:
        began = clock()
        found = watch()
        self.progress.looking += clock() - began
        return found

    def _add_point(self, step: int, *, since: float) -> None:
        """A point of the curves after this step: means since the last one, at that moment of the clock."""
        sums = self.progress.sums
        if self.held_out:
            losses = _losses(
                self.model, self.held_out, lambda batch: self.objective(step, gather(self._encode(step, batch)))
            )
            self.progress.patience.note(from_first(losses))
            sums["held_out"] = (losses["loss"], 1)
        means = {name: round(total / count, 5) for name, (total, count) in sums.items()}
        point = {"step": step + 1, **means, "learning_rate": learning_rate_at(step, self.optimisation)}
        self.progress.history.append(point)
        sums.clear()
        speed = round(self.stretch * self.optimisation.batch / (time.monotonic() - since), 1)
        with self.curve.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(point | {"pairs_per_second": speed}) + "\n")

    def _finish(self, *, seconds: float) -> dict[str, float]:
        """Write the curves; returns what `train` does."""
        history, pairs = self.progress.history, float(self.progress.step * self.optimisation.batch)
        self.context.output(f"{self.phase}.json").write_text(json.dumps(history, indent=1), encoding="utf-8")
        final = history[-1] if history else {}
        last = {f"final_{name}": value for name, value in final.items() if name != "step" and "/" not in name}
        return last | {
            **self.guards.warnings,
            "pairs": pairs,
            "training_seconds": round(seconds, 1),
            "looking_seconds": round(self.progress.looking, 3),
            "pairs_per_second": round(pairs / seconds, 1),
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


def _shares(embeddings: Embeddings) -> dict[str, float]:
    """Of the batch's items those with a picture, and of its queries those that P(q) sends to the multimodal embedding."""
    shares = {}
    if "has_picture" in embeddings:
        shares["picture_share"] = embeddings["has_picture"].float().mean().item()
    if "labels" in embeddings:
        shares["gate_share"] = (embeddings["header"] > 0).float().mean().item()
    return shares
