"""A network that begins with CLIP or SigLIP puts queries, item texts and pictures where the pair itself does, before any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from smar_model.data.encoder_tokens import read_encoder_tokenizer
from smar_model.encoders.adding import add_encoder
from smar_model.encoders.aligned_pairs import vision_inputs
from smar_model.errors import InputError
from smar_model.network.aligned_pair import kept_axes
from smar_model.network.model import RetrievalModel
from smar_model.settings import Network, Pictures, TextEncoder, VisionEncoder
from smar_model.training.model_files import load_model, new_model, save_model
from tests.encoders.small_pairs import LAYERS, PICTURE, SPACE, TEXT_WIDTH, VISION_WIDTH, write_open_clip, write_pair

KINDS = ("clip", "siglip", "siglip2", "open_clip")
TEXTS = ("a red dress", "shoe", "striped blue shirt a b")
Pair = tuple[str, PreTrainedModel, Path]


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Its kind, as `transformers` has it, and the folder of the added encoder."""
    kind, folder = request.param, tmp_path_factory.mktemp("pair")
    source = write_open_clip(folder / kind) if kind == "open_clip" else write_pair(folder / kind, kind)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SMAR_HOME", str(folder / "home"))
        added = add_encoder("pair", str(folder / kind), words=False, report=lambda line: None)
    assert added.has == ("text", "vision") and added.record["aligned"] == (SPACE if "clip" in kind else VISION_WIDTH)
    return kind, source, added.place


def network_of(kind: str, **changed: Any) -> Network:
    text = TextEncoder(
        **{"pretrained": "pair", "width": TEXT_WIDTH, "heads": 2, "query_layers": LAYERS, "item_layers": LAYERS}
        | changed.pop("text", {})
    )
    vision = VisionEncoder(pretrained="pair", **changed.pop("vision", {}))
    options = {
        "variant": "smar",
        "dimension": SPACE if "clip" in kind else VISION_WIDTH,
        "text": text,
        "vision": vision,
    }
    return Network(**options | changed)


def model_of(pair: Pair, network: Network | None = None) -> RetrievalModel:
    kind, _, place = pair
    torch.manual_seed(0)
    lengths = {"vocabulary": 40, "query_length": 13, "item_length": 13}
    if kind == "siglip2":
        lengths |= {"vocabulary": 32}
    pictures = Pictures(width=PICTURE, height=PICTURE)
    network = network or network_of(kind)
    return new_model(network, **lengths, pictures=pictures, text_encoder=place, vision_encoder=place).eval()


def ids_of(pair: Pair) -> Tensor:
    tokenizer = read_encoder_tokenizer(pair[2]).tokenizer
    # SigLIP 2's small vocabulary has single letters, and the tower thirteen places.
    found = [tokenizer.encode(text).ids[:13] for text in TEXTS]
    return torch.tensor([ids + [0] * (13 - len(ids)) for ids in found])


def texts_by_source(pair: Pair) -> Tensor:
    """Embeddings of the texts, as the pair's own processor would put them to it."""
    kind, source, place = pair
    around, model = read_encoder_tokenizer(place), source
    vectors = []
    for row in ids_of(pair):
        ours = [*around.before, *row[row != 0].tolist(), *around.after]
        # Token 0 and padding have changed places in our tokenizer.
        ids = [{0: around.padding, around.padding: 0}.get(token, token) for token in ours]
        if "siglip" in kind:
            ids += [around.padding] * (16 - len(ids))
        pooled = model.text_model(input_ids=torch.tensor([ids])).pooler_output
        vectors.append(model.text_projection(pooled) if hasattr(model, "text_projection") else pooled)
    return F.normalize(torch.cat(vectors), dim=-1)


