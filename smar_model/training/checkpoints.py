"""Checkpoints: published like any other output, resumed exactly.

A checkpoint belongs to the key of the output that is being trained, so that only the same training, from the same data and
settings, takes it up. `smar start` removes those whose output is finished (`lake/artifacts.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from smar_model.lake.artifacts import checkpoint_stage, find_checkpoints, is_whole, remove_artifact
from smar_model.lake.digests import digest_json
from smar_model.lake.publishing import Attempt
from smar_model.lake.stage import StageContext
from smar_model.training.processes import rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """Those of one phase of a stage's training."""

    context: StageContext
    phase: str

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        random_state: Mapping[str, Any],
        progress: Mapping[str, Any],
    ) -> None:
        """Publish weights, optimiser, random generators and `progress` (JSON; with `step`) in place of earlier ones.

        Of several processes the first does; the others have the same state but for torch's generator (`seed_step`).

        Args:
            random_state: of the batches' generator, after the last one that was learned from.
        """
        if rank() != 0:
            return
        earlier = self._published()
        attempt = Attempt(
            checkpoint_stage(self.context.stage.name), digest_json([self.context.key, self.phase, progress["step"]])
        )
        tensors = {f"model.{name}": value.detach().clone() for name, value in model.state_dict().items()}
        state = optimizer.state_dict()
        for number, of_parameter in state["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value.clone() for name, value in of_parameter.items()}
        tensors["random.torch"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        save_file({name: value.contiguous() for name, value in tensors.items()}, attempt.folder / "state.safetensors")
        content = {"progress": progress, "random": random_state}
        (attempt.folder / "state.json").write_text(json.dumps(content), encoding="utf-8")
        metrics = {"of": self.context.key, "phase": self.phase, "step": progress["step"]}
        attempt.publish(metrics=metrics, inputs={}, settings={})
        for artifact in earlier:
            remove_artifact(artifact)

    def restore(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, random: np.random.Generator
    ) -> dict[str, Any] | None:
        """Set everything as it was when the newest checkpoint was saved; returns its `progress`, None without one."""
        newest = next(filter(is_whole, reversed(self._published())), None)
        if newest is None:
            return None
        tensors = load_file(newest.file("state.safetensors"))
        content = json.loads(newest.file("state.json").read_text(encoding="utf-8"))
        model.load_state_dict(_below(tensors, "model."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _below(tensors, "optimizer.").items():
            number, of = name.split(".", 1)
            state.setdefault(int(number), {})[of] = value
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        torch.set_rng_state(tensors["random.torch"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"])
        random.bit_generator.state = content["random"]
        return content["progress"]

    def _published(self) -> list:
        """This phase's checkpoints, the newest last."""
        found = [c for c in find_checkpoints(self.context.stage.name) if c.metrics["of"] == self.context.key]
        return sorted((c for c in found if c.metrics["phase"] == self.phase), key=lambda c: c.metrics["step"])


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
