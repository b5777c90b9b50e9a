"""Batches made ahead: the same ones, with the state from which the next would be drawn again, and never more than one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch

from smar_model.training.batches import Batch
from smar_model.training.prefetch import prefetch


def drawn(random: np.random.Generator, made: list[Batch] | None = None) -> Iterator[Batch]:
    while True:
        ids = torch.from_numpy(random.integers(1, 100, (4, 3)))
        batch = Batch(queries=ids, query_keys=ids[:, 0], item_keys=ids[:, 1], texts=ids, segments=ids * 0)
        if made is not None:
            made.append(batch)
        yield batch


def ids(batches: Iterator[Batch], count: int) -> list[list[list[int]]]:
    return [batch.queries.tolist() for batch in islice(batches, count)]


def test_batches_go_on_from_the_state_that_came_with_one() -> None:
    wanted = ids(drawn(np.random.default_rng(0)), 6)
    random = np.random.default_rng(0)
    found = list(islice(prefetch(drawn(random), random), 4))
    assert [batch.queries.tolist() for batch, _ in found] == wanted[:4]
    later = np.random.default_rng(1)
    later.bit_generator.state = found[-1][1]
    assert ids(drawn(later), 2) == wanted[4:]
    assert random.bit_generator.state != found[-1][1]  # it has gone on, so it would not do


def test_one_batch_is_made_ahead_and_no_thread_stays() -> None:
    random, made = np.random.default_rng(0), []
    batches = prefetch(drawn(random, made), random)
    for taken in range(1, 5):
        next(batches)
        assert taken <= len(made) <= taken + 1
    batches.close()
    assert len(made) == 5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_the_last_batch_of_a_finite_source_comes_too() -> None:
    random = np.random.default_rng(0)
    assert len(list(prefetch(islice(drawn(random), 3), random))) == 3


def test_what_goes_wrong_in_making_a_batch_is_raised() -> None:
    def broken() -> Iterator[Batch]:
        raise ValueError("no such item")
        yield

    with pytest.raises(ValueError, match="no such item"):
        next(prefetch(broken(), np.random.default_rng(0)))
