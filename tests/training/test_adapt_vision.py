"""Adapting the vision encoder: its three losses, the second view, the stage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from smar_model.errors import InputError
from smar_model.lake.runs import Run
from smar_model.lake.stage import run_stage
from smar_model.network.model import RetrievalModel
from smar_model.settings import Network, Pictures, VisionAdaptation, VisionEncoder
from smar_model.stages import STAGES
from smar_model.training.adapt_vision import Adaptation, refuse_without_weights, two_views
from smar_model.training.batches import Batch
from smar_model.training.gradient_cache import backward
from smar_model.training.model_files import load_model, new_model
from tests.encoders.small_encoders import write_timm
from tests.evaluation.published_run import publish_run
from tests.tiny_shop import tiny_settings
from tests.training.test_resume import train_again

PAIRS, DIMENSION, CATEGORIES = 7, 16, 3
NETWORK = Network.model_validate(
    {"variant": "smar_adapted", "dimension": DIMENSION, "text": {"width": 16, "heads": 2, "query_layers": 1}}
)
ITEMS = torch.tensor([0, 1, 2, 3, 1, 4, 5])
QUERIES = torch.tensor([9, 8, 7, 7, 6, 5, 4])
PICTURES = torch.tensor([True, True, True, True, True, False, True])


def adaptation(encoder: Path | None = None, **weights: float) -> Adaptation:
    torch.manual_seed(0)
    network = NETWORK.model_copy(update={"vision": VisionEncoder(pretrained="tiny")}) if encoder else NETWORK
    model: RetrievalModel = new_model(
        network,
        vocabulary=50,
        query_length=5,
        item_length=8,
        pictures=Pictures(width=24, height=32),
        vision_encoder=encoder,
    )
    settings = VisionAdaptation.model_validate({"steps": 1, **weights})
    return Adaptation(np.arange(6) % CATEGORIES, model, settings)


def embeddings() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    vectors = {
        n: F.normalize(torch.randn(PAIRS, DIMENSION), dim=-1).requires_grad_() for n in ("queries", "images", "views")
    }
    category = torch.randn(PAIRS, CATEGORIES, requires_grad=True)
    keys = {"has_picture": PICTURES, "query_keys": QUERIES, "item_keys": ITEMS}
    return vectors | {"category": category} | keys


def batch(*, pictures: torch.Tensor = PICTURES) -> Batch:
    torch.manual_seed(2)
    ids = torch.randint(1, 50, (PAIRS, 5))
    return Batch(
        queries=ids,
        query_keys=QUERIES,
        item_keys=ITEMS,
        texts=ids,
        segments=torch.zeros_like(ids),
        pixels=torch.rand(PAIRS, 3, 32, 24),
        has_picture=pictures,
    )


def naive_contrast(rows: torch.Tensor, columns: torch.Tensor, scale: torch.Tensor, *, same: list[list[bool]]):
    """One pair after the other, both ways; pairs with the same item or query are no negatives."""
    total = torch.zeros(())
    for one, other in ((rows, columns), (columns, rows)):
        for i in range(len(one)):
            negatives = [j for j in range(len(one)) if j == i or not same[i][j]]
            scores = torch.stack([scale * (one[i] @ other[j]) for j in negatives])
            total = total - torch.log_softmax(scores, dim=0)[negatives.index(i)]
    return total / (2 * len(rows))


def test_the_loss_is_the_weighted_sum_of_its_naive_parts() -> None:
    adapting, mine, theirs = (
        adaptation(text_weight=0.7, view_weight=0.4, category_weight=0.2),
        embeddings(),
        embeddings(),
    )
    parts = adapting.losses(mine)
    kept = [i for i in range(PAIRS) if PICTURES[i]]
    scale = adapting.model.scale.detach()
    same_item = [[bool(ITEMS[i] == ITEMS[j]) for j in kept] for i in kept]
    same = [[bool(ITEMS[i] == ITEMS[j] or QUERIES[i] == QUERIES[j]) for j in kept] for i in kept]
    text = naive_contrast(theirs["queries"][kept], theirs["images"][kept], scale, same=same)
    views = naive_contrast(theirs["images"][kept], theirs["views"][kept], scale, same=same_item)
    category = torch.stack(
        [-torch.log_softmax(theirs["category"][i], 0)[int(ITEMS[i]) % CATEGORIES] for i in kept]
    ).mean()
    for name, naive in (("contrast", text), ("views", views), ("category", category)):
        assert parts[name].item() == pytest.approx(naive.item(), abs=1e-5), name
    parts["loss"].backward()
    (0.7 * text + 0.4 * views + 0.2 * category).backward()
    for name in ("queries", "images", "category"):
        assert torch.allclose(mine[name].grad, theirs[name].grad, atol=1e-6), name
        assert not mine[name].grad[~PICTURES].any(), name  # an item without a picture teaches nothing


@pytest.mark.parametrize(
    ("weight", "part"),
    [
        ("text_weight", "contrast"),
        ("naming_weight", "naming"),
        ("view_weight", "views"),
        ("category_weight", "category"),
    ],
)
def test_a_loss_of_weight_0_is_not_computed(weight: str, part: str) -> None:
    weights = {"text_weight": 1.0, "naming_weight": 1.0, "view_weight": 1.0, "category_weight": 1.0, weight: 0.0}
    adapting = adaptation(**weights)
    (seen,) = two_views([batch()], np.random.default_rng(0)) if weights["view_weight"] else (batch(),)
    found = adapting.losses(adapting.encode(seen))
    assert {"loss", "contrast", "naming", "views", "category"} - found.keys() == {part}


def test_naming_is_the_mean_surprise_at_a_querys_tokens() -> None:
    adapting = adaptation(naming_weight=0.6, text_weight=0, view_weight=0, category_weight=0).eval()
    whole = batch()
    whole.queries[2, 3:] = 0
    whole.queries[3] = 0
    states, _ = adapting.model.encode_images(adapting.model.picture_patches(whole.pixels), whole.has_picture)
    named = torch.log_softmax(adapting.word_head(states.mean(1)), 1)
    surprises = []
    for row, tokens in enumerate(whole.queries.tolist()):
        if PICTURES[row]:
            each = [-named[row, token] for token in tokens if token]
            surprises.append(sum(each) / len(each) if each else torch.zeros(()))
    naive = torch.stack(surprises).mean()
    parts = adapting.losses(adapting.encode(whole))
    assert parts.keys() == {"loss", "naming"}
    assert parts["naming"].item() == pytest.approx(naive.item(), rel=1e-5)
    gradients = [
        torch.autograd.grad(loss, [adapting.word_head.weight, adapting.model.image_tower.project.weight])
        for loss in (parts["loss"], 0.6 * naive)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_an_encoder_without_weights_leaves_the_image_tower_to_learn() -> None:
    torch.manual_seed(0)
    network = NETWORK.model_copy(update={"variant": "default"})
    model = new_model(network, vocabulary=50, query_length=5, item_length=8, pictures=Pictures(width=24, height=32))
    settings = VisionAdaptation.model_validate({"steps": 1, "naming_weight": 1, "text_weight": 0, "view_weight": 0})
    adapting = Adaptation(np.arange(6) % CATEGORIES, model, settings).train()
    optimizer = torch.optim.AdamW(adapting.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        parts = backward(batch(), adapting.encode, adapting.losses, adapting.parameters())
        optimizer.step()
        losses.append(parts["naming"].item())
    assert losses[-1] < 0.5 * losses[0]
    assert not list(model.vision.parameters())


def test_a_batch_without_any_picture_teaches_nothing_and_is_a_number() -> None:
    adapting = adaptation(view_weight=1.0)
    (seen,) = two_views([batch(pictures=torch.zeros(PAIRS, dtype=torch.bool))], np.random.default_rng(0))
    parts = backward(seen, adapting.encode, adapting.losses, adapting.parameters())
    assert parts["loss"].item() == 0
    assert not any(p.grad.any() for p in adapting.parameters() if p.grad is not None)


def test_the_second_view_is_another_look_at_the_same_picture() -> None:
    whole = batch()
    whole.pixels = torch.ones(PAIRS, 3, 32, 24) * torch.tensor([0.8, 0.4, 0.2])[:, None, None]
    whole.pixels[:, :, :, :12] /= 2
    (seen,) = two_views([whole], np.random.default_rng(0))
    first, second = seen.pixels.unbind(1)
    assert torch.equal(first, whole.pixels)
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    colours = second.flatten(2)
    # Lighter or darker, but red stays twice green and green twice blue: shoppers ask for colours.
    assert torch.allclose(colours[:, 0] / colours[:, 1], torch.tensor(2.0), atol=0.05)
    assert torch.allclose(colours[:, 1] / colours[:, 2], torch.tensor(2.0), atol=0.1)


def test_views_carry_no_gradient_of_their_own() -> None:
    adapting = adaptation(view_weight=1.0)
    (seen,) = two_views([batch()], np.random.default_rng(0))
    encoded = adapting.encode(seen)
    assert encoded["images"].requires_grad
    assert not encoded["views"].requires_grad
    assert encoded["views"].norm(dim=-1) == pytest.approx(torch.ones(PAIRS))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An added encoder."""
    folder = tmp_path_factory.mktemp("encoder")
    write_timm(folder / "vision")
    return folder