def pictures_by_source(pair: Pair, pictures: Tensor) -> Tensor:
    kind, model, _ = pair
    if "clip" in kind:
        mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    if "siglip" in kind:
        mean = std = (0.5, 0.5, 0.5)
    normalised = (pictures - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    pooled = model.vision_model(**vision_inputs(model, normalised)).pooler_output
    return F.normalize(model.visual_projection(pooled) if hasattr(model, "visual_projection") else pooled, dim=-1)


@torch.inference_mode()
def test_queries_texts_and_pictures_begin_where_the_pair_has_them(pair: Pair, tmp_path: Path) -> None:
    model, ids = model_of(pair), ids_of(pair)
    pictures = torch.rand(4, 3, PICTURE, PICTURE)
    has = torch.tensor([True, True, True, False])
    queries = model.encode_queries(ids)[0]
    patches = model.picture_patches(pictures)
    images = model.encode_images(patches, has)[1]
    assert torch.allclose(queries, texts_by_source(pair), atol=1e-4)
    assert torch.allclose(model.encode_texts(ids, torch.zeros_like(ids))[2], texts_by_source(pair), atol=1e-4)
    assert torch.allclose(images[:3], pictures_by_source(pair, pictures)[:3], atol=1e-4)
    assert torch.allclose(images.norm(dim=-1), torch.ones(4)) and images[3].isfinite().all()
    # A release stands on a machine without the encoder.
    (tmp_path / "tokenizer.json").write_text("{}")
    save_model(model, tmp_path / "model", tmp_path / "tokenizer.json")
    loaded = load_model(tmp_path / "model")
    assert torch.equal(loaded.encode_queries(ids)[0], queries)
    assert torch.equal(loaded.encode_images(loaded.picture_patches(pictures), has)[1], images)


@torch.inference_mode()
def test_fewer_axes_are_the_same_for_texts_and_pictures(pair: Pair) -> None:
    model = model_of(pair, network_of(pair[0], dimension=8))
    pictures, has = torch.rand(3, 3, PICTURE, PICTURE), torch.ones(3, dtype=torch.bool)
    axes = kept_axes(len(model.vision.projection.weight), 8)
    assert torch.allclose(axes @ axes.T, torch.eye(8), atol=1e-5)
    images = model.encode_images(model.picture_patches(pictures), has)[1]
    assert torch.allclose(images, F.normalize(pictures_by_source(pair, pictures) @ axes.T, dim=-1), atol=1e-4)
    wanted = F.normalize(texts_by_source(pair) @ axes.T, dim=-1)
    assert torch.allclose(model.encode_queries(ids_of(pair))[0], wanted, atol=1e-4)


@torch.inference_mode()
def test_levels_and_descriptors_stand_beside_what_the_pair_makes_of_a_picture(pair: Pair) -> None:
    network = network_of(pair[0], vision={"levels": 2, "descriptors": "beside"})
    model = model_of(pair, network)
    pictures = torch.rand(2, 3, PICTURE, PICTURE)
    patches = model.picture_patches(pictures)
    assert patches.shape == (2, model.vision.patches, model.vision.channels)
    assert model.vision.channels > 2 * VISION_WIDTH and model.image_tower.places == model.vision.patches - 1
    images = model.encode_images(patches, torch.ones(2, dtype=torch.bool))[1]
    assert torch.allclose(images, pictures_by_source(pair, pictures), atol=1e-4)
    several = model.image_projection(
        patches[None, :, 0, : model.shape.aligned], torch.tensor([[True, False]]), *states(model)
    )
    assert torch.allclose(several, images[:1], atol=1e-5), "a frame without a picture counts for nothing"


def states(model: RetrievalModel) -> tuple[Tensor, Tensor]:
    return torch.zeros(1, 3, model.shape.network.text.width), torch.ones(1, 3, dtype=torch.bool)


def test_a_step_moves_both_towers_and_what_is_learned_beside_them(pair: Pair) -> None:
    model = model_of(pair, network_of(pair[0], vision={"trained": "tuned"})).train()
    pictures, has = torch.rand(3, 3, PICTURE, PICTURE), torch.tensor([True, True, False])
    images = model.encode_images(model.picture_patches(pictures), has)[1]
    loss = -(model.encode_queries(ids_of(pair))[0] @ images.T).diagonal().sum()
    loss.backward()
    for part in (model.query_projection.linear, model.image_projection.learned, model.vision.projection):
        assert part.weight.grad is not None and part.weight.grad.any() and part.weight.grad.isfinite().all()


WRONG = {
    "network.text.width is 32: texts and pictures of 'pair' are in one space with 16": {"text": {"width": 32}},
    "network.text.query_layers is 1: .* with 3": {"text": {"query_layers": 1}},
    "network.dimension is 64: the space of 'pair' has": {"dimension": 64},
}


@pytest.mark.parametrize("said", WRONG)
def test_sizes_that_would_cut_the_pair_apart_are_refused(pair: Pair, said: str) -> None:
    with pytest.raises(InputError, match=said):
        model_of(
            pair,
            network_of(pair[0], **{name: dict(v) if isinstance(v, dict) else v for name, v in WRONG[said].items()}),
        )


def test_one_side_alone_is_an_encoder_like_others(pair: Pair) -> None:
    kind, _, place = pair
    network = network_of(kind).model_copy(
        update={"vision": VisionEncoder(name="test_vit", options={"img_size": [32, 32]})}
    )
    model = new_model(
        network,
        vocabulary=40,
        query_length=8,
        item_length=8,
        pictures=Pictures(width=32, height=32),
        text_encoder=place,
    )
    assert model.shape.aligned is None
    queries = model.eval().encode_queries(ids_of(pair)[:, :8])[0]
    assert queries.shape == (3, network.dimension) and queries.isfinite().all()
