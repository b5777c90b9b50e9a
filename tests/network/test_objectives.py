"""How the losses of a batch are put together: further items, prefixes of embeddings, weights of the modalities."""

from __future__ import annotations

import pytest
import torch

from smar_model.errors import InputError
from smar_model.network.losses import in_batch_softmax
from smar_model.network.modality_weights import ModalityWeights
from smar_model.settings import Network, validate_settings
from smar_model.training.gradient_cache import Embeddings
from smar_model.training.pair_embeddings import encode_pairs
from smar_model.training.pretrain import three_losses
from tests.network.small_models import small_batch, small_model

WEIGHTS = (0.3, 0.1, 1.0)


def leaves(found: Embeddings) -> Embeddings:
    return {n: v.detach().requires_grad_() if v.is_floating_point() else v for n, v in found.items()}


def test_further_items_are_negatives_of_every_query_but_not_of_their_own() -> None:
    model = small_model(variant="text_only")
    batch = small_batch(model, 5, further=2)
    batch.item_keys[4] = batch.item_keys[0]  # the first of pair 1's further items is pair 0's own
    found = leaves(encode_pairs(model, batch, pictures=False))
    assert found["further_texts"].shape == (5, 2, 16)
    loss = three_losses(model, found, WEIGHTS)["text"]
    further = found["queries"] @ found["further_texts"].flatten(0, 1).T
    further[0, 2] = -torch.inf
    skip = torch.zeros(5, 5, dtype=torch.bool)
    assert loss.item() == pytest.approx(
        in_batch_softmax(found["queries"] @ found["texts"].T, model.scale, skip, further=further).item()
    )
    # A score left out is −inf: it must not reach the temperature's gradient.
    assert torch.isfinite(torch.autograd.grad(loss, model.log_scale)[0])
    found["queries"] = torch.eye(5, 16)
    three_losses(model, found, WEIGHTS)["loss"].backward()
    by_query = found["further_texts"].grad[1, 0, :5]  # what each of the orthogonal queries says to that item
    assert by_query[0] == 0
    assert by_query[1:].all()


def test_items_without_a_picture_take_no_part_in_the_image_loss() -> None:
    model = small_model()
    found = leaves(encode_pairs(model, small_batch(model, 7, further=1), pictures=True))
    three_losses(model, found, (0.0, 1.0, 0.0))["loss"].backward()
    assert torch.equal(found["images"].grad.any(1), found["has_picture"])
    assert torch.equal(found["further_images"].grad.any(-1), found["further_has_picture"])
    assert torch.equal(found["queries"].grad.any(1), found["has_picture"])


def test_a_batch_without_any_picture_has_no_image_loss() -> None:
    model = small_model()
    batch = small_batch(model)
    batch.has_picture = torch.zeros(7, dtype=torch.bool)
    parts = three_losses(model, encode_pairs(model, batch, pictures=True), WEIGHTS)
    assert "image" not in parts
    assert torch.isfinite(parts["loss"])
    three_losses(model, encode_pairs(model, batch, pictures=True), (0.0, 1.0, 0.0))["loss"].backward()
    assert not model.query_tower.tokens.weight.grad.any()


def test_the_loss_over_prefixes_is_the_mean_of_their_losses() -> None:
    model = small_model(variant="text_only", matryoshka=(3, 8, 16))
    found = encode_pairs(model, small_batch(model), pictures=False)
    losses = []
    for length in (3, 8, 16):
        queries, texts = (torch.nn.functional.normalize(found[n][:, :length], dim=1) for n in ("queries", "texts"))
        losses.append(in_batch_softmax(queries @ texts.T, model.scale, torch.zeros(7, 7, dtype=torch.bool)))
    assert three_losses(model, found, WEIGHTS)["text"].item() == pytest.approx(torch.stack(losses).mean().item())


def test_prefixes_must_end_with_the_whole_embedding() -> None:
    with pytest.raises(ValueError, match=r"the longest is network\.dimension itself"):
        Network(dimension=16, matryoshka=(4, 8))
    training = {"adapt_vision": {"steps": 1}, "pretrain": {"steps": 1}, "finetune": {"steps": 1}}
    content = {"shop": {"root": "x", "visual_departments": ["A"]}, "training": training}
    with pytest.raises(InputError, match=r"network\.matryoshka: Value error, the longest"):
        validate_settings(content | {"network": {"matryoshka": [64]}}, source="tests")


@pytest.mark.parametrize("weighting", ["uncertainty", "per_pair"])
def test_learned_weights_begin_where_settings_say_and_move(weighting: str) -> None:
    model = small_model()
    weights = ModalityWeights(weighting, WEIGHTS, dimension=16)
    found = leaves(encode_pairs(model, small_batch(model), pictures=True))
    fixed, learned = three_losses(model, found, WEIGHTS), three_losses(model, found, weights)
    for part in ("text", "image", "multimodal"):
        assert learned[part].item() == pytest.approx(fixed[part].item(), rel=1e-5)
    assert learned["loss"].item() == pytest.approx(fixed["loss"].item(), rel=1e-5)
    before = learned["loss"].item()
    optimizer = torch.optim.Adam(weights.parameters(), lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        parts = three_losses(model, found, weights)
        parts["loss"].backward()
        optimizer.step()
    assert parts["loss"].item() < before
    moved = torch.stack([parts[f"weight_{part}"] for part in ("text", "image", "multimodal")])
    assert (moved > torch.tensor(WEIGHTS) / 10).all()
    assert (moved < torch.tensor(WEIGHTS) * 10).all()
    assert ((moved / torch.tensor(WEIGHTS)).log().abs() > 0.1).any()


def test_weights_of_a_pair_give_its_embeddings_no_gradient() -> None:
    model = small_model()
    weights = ModalityWeights("per_pair", WEIGHTS, dimension=16)
    torch.nn.init.normal_(weights.score[-1].weight)
    found = leaves(encode_pairs(model, small_batch(model), pictures=True))
    each, costs = weights(found)
    assert each.std(0).min() > 0  # they differ from pair to pair
    (each.sum() + costs.sum()).backward()
    assert all(value.grad is None for value in found.values())
    assert weights.score[0].weight.grad.any()


def test_weights_by_department() -> None:
    visual = torch.tensor([True, False, True])
    weights = ModalityWeights("per_department", WEIGHTS, dimension=16, other_weights=(1.0, 0.0, 0.2), visual=visual)
    each, costs = weights({"queries": torch.zeros(4, 16), "item_keys": torch.tensor([1, 0, 2, 1])})
    assert each[1].tolist() == each[2].tolist() == pytest.approx(WEIGHTS)
    assert each[0].tolist() == each[3].tolist() == pytest.approx((1.0, 0.0, 0.2))
    assert not costs.any()


def test_a_learned_weight_cannot_begin_at_zero() -> None:
    with pytest.raises(InputError, match="each must be above 0"):
        ModalityWeights("uncertainty", (1.0, 0.0, 1.0), dimension=16)
