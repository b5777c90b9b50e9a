"""Each guard fires on a planted case, and on nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from smar_model.errors import InputError
from smar_model.training.guards import COLLAPSED, FIRST_LOSSES, LOOKS, Guards, effective_rank, mean_cosine

LATE = 1_000


class Towers(nn.Module):
    """Named as the network's sides are."""

    def __init__(self) -> None:
        super().__init__()
        self.image_tower, self.item_text_tower, self.fusion = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def guards(said: list[str]) -> Guards:
    return Guards(model=Towers(), report=said.append)


def healthy(rows: int = 64, dimension: int = 16) -> Tensor:
    torch.manual_seed(0)
    return normalize(torch.randn(rows, dimension), dim=1)


def collapsed(rows: int = 64, dimension: int = 16) -> Tensor:
    return normalize(torch.ones(dimension) + 0.01 * healthy(rows, dimension), dim=1)


def on_a_line(rows: int = 64, dimension: int = 16) -> Tensor:
    torch.manual_seed(0)
    return torch.where(torch.rand(rows, 1) < 0.5, -1.0, 1.0) * normalize(torch.ones(1, dimension), dim=1)


def losses(guards: Guards, *values: float) -> None:
    for step, value in enumerate(values):
        guards.watch_loss(step, {"loss": torch.tensor(value), "text": torch.tensor(1.0)}, lambda: "'red shirt' → i1")


def test_the_measures_are_what_their_definitions_say() -> None:
    rows = healthy(9, 5)
    cosines = [(rows[i] @ rows[j]).item() for i in range(9) for j in range(9) if i != j]
    assert mean_cosine(rows) == pytest.approx(sum(cosines) / len(cosines), abs=1e-6)
    values = torch.linalg.svdvals((rows - rows.mean(0)).double())
    shares = values / values.sum()
    assert effective_rank(rows) == pytest.approx((-(shares * shares.log()).sum()).exp().item(), rel=1e-4)
    assert effective_rank(on_a_line()) == pytest.approx(1, abs=0.01)
    assert effective_rank(torch.ones(9, 5)) == 0
    assert 14 < effective_rank(healthy()) <= 16


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_with_pairs_of_its_batch(guards: Guards, value: float) -> None:
    with pytest.raises(InputError, match=r"step 1: the loss is not finite .*'text': 1.0.*'red shirt' → i1"):
        losses(guards, 3.0, value)


def test_an_exploding_loss_stops(guards: Guards) -> None:
    with pytest.raises(InputError, match=rf"step {FIRST_LOSSES}: the loss has exploded, from about 2 to 21"):
        losses(guards, *[2.0] * FIRST_LOSSES, 21.0)


def test_a_loss_near_nothing_may_jump(guards: Guards) -> None:
    losses(guards, *[0.01] * 100, 5.0, *[7.0] * 100, 0.01)
    assert guards.state.losses[-1] == pytest.approx(0.01), "noted, not refused"


@pytest.mark.parametrize("rows", [collapsed(), on_a_line()])
def test_collapse_warns_and_then_stops(guards: Guards, said: list[str], rows: Tensor) -> None:
    for step in range(LATE, LATE + LOOKS - 1):
        figures = guards.watch_embeddings(step, {"queries": healthy(), "texts": rows})
    assert figures["texts_cosine"] > COLLAPSED or figures["texts_rank"] < 1.2
    assert len(said) == 1 and "texts of different pairs are alike" in said[0], "told once"
    assert guards.warnings == {"collapse_warnings": LOOKS - 1, "dominance_warnings": 0}
    with pytest.raises(InputError, match=rf"step {LATE + LOOKS}: texts .* {LOOKS} times .* has collapsed"):
        guards.watch_embeddings(LATE + LOOKS, {"texts": rows})


def test_embeddings_that_recover_go_on(guards: Guards) -> None:
    for rows in [collapsed(), collapsed(), healthy()] * 3:
        guards.watch_embeddings(LATE, {"texts": rows})
    assert guards.state.collapsed == {"texts": 0}
    assert guards.warnings["collapse_warnings"] == 6


def test_nothing_is_said_of_healthy_embeddings_or_before_anything_is_learned(guards: Guards, said: list[str]) -> None:
    heads = torch.stack([healthy(), collapsed()], dim=1)
    for step in range(LOOKS + 1):
        guards.watch_embeddings(step, {"texts": collapsed()})
        guards.watch_embeddings(LATE + step, {"queries": heads, "texts": healthy()})
    assert not said


def test_items_without_picture_do_not_count_as_alike(guards: Guards) -> None:
    has = torch.arange(64) % 4 == 0
    images = torch.where(has[:, None], healthy(), collapsed()[:1])
    figures = guards.watch_embeddings(LATE, {"images": images, "has_picture": has})
    assert figures["images_cosine"] < 0.2
    assert guards.watch_embeddings(LATE, {"images": images, "has_picture": torch.zeros(64, dtype=torch.bool)}) == {}


@pytest.mark.parametrize(("picture", "text", "warned"), [(1.0, 1.0, 0), (1.0, 0.01, 1), (0.01, 1.0, 1)])
def test_a_side_that_has_nearly_all_of_the_gradient_is_told(
    guards: Guards, said: list[str], picture: float, text: float, warned: int
) -> None:
    assert guards.watch_gradients(LATE) == {}, "no gradient, no figure"
    towers = guards.model
    for tower, size in ((towers.image_tower, picture), (towers.item_text_tower, text)):
        tower.weight.grad = torch.full_like(tower.weight, size)
    towers.fusion.weight.grad = torch.full_like(towers.fusion.weight, 100.0)
    share = guards.watch_gradients(LATE)["picture_gradient_share"]
    assert share == pytest.approx(picture / (picture + text))
    assert len(said) == warned
    if warned:
        assert f"the {'picture' if picture > text else 'text'} side has 99.0% of the gradient" in said[0]
