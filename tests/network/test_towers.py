"""The text tower: texts of about one length computed together against all at once; without layers, each word alone."""

from __future__ import annotations

import pytest
import torch

from smar_model.network.towers import ROWS_TOGETHER, TextTower, visible
from tests.network.small_models import small_model


def texts(rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of texts of all lengths, one without a token, some with a hidden token in the middle; their segments."""
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(1, 50, (rows, length), generator=generator)
    lengths = torch.randint(1, length + 1, (rows, 1), generator=generator)
    ids[torch.arange(length) >= lengths] = 0
    ids[torch.rand(ids.shape, generator=generator) < 0.1] = 0
    ids[rows // 2] = 0
    return ids, torch.randint(0, 4, ids.shape, generator=generator)


@pytest.mark.parametrize(("rows", "length"), [(2 * ROWS_TOGETHER + 21, 13), (ROWS_TOGETHER + 1, 5), (ROWS_TOGETHER, 7)])
def test_states_and_gradients_do_not_depend_on_what_is_computed_together(rows: int, length: int) -> None:
    torch.manual_seed(0)
    sizes = {"vocabulary": 50, "length": length, "segments": 4, "width": 16, "heads": 2, "layers": 2, "dropout": 0.0}
    tower = TextTower(**sizes)
    ids, segments = texts(rows, length)
    mask = visible(ids)
    weights = torch.randn(rows, length, 16) * mask[..., None]
    found = {}
    for training in (False, True):
        tower.train(training).zero_grad()
        states = tower(ids, segments, mask)
        (states * weights).sum().backward()
        found[training] = [states[mask].detach(), *(p.grad for p in tower.parameters())]
    assert all(torch.allclose(*pair, atol=1e-4) for pair in zip(found[False], found[True], strict=True))
    assert found[True][0].std() > 0.1


def test_without_layers_a_state_is_its_tokens_own() -> None:
    tower = small_model(variant="default").item_text_tower
    assert {name for name, _ in tower.named_parameters()} == {"tokens.weight", "positions.weight", "segments.weight"}
    ids, segments = texts(2 * ROWS_TOGETHER, 12)
    mask, changed = visible(ids), ids.clone()
    changed[:, 3] = 51
    states, others = (tower.train()(words, segments, mask) for words in (ids, changed))
    apart = (states != others).any(-1)
    assert apart[:, 3].all() and apart.sum() == len(ids)