def test_distillation_holds_an_encoder_to_what_it_gave_as_it_came(encoder: Path) -> None:
    adapting = adaptation(encoder, distillation_weight=0.5, view_weight=0).train()
    before = adapting.model.picture_patches(batch().pixels).detach()
    assert adapting.losses(adapting.encode(batch()))["distillation"].item() == 0
    with torch.no_grad():
        for parameter in adapting.model.vision.parameters():
            parameter.mul_(1.1)
    parts = adapting.losses(adapting.encode(batch()))
    naive = (adapting.model.picture_patches(batch().pixels) - before).square()[PICTURES].mean()
    assert parts["distillation"].item() == pytest.approx(naive.item(), rel=1e-5) and naive > 0
    others = adaptation(encoder, view_weight=0).losses(adapting.encode(batch()))
    assert parts["loss"].item() == pytest.approx((others["loss"] + 0.5 * naive).item(), rel=1e-5)
    # The one that it is held to is no part of what is trained, saved or averaged.
    assert len(list(adapting.parameters())) == len(list(adaptation(encoder).parameters()))


def test_interpolation_is_a_line_between_two_encoders(encoder: Path) -> None:
    vision = adaptation(encoder).model.vision
    came = {name: value.clone() for name, value in vision.encoder.state_dict().items()}
    for parameter in vision.encoder.parameters():
        parameter.data += 1
    vision.move_towards(came, 0.25)
    for name, parameter in vision.encoder.named_parameters():
        assert torch.allclose(parameter, came[name] + 0.25, atol=1e-5), name


