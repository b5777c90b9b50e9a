"""The losses against their naive forms, at odd sizes, forward and gradient."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smar_model.network.losses import batch_hinge, duplicates_mask, in_batch_softmax, multi_head_scores

SIZES = [1, 2, 7, 33]


def naive_softmax(
    scores: Tensor, scale: float, excluded: Tensor, *, further: Tensor | None = None, margin: float | None = None
) -> Tensor:
    size = len(scores)
    total = torch.zeros((), dtype=scores.dtype)
    for forward in (True, False):
        for i in range(size):
            rivals = []
            for j in range(size):
                score = scores[i, j] if forward else scores[j, i]
                skipped = excluded[i, j] if forward else excluded[j, i]
                if j != i and not skipped and (margin is None or score <= scores[i, i] + margin):
                    rivals.append(score)
            for score in further[i] if forward and further is not None else []:
                if score > -math.inf and (margin is None or score <= scores[i, i] + margin):
                    rivals.append(score)
            table = torch.stack([scores[i, i], *rivals])
            total = total - torch.log_softmax(scale * table, 0)[0] / size
    return total / 2


def naive_hinge(scores: Tensor, margin: float, excluded: Tensor, *, further: Tensor | None = None) -> Tensor:
    terms = []
    for i in range(len(scores)):
        rivals = [scores[i, j] for j in range(len(scores)) if j != i and not excluded[i, j]]
        rivals += [s for s in further[i] if s > -math.inf] if further is not None else []
        terms += [torch.relu(margin - scores[i, i] + rival) for rival in rivals]
    return torch.stack(terms).mean() if terms else scores.sum() * 0


def random_batch(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (B, B), excluded pairs (B, B), scores of further negatives (B, 5) with one left out."""
    generator = torch.Generator().manual_seed(size)
    scores = torch.rand(size, size, generator=generator, dtype=torch.float64) * 2 - 1
    keys = torch.randint(0, max(2, size // 2), (2, size), generator=generator)
    further = torch.rand(size, 5, generator=generator, dtype=torch.float64) * 2 - 1
    further[0, 3] = -math.inf
    return scores, duplicates_mask(keys[0], keys[1]), further


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("margin", [None, 0.1, 0.0])
@pytest.mark.parametrize("with_further", [False, True])
@pytest.mark.parametrize(("fast", "naive"), [(in_batch_softmax, naive_softmax), (batch_hinge, naive_hinge)])
def test_equals_naive_form_forward_and_gradient(
    fast, naive, with_further: bool, margin: float | None, size: int
) -> None:
    scores, excluded, further = random_batch(size)
    results = []
    for loss in (fast, naive):
        inputs = [scores.clone().requires_grad_(), further.clone().requires_grad_()]
        options = {"further": inputs[1]} if with_further else {}
        if loss in (in_batch_softmax, naive_softmax):
            value = loss(inputs[0], 17.0, excluded, margin=margin, **options)
        else:
            value = loss(inputs[0], margin or 0.3, excluded, **options)
        gradients = torch.autograd.grad(value + 0 * inputs[0].sum(), inputs, allow_unused=True)
        results.append(
            (value, [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, gradients, strict=True)])
        )
    (value, gradients), (expected, expected_gradients) = results
    assert value.item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(gradient, wanted, atol=1e-12)


def test_pairs_left_out_carry_no_gradient() -> None:
    scores = torch.rand(6, 6).requires_grad_()
    queries, items = torch.tensor([0, 1, 1, 2, 3, 4]), torch.tensor([0, 1, 2, 3, 3, 5])
    excluded = duplicates_mask(queries, items)
    in_batch_softmax(scores, 20.0, excluded).backward()
    assert scores.grad[1, 2] == scores.grad[2, 1] == 0  # one query twice
    assert scores.grad[3, 4] == scores.grad[4, 3] == 0  # one item twice
    assert (scores.grad[~excluded] != 0).all()


def test_a_likely_false_negative_carries_no_gradient_in_its_direction() -> None:
    scores = torch.tensor([[0.5, 0.9], [0.1, 0.95]], requires_grad=True)
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    in_batch_softmax(scores, 20.0, nothing, margin=0.1).backward()
    # Item 1 looks right for query 0, but query 0 does not look right for item 1, whose own query scores more.
    with_mask = scores.grad.clone()
    scores.grad = None
    in_batch_softmax(scores, 20.0, nothing).backward()
    assert 0 < with_mask[0, 1] < scores.grad[0, 1]


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 20), st.integers(0, 1000))
def test_a_batch_of_equal_scores_costs_log_of_its_size(size: int, seed: int) -> None:
    loss = in_batch_softmax(torch.full((size, size), seed / 1000), 20.0, torch.zeros(size, size, dtype=torch.bool))
    assert loss.item() == pytest.approx(math.log(size), rel=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_multi_head_scores_equal_their_formula(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    heads = torch.randn(size, 3, 4, generator=generator, dtype=torch.float64)
    items = torch.randn(size + 1, 4, generator=generator, dtype=torch.float64)
    scores = multi_head_scores(heads, items, 0.5)
    for b in range(size):
        for n in range(size + 1):
            each = [math.fsum(x * y for x, y in zip(h, items[n].tolist(), strict=True)) for h in heads[b].tolist()]
            weights = [math.exp(e / 0.5) for e in each]
            expected = sum(w * e for w, e in zip(weights, each, strict=True)) / sum(weights)
            assert scores[b, n].item() == pytest.approx(expected, rel=1e-9)


def test_one_head_is_the_plain_inner_product() -> None:
    heads, items = torch.randn(5, 1, 8), torch.randn(7, 8)
    assert torch.allclose(multi_head_scores(heads, items, 0.1), heads[:, 0] @ items.T, atol=1e-6)
