"""Checkpoints: published like any other output, resumed exactly.

A checkpoint belongs to the key of the output that is being trained, so that only the same training, from the same data and
settings, takes it up. `smar start` removes those whose output is finished (`lake/artifacts.py`).
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import nn

from smar_model.errors import InputError
from smar_model.lake.artifacts import (
    Artifact,
    checkpoint_stage,
    find_artifact,
    find_checkpoints,
    is_whole,
    remove_artifact,
)
from smar_model.lake.digests import digest_json
from smar_model.lake.publishing import Attempt
from smar_model.lake.stage import StageContext
from smar_model.settings import Optimisation
from smar_model.training.guards import GuardsState
from smar_model.training.prefetch import RandomState
from smar_model.training.processes import first_rows, from_first, processes, rank

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
    """What a training remembers beside weights, optimiser and the batches' random generator."""

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
    optimisation: Optimisation
    phase: str

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        random_state: RandomState,
        progress: Progress,
    ) -> None:
        """Publish weights, optimiser, the batches' random generator and progress in place of earlier ones.

        Of several processes the first does; the others have the same state. Torch's generator is no part of it, as it is seeded anew for
        each part of a batch (`seed_rows`).

        Args:
            random_state: after the last batch that was learned from.
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
            "progress": asdict(progress),
        }
        torch.save(state, attempt.folder / STATE_FILE)
        made = {"of": self.context.key, "phase": self.phase, "step": progress.step, "processes": processes()}
        attempt.publish(metrics=made, inputs={}, settings={})
        for artifact in earlier:
            remove_artifact(artifact)

    def restore(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, random: np.random.Generator
    ) -> Progress | None:
        """Set everything as it was when the newest checkpoint was saved; returns its progress, None without one.

        The first process says which that is: another one may see one more already, of a machine that was taken for lost.

        Raises:
            InputError: the training would not be the same in this number of processes, or this one does not see the checkpoint.
        """
        found = next(filter(is_whole, reversed(self._published())), None) if rank() == 0 else None
        key = from_first(found.key if found else None)
        if key is None:
            return None
        checkpoint = find_artifact(checkpoint_stage(self.context.stage.name), key)
        if checkpoint is None:
            raise InputError(
                f"{self.context.stage.name}: {platform.node()} does not see the checkpoint that the first process goes on from; "
                "give all machines the same SMAR_HOME or SMAR_STORE"
            )
        self._refuse_other_processes(checkpoint, model)
        state = torch.load(checkpoint.file(STATE_FILE), map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        random.bit_generator.state = state["batches"]
        progress = state["progress"]
        parts = {"guards": GuardsState(**progress["guards"]), "patience": Patience(**progress["patience"])}
        return Progress(**progress | parts)

    def _refuse_other_processes(self, checkpoint: Artifact, model: nn.Module) -> None:
        """Sums have another order in another number of processes, and no more than that may differ."""
        made, now, optimisation = checkpoint.metrics["processes"], processes(), self.optimisation
        if made == now:
            return
        cuts = [first_rows(optimisation.batch, number, optimisation.chunk) for number in (made, now)]
        differs = None
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in model.modules()):
            differs = "batch normalisation, which takes its statistics over a process's share,"
        elif cuts[0] != cuts[1] and self.context.settings.network.dropout:
            differs = "dropout, which falls on a process's share, or a chunk of it,"
        if differs:
            raise InputError(
                f"{self.context.stage.name}: its checkpoint after step {checkpoint.metrics['step']} was made by {made} process(es); {differs} "
                f"would be another in {now}. Start {made} in all, on however many machines (--nnodes, --nproc-per-node)"
            )

    def _published(self) -> list[Artifact]:
        """This phase's checkpoints, the newest last."""
        found = [c for c in find_checkpoints(self.context.stage.name) if c.metrics["of"] == self.context.key]
        return sorted((c for c in found if c.metrics["phase"] == self.phase), key=lambda c: c.metrics["step"])