@pytest.mark.parametrize("setting", [{"distillation_weight": 0.5}, {"interpolation": 0.5}])
def test_nothing_holds_an_encoder_that_began_with_nothing(setting: dict[str, float], encoder: Path) -> None:
    weights = VisionAdaptation.model_validate({"steps": 1, **setting})
    (name,) = setting
    with pytest.raises(
        InputError, match=rf"training\.adapt_vision\.{name} 0\.5: .* name one in network\.vision\.pretrained"
    ):
        refuse_without_weights(adaptation().model, weights)
    refuse_without_weights(adaptation(encoder).model, weights)


def test_in_chunks_as_at_once() -> None:
    gradients = []
    for chunk in (None, 3):
        adapting = adaptation(view_weight=0.5).eval()  # batch statistics of a chunk are not those of the batch
        (seen,) = two_views([batch()], np.random.default_rng(0))
        backward(seen, adapting.encode, adapting.losses, adapting.parameters(), chunk=chunk)
        gradients.append({n: p.grad for n, p in adapting.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-5), name


def test_weights_must_leave_something_to_learn(tmp_path: Path) -> None:
    nothing = {"steps": 4, "text_weight": 0, "naming_weight": 0, "view_weight": 0, "category_weight": 0}
    steps = {"steps": 4}
    with pytest.raises(InputError, match=r"training\.adapt_vision: .*one of text_weight, naming_weight"):
        tiny_settings(tmp_path, training={"adapt_vision": nothing, "pretrain": steps, "finetune": steps})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("adapt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder / "var"))
        steps = {"steps": 24, "batch": 16, "learning_rate": 0.003}
        training = {"adapt_vision": steps | {"view_weight": 0.5}, "pretrain": steps, "finetune": steps}
        published = publish_run(folder / "shop", with_truth=False, training=training | {"checkpoint_minutes": 0})
        run_stage(STAGES["adapt-vision"], published.run)
        yield published.run


def test_the_stage_learns(run: Run) -> None:
    history = json.loads(run.output("adapt-vision").file("history.json").read_text())
    assert {"contrast", "views", "category"} <= history[0].keys()
    first, last = (np.mean([point["contrast"] for point in stretch]) for stretch in (history[:8], history[-8:]))
    assert last < 0.9 * first
    load_model(run.output("adapt-vision").folder / "model")


def test_stopped_it_ends_as_uninterrupted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = run.output("adapt-vision")
    again = train_again(run, "adapt-vision", stop_after=11, patch=monkeypatch, phases=2)
    assert again.folder != wanted.folder
    assert again.digest == wanted.digest
