"""What the loop watches, so that a training that has gone wrong ends early and says why.

Loss        not finite, or far above what it was: ends the training, with some pairs of the batch.
Collapse    embeddings of different pairs alike (mean cosine), or on a line (effective rank: the exponential of the entropy
            of the singular values' shares, Roy and Vetterli 2007): a warning; ends the training when it stays so.
Dominance   picture or text side has nearly all of the gradient: a warning.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from smar_model.errors import InputError
from smar_model.training.gradient_cache import Embeddings

EXPLODED, LOSSES, FIRST_LOSSES = 10.0, 50, 20
"""A loss has exploded at so many times the median of the last ones (but no less than 1); how many they are, and at least."""
FIRST_STEPS = 100
"""Embeddings are alike before anything is learned: no alarm sooner, nor during warm-up."""
ALIKE, COLLAPSED = 0.9, 0.99
"""Mean cosine of different rows: a warning, collapse."""
FLAT, LINE = 3.0, 1.2
"""Effective rank: a warning, collapse."""
LOOKS = 3
"""Collapse at so many looks one after the other ends the training."""
DOMINANT = 0.98
"""Share of one side in the two norms."""
SMALLEST = 8
"""Rows from which on their cosines are looked at."""
PICTURE_SIDE, TEXT_SIDE = {"vision", "image_tower", "image_projection"}, {"item_text_tower"}


def mean_cosine(rows: Tensor) -> float:
    """Mean cosine of different unit vectors: (B, D)."""
    size = len(rows)
    return ((rows.sum(0).square().sum() - rows.square().sum()) / (size * (size - 1))).item()


def effective_rank(rows: Tensor) -> float:
    """Of the centred rows (B, D): from 1, all on a line, to D; 0 where all are the same."""
    centred = (rows - rows.mean(0)).double()
    values = torch.linalg.eigvalsh(centred.T @ centred).clamp(min=0).sqrt()
    if values.sum() < 1e-9:
        return 0.0
    shares = values / values.sum()
    return math.exp(-torch.xlogy(shares, shares).sum().item())


@dataclass(slots=True, kw_only=True)
class GuardsState:
    """All that the guards remember: part of a checkpoint."""

    losses: list[float] = field(default_factory=list)
    """The last LOSSES ones."""
    collapsed: dict[str, int] = field(default_factory=dict)
    """Looks one after the other at which embeddings of a name had collapsed."""
    warnings: dict[str, int] = field(default_factory=dict)
    """Alarms by kind."""


@dataclass(slots=True, kw_only=True)
class Guards:
    model: nn.Module
    report: Callable[[str], None]
    quiet_steps: int = FIRST_STEPS
    """Steps before the first alarm over embeddings."""
    state: GuardsState = field(default_factory=GuardsState)

    def watch_loss(self, step: int, parts: Mapping[str, Tensor], describe: Callable[[], str]) -> None:
        """Take note of a step's loss.

        Raises:
            InputError: it is not finite or has exploded; names the step and some pairs.
        """
        loss, earlier = parts["loss"].item(), self.state.losses
        wrong = None if math.isfinite(loss) else "the loss is not finite"
        if not wrong and len(earlier) >= FIRST_LOSSES:
            usual = statistics.median(earlier)
            if loss > EXPLODED * max(1.0, usual):
                wrong = f"the loss has exploded, from about {usual:.3g} to {loss:.3g}"
        if wrong:
            values = {name: round(value.item(), 4) for name, value in parts.items()}
            raise InputError(
                f"step {step}: {wrong} ({values}); lower learning_rate, or look at the batch: {describe()}"
            )
        self.state.losses = [*earlier, loss][-LOSSES:]

    @torch.no_grad()
    def watch_embeddings(self, step: int, embeddings: Embeddings) -> dict[str, float]:
        """Figures of the batch's embeddings, `…_cosine` and `…_rank`.

        Raises:
            InputError: they have collapsed.
        """
        figures: dict[str, float] = {}
        for name in ("queries", "texts", "images", "multimodal"):
            if name not in embeddings:
                continue
            rows = embeddings[name].detach().float()
            rows = rows[:, 0] if rows.ndim == 3 else rows  # of several heads the first
            if name == "images":  # items without a picture share one state
                rows = rows[embeddings["has_picture"].bool()]
            if len(rows) < SMALLEST:
                continue
            cosine, rank = mean_cosine(rows), effective_rank(rows)
            figures |= {f"{name}_cosine": cosine, f"{name}_rank": rank}
            if step < self.quiet_steps:
                continue
            words = f"{name} of different pairs are alike (mean cosine {cosine:.3f}, effective rank {rank:.1f})"
            if cosine > ALIKE or rank < FLAT:
                self._warn("collapse", f"step {step}: {words}")
            looks = self.state.collapsed.get(name, 0) + 1 if cosine > COLLAPSED or rank < LINE else 0
            self.state.collapsed[name] = looks
            if looks == LOOKS:
                raise InputError(
                    f"step {step}: {words}, {LOOKS} times one after the other: training has collapsed; lower "
                    "learning_rate, enlarge the batch, or look at the weights of the losses"
                )
        return figures

    @torch.no_grad()
    def watch_gradients(self, step: int) -> dict[str, float]:
        """`picture_gradient_share`: the picture side's gradient norm by the sum of both sides'; where both learn."""
        norms = []
        for side in (PICTURE_SIDE, TEXT_SIDE):
            parameters = (p for name, p in self.model.named_parameters() if side & set(name.split(".")))
            gradients = [p.grad for p in parameters if p.grad is not None]
            if not gradients:
                return {}
            norms.append(torch.nn.utils.get_total_norm(gradients).item())
        share = norms[0] / (sum(norms) or 1.0)
        if step >= self.quiet_steps and max(share, 1 - share) > DOMINANT:
            stronger = "picture" if share > 0.5 else "text"
            self._warn("dominance", f"step {step}: the {stronger} side has {max(share, 1 - share):.1%} of the gradient")
        return {"picture_gradient_share": share}

    @property
    def warnings(self) -> dict[str, float]:
        return {f"{kind}_warnings": float(self.state.warnings.get(kind, 0)) for kind in ("collapse", "dominance")}

    def _warn(self, kind: str, message: str) -> None:
        count = self.state.warnings.get(kind, 0) + 1
        self.state.warnings[kind] = count
        if count == 1:
            self.report(f"warning: {message}")
