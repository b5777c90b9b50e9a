"""Where training runs, in which precision, from which seed, and with what memory."""

from __future__ import annotations

import ctypes
import platform
import time
from typing import Literal

import torch
from torch import nn

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's mallopt; it takes no more than 2²⁵ for the second."""


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


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next one. Else it hands the larger tensors' pages back to the kernel and asks for them again,
    some four thousand times a step: a sixth of the CPU time of a small network (`benchmarks/training.md`)."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for threshold, size in ((M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, 2**31 - 1)):
            libc.mallopt(threshold, size)


def clock() -> float:
    """Seconds, once a GPU has done all that it was given."""
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()
