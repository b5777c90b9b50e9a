"""The next batch is made while this one is trained on."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smar_model.training.batches import Batch

RandomState = dict[str, Any]
"""Of numpy's generators, as JSON."""
LOWEST = 19
"""Of Unix's priorities."""


def prefetch(batches: Iterator[Batch], random: np.random.Generator) -> Iterator[tuple[Batch, RandomState]]:
    """Batches, each with the state of their random generator after it: by then the generator itself has gone on.

    One is made ahead, in a thread, and for a GPU put into memory that it can copy from by itself.
    """

    gpu = torch.cuda.current_device() if torch.cuda.is_available() else None

    def make() -> tuple[Batch | None, RandomState]:
        batch = next(batches, None)
        if batch is not None and gpu is not None:
            torch.cuda.set_device(gpu)  # a thread begins on the first one
            batch.change(Tensor.pin_memory)
        return batch, dict(random.bit_generator.state)

    with ThreadPoolExecutor(1, thread_name_prefix="batches", initializer=_give_way) as thread:
        coming = thread.submit(make)
        while True:
            batch, state = coming.result()
            if batch is None:
                return
            coming = thread.submit(make)
            yield batch, state


def _give_way() -> None:
    """Where as many threads train as there are cores, each waits for the slowest: this one takes what they leave."""
    if sys.platform == "linux":  # elsewhere a thread has no priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
