"""Vision encoders: several levels on one grid, descriptors beside them, and when they are locked."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F

from smar_model.errors import InputError
from smar_model.network.descriptors import PictureDescriptors
from smar_model.network.picture_encoder import BYTES, PictureEncoder
from smar_model.settings import Network, Optimisation, Pictures, VisionEncoder
from smar_model.training.loop import make_optimizer
from smar_model.training.model_files import load_model, new_model, save_model
from tests.encoders.small_encoders import write_timm
from tests.network.small_models import SMALL, small_model

HEIGHT, WIDTH = 128, 96


def timm_model(name: str = "test_efficientnet", **options: object) -> torch.nn.Module:
    torch.manual_seed(4)
    return timm.create_model(name, pretrained=False, num_classes=0, **options).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An added encoder with batch statistics."""
    found = tmp_path_factory.mktemp("encoder")
    write_timm(found / "vision")
    return found


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    path = tmp_path / "any.json"
    path.write_text("{}")
    return path


def pictures(count: int = 3, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def test_levels_are_the_encoders_own_on_one_grid_each_normalised() -> None:
    seen = pictures()
    vision = PictureEncoder(timm_model(), HEIGHT, WIDTH, levels=3).eval()
    assert (vision.grid, vision.patches, vision.channels) == ((4, 3), 12, 32 + 48 + 64)
    tokens = vision(seen)
    whole = timm_model()
    normal = (seen - vision.mean) / vision.std
    maps = whole.forward_intermediates(normal, indices=3, intermediates_only=True)
    start = 0
    for level in maps:
        place = level[:, :, : level.shape[2] // 4, : level.shape[3] // 3].mean((2, 3))  # the first one's
        found = tokens[:, 0, start : start + level.shape[1]]
        assert torch.allclose(found, F.layer_norm(place, place.shape[-1:]), atol=1e-4)
        start += level.shape[1]
    assert start == tokens.shape[-1]


@torch.no_grad()
def test_levels_of_a_vit_are_blocks_without_prefix_tokens() -> None:
    vision = PictureEncoder(timm_model("test_vit", img_size=[64, 48]), 64, 48, levels=2).eval()
    assert vision.levels == [2, 5]  # of six blocks
    assert vision(pictures(2, 64, 48)).shape == (2, 12, 2 * 64)


@torch.no_grad()
def test_descriptors_stand_on_the_same_places_and_change_nothing_of_the_encoder() -> None:
    seen = pictures()
    alone = PictureEncoder(timm_model(), HEIGHT, WIDTH, levels=3).eval()
    both = PictureEncoder(timm_model(), HEIGHT, WIDTH, levels=3, beside=True).eval()
    descriptors = PictureDescriptors(HEIGHT, WIDTH, grid=(4, 3))
    assert torch.equal(both(seen), torch.cat([alone(seen), descriptors(seen)], dim=-1))
    single = PictureEncoder(timm_model("test_vit", img_size=[64, 48]), 64, 48, beside=True).eval()
    assert (single.grid, single.patches) == ((4, 3), 12)  # its class token has no place


def test_a_picture_takes_no_more_than_64_kb() -> None:
    large = PictureEncoder(timm_model(), 512, 256, levels=3)
    assert large.grid == (16, 8)  # 36 KB
    larger = PictureEncoder(timm_model(), 768, 384, levels=3)
    assert larger.grid == (21, 10)  # 24×12 would be 83 KB
    one = PictureEncoder(timm_model(), 384, 384)
    assert one.grid == (11, 11) and 2 * one.patches * one.channels <= BYTES < 2 * 12 * 12 * one.channels
    assert PictureEncoder(timm_model(), 128, 128).grid is None  # 8 KB, as it comes


def test_an_encoder_that_came_with_weights_is_locked_as_it_came_or_tuned_with_a_rate_of_its_own(folder: Path) -> None:
    def model(trained: str = "locked", variant: str = "smar"):
        vision = VisionEncoder(pretrained="tiny", trained=trained, learning_rate=1e-4)
        return small_model(variant=variant, vision=vision, vision_encoder=folder)

    assert model().vision_locked and model(variant="concat").vision_locked
    assert not model("tuned").vision_locked and not model("tuned", "smar_adapted").vision_locked
    assert not small_model(variant="smar").vision_locked  # began with nothing, not adapted
    tuned = model("tuned").train()
    norms = [m for m in tuned.vision.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and not any(m.training for m in norms)
    optimizer = make_optimizer(tuned, Optimisation(steps=1, learning_rate=1e-3))
    share = {p: group["share"] for group in optimizer.param_groups for p in group["params"]}
    encoder = set(tuned.vision.encoder.parameters())
    assert encoder and all(share[p] == pytest.approx(0.1 if p in encoder else 1) for p in share)


@pytest.mark.parametrize("variant", ["smar", "default", "concat_adapted"])
def test_saved_it_is_what_it_was_without_the_folder(
    variant: str, folder: Path, tmp_path: Path, tokenizer_file: Path
) -> None:
    model = small_model(variant=variant, vision=VisionEncoder(pretrained="tiny"), vision_encoder=folder)
    assert (model.variant.descriptors == "beside") == (variant == "default")
    save_model(model, tmp_path / "model", tokenizer_file)
    again = load_model(tmp_path / "model")
    assert again.shape == model.shape and again.vision_locked
    seen = pictures(2, 64, 48)
    with torch.no_grad():
        assert torch.equal(again.picture_patches(seen), model.picture_patches(seen))
        has = torch.ones(2, dtype=torch.bool)
        assert torch.equal(*(m.encode_images(m.picture_patches(seen), has)[1] for m in (model, again)))


def test_many_channels_are_narrowed_before_a_placed_tower(folder: Path) -> None:
    def tower(size: int):
        model = new_model(
            Network(variant="default", dimension=16, text=SMALL, vision=VisionEncoder(pretrained="tiny")),
            vocabulary=50, query_length=5, item_length=8, pictures=Pictures(width=size, height=size), vision_encoder=folder,
        )  # fmt: skip
        return model.image_tower

    assert tower(64).narrow is None  # 4 places
    narrowed = tower(160)  # 25 places of 144 + 68 channels
    assert narrowed.layers[0].in_features == 25 * 64
    assert narrowed(torch.rand(2, 25, 212), torch.ones(2, dtype=torch.bool)).shape == (2, 1, 32)


def test_descriptors_of_a_large_picture_have_as_many_fields_as_those_of_a_small_one(
    tmp_path: Path, tokenizer_file: Path
) -> None:
    def model(width: int, height: int):
        return new_model(
            Network(variant="default", dimension=16, text=SMALL),
            vocabulary=50, query_length=5, item_length=8, pictures=Pictures(width=width, height=height),
        )  # fmt: skip

    assert (model(48, 64).vision.patches, model(60, 80).vision.patches) == (12, 20)
    large = model(128, 128)
    assert (large.vision.rows, large.vision.columns) == (4, 4)
    save_model(large, tmp_path / "model", tokenizer_file)
    assert load_model(tmp_path / "model").vision.patches == 16
    # A model from before: 64 fields, and no word about a grid.
    older = type(large)(
        large.shape.__class__(**{f: getattr(large.shape, f) for f in large.shape.__slots__} | {"picture_grid": None})
    )
    assert older.vision.patches == 64


def test_older_settings_are_read(folder: Path) -> None:
    assert VisionEncoder(pretrained=False).pretrained is None
    assert [VisionEncoder(descriptors=d).descriptors for d in (True, False, "beside")] == ["alone", "none", "beside"]
    older = Network.model_validate({"variant": "default", "vision": {"pretrained": True}})
    assert small_model(variant="default", vision=older.vision).variant.descriptors == "alone"


def test_more_levels_than_there_are_is_one_message() -> None:
    with pytest.raises(InputError, match=r"network\.vision\.levels 9: it has 6"):
        small_model(vision=VisionEncoder(name="test_vit", levels=9))
