"""The towers: saved and loaded alike, robust to missing parts, any encoder by folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from smar_model.errors import InputError
from smar_model.network.model import RetrievalModel
from smar_model.settings import TextEncoder, VisionEncoder
from smar_model.training.model_files import load_model, save_model
from tests.network.small_models import small_model


def item_batch(model: RetrievalModel, size: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids = torch.randint(1, 100, (size, 12))
    return ids, torch.randint(0, 4, (size, 12)), torch.rand(size, 3, 64, 48)


@torch.no_grad()
def embed(model: RetrievalModel, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    ids, segments, pictures = batch
    states, mask, text = model.encode_texts(ids, segments)
    if not model.variant.fusion:
        return text
    has = torch.tensor([True] * (len(ids) - 1) + [False])
    image, _ = model.encode_images(model.picture_patches(pictures), has)
    return torch.cat([text, model.fuse(states, mask, image)], dim=1)


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    path = tmp_path / "any.json"
    path.write_text("{}")
    return path


def test_embeddings_are_unit_vectors_even_for_empty_texts() -> None:
    model = small_model()
    queries, logits = model.encode_queries(torch.zeros(2, 4, dtype=torch.long))
    _, _, texts = model.encode_texts(torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 4, dtype=torch.long))
    assert torch.isfinite(logits).all()
    assert torch.allclose(queries.norm(dim=1), torch.ones(2), atol=1e-5)
    assert torch.allclose(texts.norm(dim=1), torch.ones(2), atol=1e-5)


def test_padding_does_not_change_an_embedding() -> None:
    model = small_model()
    short = torch.tensor([[5, 6, 7]])
    padded = torch.tensor([[5, 6, 7, 0, 0, 0]])
    assert torch.allclose(model.encode_queries(short)[0], model.encode_queries(padded)[0], atol=1e-5)


def test_an_item_without_picture_does_not_depend_on_the_pixels() -> None:
    model = small_model()
    ids, segments, pictures = item_batch(model)
    other = torch.cat([pictures[:-1], torch.rand(1, 3, 64, 48)])
    first, second = embed(model, (ids, segments, pictures)), embed(model, (ids, segments, other))
    assert torch.equal(first[-1], second[-1])


def test_routing_is_hard_or_soft_by_settings() -> None:
    logits = torch.tensor([-2.0, 3.0])
    assert small_model(routing="hard").route(logits).tolist() == [0.0, 1.0]
    assert small_model(routing="soft").route(logits).tolist() == pytest.approx(logits.sigmoid().tolist())
    assert small_model(variant="text_only").route(logits).tolist() == [0.0, 0.0]
    assert small_model(variant="concat").route(logits).tolist() == [1.0, 1.0]


def test_a_model_from_before_there_was_a_temperature_has_none(tmp_path: Path, tokenizer_file: Path) -> None:
    model = small_model(routing="hard")
    save_model(model, tmp_path / "model", tokenizer_file)
    weights = load_file(tmp_path / "model" / "weights.safetensors")
    del weights["header_temperature"]
    save_file(weights, tmp_path / "model" / "weights.safetensors")
    logits = torch.tensor([-0.1, 0.1])
    assert torch.equal(load_model(tmp_path / "model").probability(logits), logits.sigmoid())


def trained_names(module: torch.nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def test_a_vision_encoder_is_partly_locked_from_its_adaptation_on(tmp_path: Path, tokenizer_file: Path) -> None:
    model = small_model(vision=VisionEncoder(name="test_vit", trained="partly", last_blocks=2))
    blocks = {name.split(".")[1] for name in trained_names(model.vision.encoder) if name.startswith("blocks")}
    assert blocks == {"4", "5"}
    assert not model.vision_locked
    save_model(model, tmp_path / "model", tokenizer_file)
    assert trained_names(load_model(tmp_path / "model").vision) == trained_names(model.vision)
    assert small_model(vision=VisionEncoder(name="test_vit", trained="tuned")).vision_locked is False
    assert small_model().vision_locked


def test_a_timm_encoder_by_folder(tmp_path: Path, tokenizer_file: Path) -> None:
    encoder = timm.create_model("mobilenetv4_conv_small_050", pretrained=False, num_classes=0)
    folder = tmp_path / "mobilenet" / "vision"
    folder.mkdir(parents=True)
    save_file(encoder.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(
        '{"architecture": "mobilenetv4_conv_small_050", "pretrained_cfg": {}, "num_classes": 0}'
    )
    model = small_model(vision=VisionEncoder(pretrained="mobilenet"), vision_encoder=folder.parent)
    assert torch.equal(model.vision.encoder.conv_stem.weight, encoder.conv_stem.weight)
    save_model(model, tmp_path / "model", tokenizer_file)
    folder.rename(tmp_path / "gone")
    batch = item_batch(model)
    assert torch.equal(embed(model, batch), embed(load_model(tmp_path / "model"), batch))


def test_bad_names_are_refused_by_setting() -> None:
    with pytest.raises(InputError, match=r"network\.variant 'smarr': choose one of"):
        small_model(variant="smarr")
    with pytest.raises(InputError, match=r"network\.vision\.name 'no_such_net'"):
        small_model(vision=VisionEncoder(name="no_such_net"))
    with pytest.raises(InputError, match=r"network\.text\.pretrained 'gone' \(/no/such/gone\)"):
        small_model(text=TextEncoder(pretrained="gone"), text_encoder=Path("/no/such/gone"))


def test_a_damaged_model_is_refused(tmp_path: Path, tokenizer_file: Path) -> None:
    save_model(small_model(), tmp_path / "model", tokenizer_file)
    weights = tmp_path / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a whole model"):
        load_model(tmp_path / "model")
