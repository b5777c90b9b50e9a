"""The contrastive loss against its naive form, at odd sizes, forward and gradient."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smar_model.network.losses import duplicates_mask, in_batch_softmax


def naive_softmax(scores: torch.Tensor, scale: float, excluded: torch.Tensor) -> torch.Tensor:
    size = len(scores)
    total = torch.zeros((), dtype=scores.dtype)
    for table, skip in ((scores, excluded), (scores.T, excluded.T)):
        for i in range(size):
            kept = [j for j in range(size) if not skip[i, j]]
            total = total - torch.log_softmax(scale * table[i, kept], 0)[kept.index(i)] / size
    return total / 2


@pytest.mark.parametrize("size", [1, 2, 7, 33])
def test_equals_naive_form_forward_and_gradient(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    scores = torch.rand(size, size, generator=generator, dtype=torch.float64) * 2 - 1
    keys = torch.randint(0, max(2, size // 2), (2, size), generator=generator)
    excluded = duplicates_mask(keys[0], keys[1])
    fast_in, slow_in = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    fast = in_batch_softmax(fast_in, 17.0, excluded)
    slow = naive_softmax(slow_in, 17.0, excluded)
    fast.backward()
    slow.backward()
    assert fast.item() == pytest.approx(slow.item(), rel=1e-9)
    assert torch.allclose(fast_in.grad, slow_in.grad, atol=1e-12)


def test_excluded_pairs_carry_no_gradient() -> None:
    scores = torch.rand(6, 6, requires_grad=True)
    queries, items = torch.tensor([0, 1, 1, 2, 3, 4]), torch.tensor([0, 1, 2, 3, 3, 5])
    excluded = duplicates_mask(queries, items)
    in_batch_softmax(scores, 20.0, excluded).backward()
    assert scores.grad[1, 2] == scores.grad[2, 1] == 0  # one query twice
    assert scores.grad[3, 4] == scores.grad[4, 3] == 0  # one item twice
    assert (scores.grad[~excluded] != 0).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 20), st.integers(0, 1000))
def test_a_batch_of_equal_scores_costs_log_of_its_size(size: int, seed: int) -> None:
    loss = in_batch_softmax(torch.full((size, size), seed / 1000), 20.0, torch.zeros(size, size, dtype=torch.bool))
    assert loss.item() == pytest.approx(math.log(size), rel=1e-5)
