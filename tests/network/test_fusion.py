"""Fusions at odd sizes, several pictures at once, the gate."""

from __future__ import annotations

import pytest
import torch

from smar_model.network.fusion import FUSIONS, Reranker
from smar_model.network.model import RetrievalModel
from smar_model.training.finetune import routed_loss
from smar_model.training.pair_embeddings import encode_pairs
from tests.network.small_models import small_batch, small_model

SIZES = [(1, 1, 1), (3, 5, 7), (2, 11, 3)]


def disturbed(fusion: torch.nn.Module) -> torch.nn.Module:
    """Weights that are nowhere zero, as after training."""
    torch.manual_seed(1)
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return fusion.eval()


def states(batch: int, length: int, patches: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(batch)
    text, image = (torch.randn(batch, n, 8, generator=generator) for n in (length, patches))
    text_mask, image_mask = (torch.rand(batch, n, generator=generator) < 0.6 for n in (length, patches))
    text_mask[:, 0] = image_mask[:, 0] = True
    return text, image, text_mask, image_mask


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_looks_at_all_that_counts_and_at_nothing_else(name: str, size: tuple[int, int, int]) -> None:
    fusion = disturbed(FUSIONS[name](8, 2, 0.0))
    text, image, text_mask, image_mask = states(*size)
    image.requires_grad_()
    out, mask = fusion(text, image, text_mask, image_mask)
    assert out.shape == (*mask.shape, 8)
    assert mask.any(1).all()
    (out * mask.unsqueeze(-1) * torch.randn_like(out)).sum().backward()
    seen = image.grad.abs().sum(-1) > 0
    # A place without a picture reaches nothing where it is pooled; where it is kept, the mask that comes back skips it.
    assert torch.equal(seen, image_mask)
    blind = image.detach().masked_fill(~image_mask.unsqueeze(-1), 9.0)
    assert torch.allclose(
        fusion(text, blind, text_mask, image_mask)[0] * mask.unsqueeze(-1), out * mask.unsqueeze(-1), atol=1e-6
    )


@pytest.mark.parametrize("name", FUSIONS)
def test_a_mask_of_places_that_all_count_changes_nothing(name: str) -> None:
    fusion = disturbed(FUSIONS[name](8, 2, 0.0))
    text, image, text_mask, image_mask = states(3, 5, 7)
    out, mask = fusion(text, image, text_mask)
    again, mask_again = fusion(text, image, text_mask, torch.ones_like(image_mask))
    assert torch.allclose(out, again, atol=1e-6)
    assert torch.equal(mask, mask_again)


@pytest.mark.parametrize("name", [name for name in FUSIONS if name != "image"])
def test_the_multimodal_embedding_begins_as_the_text_embedding(name: str) -> None:
    model = small_model(fusion=name)
    found = encode_pairs(model, small_batch(model), pictures=True)
    assert torch.allclose(found["multimodal"], found["texts"], atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 7, 33])
def test_reranking_equals_its_formula(size: int) -> None:
    reranker = disturbed(Reranker(6))
    generator = torch.Generator().manual_seed(size)
    queries, texts, images = (torch.randn(n, 6, generator=generator) for n in (size, size + 2, size + 2))
    scores = reranker(queries, texts, images)
    for b in range(size):
        for n in range(size + 2):
            both = torch.stack([texts[n], images[n]])
            shares = torch.softmax(reranker.key(both) @ reranker.query(queries[b]) / 6**0.5, 0)
            fused = texts[n] + shares @ reranker.value(both)
            assert scores[b, n].item() == pytest.approx((queries[b] @ fused / fused.norm()).item(), rel=1e-4, abs=1e-5)


def disturbed_model(**network: object) -> RetrievalModel:
    model = small_model(**network)
    disturbed(model.fusion)
    if model.image_tower.further_frames is not None:
        torch.nn.init.normal_(model.image_tower.further_frames)
    return model


@torch.no_grad()
def embed_items(model: RetrievalModel, patches: torch.Tensor, has: torch.Tensor) -> torch.Tensor:
    text, mask, _ = model.encode_texts(torch.arange(1, 13).expand(len(patches), 12), torch.zeros(1, 12).long())
    image, alone = model.encode_images(patches, has)
    return torch.cat([alone, model.fuse(text, mask, image, model.image_mask(has))], dim=1)


def test_one_frame_is_one_picture() -> None:
    one, several = disturbed_model(), disturbed_model(frames=3)
    several.load_state_dict(one.state_dict(), strict=False)
    patches = torch.rand(4, one.vision.patches, one.vision.channels)
    has = torch.tensor([True, False, True, True])
    wanted = embed_items(one, patches, has)
    assert torch.allclose(embed_items(one, patches[:, None], has[:, None]), wanted, atol=1e-6)
    # An item with one picture is the same item where others have three.
    padded = torch.cat([patches[:, None], torch.rand(4, 2, *patches.shape[1:])], dim=1)
    only_first = torch.stack([has, torch.zeros(4).bool(), torch.zeros(4).bool()], dim=1)
    assert torch.allclose(embed_items(several, padded, only_first), wanted, atol=1e-6)


def test_further_pictures_count_and_so_does_their_order() -> None:
    model = disturbed_model(frames=2)
    patches = torch.rand(3, 2, model.vision.patches, model.vision.channels)
    both = torch.ones(3, 2, dtype=torch.bool)
    first = embed_items(model, patches, both)
    assert not torch.allclose(first, embed_items(model, patches.flip(1), both), atol=1e-3)
    one = both.clone()
    one[:, 1] = False
    assert not torch.allclose(first, embed_items(model, patches, one), atol=1e-3)


@pytest.mark.parametrize("item_confidence", [False, True])
def test_the_soft_gate_at_its_ends_is_hard_routing(item_confidence: bool) -> None:
    hard = disturbed_model(routing="hard")
    soft = disturbed_model(routing="soft", item_confidence=item_confidence)
    soft.load_state_dict(hard.state_dict(), strict=False)
    if item_confidence:
        torch.nn.init.constant_(soft.confidence_head[-1].bias, 100.0)  # c = 1
    batch = small_batch(hard)
    batch.labels = torch.arange(7) % 2
    losses = []
    for model in (hard, soft):
        found = encode_pairs(model, batch, pictures=True)
        found["header"] = torch.where(batch.labels == 1, 100.0, -100.0)  # p = label
        losses.append(routed_loss(model, found)["retrieval"])
        assert model.route(found["header"]).tolist() == batch.labels.tolist()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)


def test_only_the_soft_gate_learns_from_the_retrieval_loss() -> None:
    for routing, learns in (("hard", False), ("soft", True)):
        model = disturbed_model(routing=routing, item_confidence=True)
        batch = small_batch(model)
        batch.labels = torch.full((7,), -1)
        routed_loss(model, encode_pairs(model, batch, pictures=True))["loss"].backward()
        assert (model.header[-1].weight.grad is not None and bool(model.header[-1].weight.grad.any())) == learns
        assert model.confidence_head[-1].bias.grad.any()
