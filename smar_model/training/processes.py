"""What several processes that train together must do as one; each function does nothing special where there is one.

All draw the same global batches, since they have the same seed; each encodes its share of the rows (`own_rows`). The
embeddings are gathered, so that the loss is that of the global batch, and the gradients summed.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from smar_model.errors import InputError

Value = TypeVar("Value")


def processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; 0 is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def own_rows(count: int) -> slice:
    """Those of a global batch that this process encodes.

    Raises:
        InputError: processes would have different numbers of rows.
    """
    each, left = divmod(count, processes())
    if left:
        raise InputError(
            f"a batch of {count} pairs has no equal shares for {processes()} processes: change `batch` in the settings or "
            "the number of processes"
        )
    return slice(rank() * each, (rank() + 1) * each)


def from_first(value: Value) -> Value:
    """What the first process gives, in all of them: decisions that may not differ."""
    if processes() == 1:
        return value
    said = [value]
    dist.broadcast_object_list(said, src=0, device=torch.device("cpu"))
    return said[0]


def wait_for_all() -> None:
    """Until every process has come here: they may be hours apart, which a collective operation of gloo does not wait."""
    if processes() > 1:
        dist.barrier(dist.new_group(backend="gloo", timeout=timedelta(days=1)))  # type: ignore[arg-type]  # a member gets a group


def first_rows(batch: int, number: int, chunk: int | None) -> list[int]:
    """Rows of a global batch at which a part begins that is encoded by itself, with this number of processes.

    Args:
        chunk: pairs that a process encodes at a time; None: its whole share.
    """
    share = batch // number
    return [start + row for start in range(0, batch, share) for row in range(0, share, chunk or share)]


def seed_rows(seed: int, step: int, row: int) -> None:
    """Seed dropout for the part of the global batch that begins with this row.

    A function of these three alone: it falls as before after a checkpoint, and in any number of processes that cut the batch alike.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, step, row]).generate_state(1, np.uint64)[0]))


def gather(embeddings: dict[str, Tensor]) -> dict[str, Tensor]:
    """The rows of all processes in the order of their ranks; this process's own carry gradient."""
    if processes() == 1:
        return embeddings
    gathered = {}
    for name, value in embeddings.items():
        rows = [torch.empty_like(value) for _ in range(processes())]
        dist.all_gather(rows, value.detach().contiguous())
        rows[rank()] = value
        gathered[name] = torch.cat(rows)
    return gathered


def sum_gradients(parameters: Iterable[nn.Parameter], sent_as: torch.dtype = torch.float32) -> None:
    """All in one message: the towers are small, and chunks leave nothing to overlap with.

    Args:
        sent_as: what they are rounded to on their way; with bfloat16 half as many bytes, as DDP's `bf16_compress_hook` does.
    """
    if processes() == 1:
        return
    parameters = list(parameters)
    # One that no process used keeps no gradient, so that the optimiser passes over it as it does in one process.
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8, device=parameters[0].device)
    dist.all_reduce(used, dist.ReduceOp.MAX)
    parameters = [p for p, u in zip(parameters, used.tolist(), strict=True) if u]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    sent = flat.to(sent_as)
    dist.all_reduce(sent)
    flat = sent.to(flat.dtype)
    for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = gradient.view_as(parameter)


@torch.no_grad()
def average_statistics(model: nn.Module) -> None:
    """Running statistics of batch normalisation, of which each process has seen its share: their mean over processes."""
    if processes() == 1:
        return
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and module.track_running_stats:
            for statistic in (module.running_mean, module.running_var):
                assert statistic is not None
                dist.all_reduce(statistic)
                statistic /= processes()
