"""The text tower: texts of about one length computed together against all at once; without layers, each word alone or their mean."""

from __future__ import annotations

import pytest
import torch

from smar_model.network.towers import ROWS_TOGETHER, MeanOfWords, TextTower, masked_mean, visible
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
        states, _ = tower(ids, segments)
        (states * weights).sum().backward()
        found[training] = [states[mask].detach(), *(p.grad for p in tower.parameters())]
    assert all(torch.allclose(*pair, atol=1e-4) for pair in zip(found[False], found[True], strict=True))
    assert found[True][0].std() > 0.1


SIZES = {"vocabulary": 52, "length": 12, "segments": 4, "width": 16, "heads": 2, "layers": 0, "dropout": 0.0}


def test_without_layers_a_state_is_its_tokens_own() -> None:
    tower = TextTower(**SIZES)
    assert {name for name, _ in tower.named_parameters()} == {"tokens.weight", "positions.weight", "segments.weight"}
    ids, segments = texts(2 * ROWS_TOGETHER, 12)
    changed = ids.clone()
    changed[:, 3] = 51
    (states, _), (others, _) = (tower.train()(words, segments) for words in (ids, changed))
    apart = (states != others).any(-1)
    assert apart[:, 3].all() and apart.sum() == len(ids)


def test_the_mean_of_words_is_the_mean_of_a_towers_states_without_layers() -> None:
    torch.manual_seed(0)
    words, naive = MeanOfWords(**SIZES), TextTower(**SIZES)
    naive.load_state_dict(words.state_dict())
    ids, segments = texts(37, 11)
    weights, found = torch.randn(37, 16), []
    for tower in (words, naive):
        means = masked_mean(*tower(ids, segments))
        (means * weights).sum().backward()
        found.append([means.detach(), *(p.grad for p in tower.parameters())])
    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(*found, strict=True))
    assert (
        found[0][0].std() > 0.1 and not found[0][1][0].any()
    )  # padding learns nothing, not from a text without words either


def test_single_words_are_there_for_cross_attention_alone() -> None:
    for fusion, places in (("mlp", 1), ("cross_attention", 12)):
        states, mask, _ = small_model(variant="default", fusion=fusion).encode_texts(*texts(5, 12))
        assert states.shape[1] == mask.shape[1] == places
