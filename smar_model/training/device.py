"""Where training runs, in which precision, and from which seed."""

from __future__ import annotations

import time
from typing import Literal

import torch
from torch import nn


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def mixed_precision(precision: Literal["fp32", "bf16"]) -> torch.autocast:
    """Within it `bf16` computes in bfloat16 what is safe in it; `fp32` changes nothing."""
    return torch.autocast(device().type, torch.bfloat16, enabled=precision == "bf16")


def compile_parts(model: nn.Module) -> None:
    """Compile what the model consists of, in place: its weights keep their names."""
    for part in model.children():
        part.compile(dynamic=True)  # lengths differ from batch to batch


def seed_everything(seed: int, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(seed)


def clock() -> float:
    """Seconds, once a GPU has done all that it was given."""
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()
