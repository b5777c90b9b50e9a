"""Checkpoints: published like any other output, resumed exactly.

A checkpoint belongs to the key of the output that is being trained, so that only the same training, from the same data and
settings, takes it up. `smar start` removes those whose output is finished (`lake/artifacts.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import nn

from smar_model.lake.artifacts import Artifact, checkpoint_stage, find_checkpoints, is_whole, remove_artifact
from smar_model.lake.digests import digest_json
from smar_model.lake.publishing import Attempt
from smar_model.lake.stage import StageContext
from smar_model.training.guards import GuardsState
from smar_model.training.prefetch import RandomState
from smar_model.training.processes import rank

STATE_FILE = "state.pt"


@dataclass(slots=True, kw_only=True)
class Patience:
    """Points of the curves since the held-out loss was lowest."""

    points: int = 0
    lowest: float = math.inf
    parts: list[str] = field(default_factory=list)
    """Of the objective: where it has got others, counting begins anew."""

    def note(self, losses: Mapping[str, float]) -> None:
        if self.parts != sorted(losses) or losses["loss"] < self.lowest:
            self.points, self.lowest, self.parts = 0, losses["loss"], sorted(losses)
        else:
            self.points += 1


@dataclass(slots=True, kw_only=True)
class Progress:
    """What a training remembers beside weights, optimiser and random generators."""

    step: int = 0
    """Steps that are done."""
    seconds: float = 0.0
    looking: float = 0.0
    """Of these, spent on looks at embeddings and gradients."""
    saved: bool = False
    history: list[dict[str, float]] = field(default_factory=list)
    """Points of the curves."""
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Sum and number of each figure since the last point."""
    guards: GuardsState = field(default_factory=GuardsState)
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """Those of one phase of a stage's training."""

    context: StageContext
    phase: str

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        random_state: RandomState,
        progress: Progress,
    ) -> None:
        """Publish weights, optimiser, random generators and progress in place of earlier ones.

        Of several processes the first does; the others have the same state but for torch's generator (`seed_step`).

        Args:
            random_state: of the batches' generator, after the last one that was learned from.
        """
        if rank() != 0:
            return
        earlier = self._published()
        attempt = Attempt(
            checkpoint_stage(self.context.stage.name), digest_json([self.context.key, self.phase, progress.step])
        )
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "batches": dict(random_state),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "progress": asdict(progress),
        }
        torch.save(state, attempt.folder / STATE_FILE)
        metrics = {"of": self.context.key, "phase": self.phase, "step": progress.step}
        attempt.publish(metrics=metrics, inputs={}, settings={})
        for artifact in earlier:
            remove_artifact(artifact)

    def restore(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, random: np.random.Generator
    ) -> Progress | None:
        """Set everything as it was when the newest checkpoint was saved; returns its progress, None without one."""
        newest = next(filter(is_whole, reversed(self._published())), None)
        if newest is None:
            return None
        state = torch.load(newest.file(STATE_FILE), map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        random.bit_generator.state = state["batches"]
        torch.set_rng_state(state["torch"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])
        progress = state["progress"]
        parts = {"guards": GuardsState(**progress["guards"]), "patience": Patience(**progress["patience"])}
        return Progress(**progress | parts)

    def _published(self) -> list[Artifact]:
        """This phase's checkpoints, the newest last."""
        found = [c for c in find_checkpoints(self.context.stage.name) if c.metrics["of"] == self.context.key]
        return sorted((c for c in found if c.metrics["phase"] == self.phase), key=lambda c: c.metrics["step"])
