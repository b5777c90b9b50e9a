"""Histograms of colours and edges against their naive forms; the image tower that knows places."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from smar_model.network.descriptors import DIRECTIONS, PictureDescriptors, colour_histograms, edge_histograms
from smar_model.settings import VisionEncoder
from smar_model.training.model_files import load_model, save_model
from smar_model.training.pair_embeddings import encode_pairs
from tests.network.small_models import small_batch, small_model


def test_colours_are_counted_field_by_field() -> None:
    pictures = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    found = colour_histograms(pictures, 4, 3)
    assert found.shape == (2, 27, 4, 3)
    assert torch.allclose(found.square().sum(1), torch.ones(2, 4, 3), atol=1e-5)
    # One field, one colour at a time: how near each four of its pixels are to it.
    field = pictures[1, :, 16:32, 32:48].reshape(3, 8, 2, 8, 2).mean((2, 4))
    for red, green, blue in ((0, 0, 0), (2, 1, 0), (1, 1, 2)):
        near = torch.ones(8, 8)
        for channel, level in zip(field, (red, green, blue), strict=True):
            near = near * (1 - 2 * (channel - level / 2).abs()).clamp(min=0)
        assert torch.isclose(found[1, 9 * red + 3 * green + blue, 1, 2], near.mean().sqrt(), atol=1e-5)


def test_edges_are_counted_cell_by_cell_and_direction_by_direction() -> None:
    pictures = torch.rand(2, 3, 12, 8, generator=torch.Generator().manual_seed(1))
    found = edge_histograms(pictures, 3, 2)
    grey = pictures[1].mean(0).tolist()
    cells = torch.zeros(DIRECTIONS, 3, 2)
    total = 0.0
    for y in range(12):
        for x in range(8):
            across = grey[y][x + 1] - grey[y][x - 1] if 0 < x < 7 else 0.0
            down = grey[y + 1][x] - grey[y - 1][x] if 0 < y < 11 else 0.0
            contrast, turn = math.hypot(across, down), math.atan2(down, across) % math.pi / math.pi * DIRECTIONS
            total += contrast / 96
            for direction in range(DIRECTIONS):
                apart = abs(turn - direction)
                share = max(0.0, 1 - min(apart, DIRECTIONS - apart))
                cells[direction, y // 4, x // 4] += contrast * share / 16
    assert torch.allclose(found[1], (cells / (total + 0.02)).sqrt(), atol=1e-4)


def test_a_plain_picture_has_no_edges_and_one_colour() -> None:
    tokens = PictureDescriptors(64, 48)(torch.ones(1, 3, 64, 48))
    assert tokens.shape == (1, 12, 27 + 32 + 18)
    assert torch.equal(tokens[0, :, 26], torch.ones(12))
    assert tokens[0, -1, -1] == pytest.approx(1)  # white, the last of the whole picture's 216
    assert tokens.sum() == pytest.approx(12 + 1, abs=1e-2)


def test_finer_colours_are_of_the_whole_picture() -> None:
    pictures = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(4))
    found = PictureDescriptors(64, 48)(pictures)[:, :, 59:].flatten(1)
    pixels = pictures[1].reshape(3, 32, 2, 24, 2).mean((2, 4))
    for red, green, blue in ((0, 0, 0), (5, 2, 1), (2, 3, 3)):
        near = torch.ones(32, 24)
        for channel, level in zip(pixels, (red, green, blue), strict=True):
            near = near * (1 - 5 * (channel - level / 5).abs()).clamp(min=0)
        assert torch.isclose(found[1, 36 * red + 6 * green + blue], near.mean().sqrt(), atol=1e-5)
    assert torch.allclose(found.square().sum(1), torch.ones(2), atol=1e-5)


def test_a_field_keeps_its_own_cells_together() -> None:
    picture = torch.zeros(1, 3, 64, 48)
    picture[:, :, 20:28, 36:44] = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(2))
    edges = PictureDescriptors(64, 48)(picture)[0, :, 27:59]
    assert edges.sum(1).nonzero().flatten().tolist() == [5]  # second row, third column


@pytest.mark.parametrize("size", [(64, 48), (33, 20), (7, 50)])
def test_any_size_of_picture_can_be_read(size: tuple[int, int]) -> None:
    descriptors = PictureDescriptors(*size)
    tokens = descriptors(torch.rand(3, 3, *size))
    assert tokens.shape == (3, descriptors.patches, descriptors.channels)
    assert tokens.isfinite().all()


def test_a_placed_tower_knows_where_things_are_a_mean_does_not(tmp_path: Path) -> None:
    model = small_model(variant="default")
    patches = torch.rand(2, model.vision.patches, model.vision.channels)
    has = torch.ones(2, dtype=torch.bool)
    states, embedding = model.encode_images(patches, has)
    assert states.shape == (2, 1, 32)
    assert not torch.allclose(embedding, model.encode_images(patches.flip(1), has)[1], atol=1e-3)
    (tmp_path / "any.json").write_text("{}")
    save_model(model, tmp_path / "model", tmp_path / "any.json")
    batch = small_batch(model)
    wanted, found = (encode_pairs(m, batch, pictures=True) for m in (model, load_model(tmp_path / "model")))
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_settings_put_an_encoder_in_the_place_of_the_descriptors(tmp_path: Path) -> None:
    encoder = VisionEncoder(name="test_resnet", options={"output_stride": 16}, descriptors=False)
    model = small_model(variant="default", vision=encoder, image_tower="transformer")
    assert model.vision_locked and list(model.vision.parameters())
    (tmp_path / "any.json").write_text("{}")
    save_model(model, tmp_path / "model", tmp_path / "any.json")
    assert load_model(tmp_path / "model").shape == model.shape


def test_fitted_shares_count_by_how_unusual_they_are() -> None:
    descriptors = PictureDescriptors(64, 48)
    pictures = torch.rand(70, 3, 64, 48, generator=torch.Generator().manual_seed(3)).square()
    before = descriptors(pictures)
    descriptors.fit(pictures)
    after = descriptors(pictures)
    assert torch.allclose(after.mean(0), torch.zeros(12, 77), atol=1e-4)
    assert (after.std(0) <= 1 + 1e-4).all() and (after.std(0) > 0.99).any()
    usual = before.mean(0)
    assert torch.allclose(after * before.std(0).clamp(min=0.05) + usual, before, atol=1e-4)
