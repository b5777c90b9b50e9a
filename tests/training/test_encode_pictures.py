"""Patch tokens: as if encoded directly, encoded once, the same in any order and any files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from smar_model.data.item_pictures import decode_thumbnail, read_item_pictures
from smar_model.data.patch_tokens import PatchTokens, read_patch_tokens
from smar_model.data.picture_views import picture_view
from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact, manifest_path
from smar_model.lake.digests import digest_json
from smar_model.lake.publishing import Attempt
from smar_model.lake.runs import Run
from smar_model.lake.stage import run_stage
from smar_model.settings import Network, Pictures, TextEncoder, VisionEncoder
from smar_model.stages import STAGES
from smar_model.training import encode_pictures
from smar_model.training.model_files import load_model, new_model, save_model
from tests.encoders.small_encoders import write_timm
from tests.tiny_shop import draw_picture, flip_byte, tiny_run, write_rows

COLOURS = ["red", "blue", "green", "black", "white", "yellow", "grey"]
SIZE = (48, 64)


def publish(run: Run, stage: str, fill: Callable[[Path], object], **made_of: object) -> Artifact:
    key = digest_json([stage, made_of])
    attempt = Attempt(stage, key)
    fill(attempt.folder)
    artifact = attempt.publish(metrics={}, inputs={}, settings={}, made_by=str(made_of.get("made_by", "a test")))
    run.write_state(stage, "finished", key=key)
    return artifact


def give_pictures(run: Run, colours: list[str], *, made_by: str = "a test", size: tuple[int, int] = SIZE) -> Artifact:
    """An item for each colour, with one picture; the last item has the first one's besides."""

    def row(item: int, frame: int, colour: str) -> dict:
        digest = f"{COLOURS.index(colour):064}"
        return {
            **{"item_id": f"i{item}", "frame": frame, "picture_digest": digest, "perceptual_hash": 0, "signature": []},
            "thumbnail": draw_picture(colour, size=size),
        }

    rows = [row(n, 0, colour) for n, colour in enumerate(colours)] + [row(len(colours) - 1, 1, colours[0])]
    return publish(
        run,
        "prepare-items",
        lambda folder: write_rows(folder / "pictures" / "part-0.parquet", "pictures", rows),
        colours=colours,
        made_by=made_by,
        size=size,
    )


def give_encoder(run: Run, *, seed: int = 0, variant: str = "smar_adapted", pretrained: Path | None = None) -> Artifact:
    torch.manual_seed(seed)
    network = Network(variant=variant, dimension=16, text=TextEncoder(width=32, heads=2, query_layers=1))
    if pretrained:
        network = network.model_copy(update={"vision": VisionEncoder(pretrained="tiny")})
    model = new_model(
        network,
        vocabulary=50,
        query_length=8,
        item_length=8,
        pictures=Pictures(width=SIZE[0], height=SIZE[1]),
        vision_encoder=pretrained,
    )

    def fill(folder: Path) -> None:
        (folder / "any.json").write_text("{}")
        save_model(model, folder / "model", folder / "any.json")

    return publish(run, "adapt-vision", fill, seed=seed, variant=variant, pretrained=str(pretrained))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "var"))
    run = tiny_run(tmp_path / "shop")
    give_encoder(run)
    give_pictures(run, COLOURS[:4])
    return run


def encode(run: Run) -> Artifact:
    return run_stage(STAGES["encode-pictures"], run)


def tokens_of(artifact: Artifact) -> PatchTokens:
    tokens = read_patch_tokens(artifact.folder / "patch_tokens")
    assert tokens is not None
    return tokens


def whole(artifact: Artifact) -> np.ndarray:
    return np.concatenate(tokens_of(artifact).shards)


def counts(artifact: Artifact) -> tuple[int, int]:
    return artifact.metrics["pictures_encoded"], artifact.metrics["pictures_reused"]


def test_tokens_are_those_of_encoding_directly(run: Run) -> None:
    tokens = tokens_of(encode(run))
    assert tokens.views == run.settings.training.picture_views == 4
    model = load_model(run.output("adapt-vision").folder / "model")
    pixels = np.stack([decode_thumbnail(draw_picture(colour, size=SIZE)) for colour in COLOURS[:4]])
    names = [digest.decode() for digest in tokens.digests]
    with torch.no_grad():
        for view in range(4):
            direct = model.picture_patches(torch.from_numpy(picture_view(pixels, names, view)).float() / 255)
            np.testing.assert_allclose(tokens.read(np.arange(4), view), direct.half().numpy(), rtol=2e-3, atol=1e-3)
    assert not np.array_equal(tokens.read(np.arange(4), 0), tokens.read(np.arange(4), 1))


def test_only_a_new_picture_is_encoded_and_the_result_is_that_of_encoding_all(run: Run) -> None:
    assert counts(encode(run)) == (4, 0)
    give_pictures(run, COLOURS[1:6])  # one gone, two new
    reused = encode(run)
    assert counts(reused) == (2, 3)
    manifest_path("encode-pictures", reused.key).unlink()
    for old in manifest_path("encode-pictures", "any").parent.glob("*.json"):
        old.unlink()
    anew = encode(run)
    assert counts(anew) == (5, 0)
    assert anew.digest == reused.digest


@pytest.mark.parametrize("changed", ["encoder", "thumbnails"])
def test_nothing_is_taken_over_from_another_encoder_or_other_thumbnails(run: Run, changed: str) -> None:
    first = encode(run)
    if changed == "encoder":
        give_encoder(run, seed=1)
        second = encode(run)
        assert not np.array_equal(whole(first), whole(second))
    else:
        give_pictures(run, COLOURS[:5], made_by="another size")
        second = encode(run)
    assert counts(second)[1] == 0


def test_a_damaged_earlier_output_is_not_used(run: Run) -> None:
    flip_byte(encode(run).folder / "patch_tokens" / "00000.npy")
    give_pictures(run, COLOURS[:5])
    assert counts(encode(run)) == (5, 0)


def test_batches_and_shards_do_not_show(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    one = encode(run)
    manifest_path("encode-pictures", one.key).unlink()
    monkeypatch.setattr(encode_pictures, "SHARD_BYTES", 30_000)  # three pictures
    two = encode(run)
    assert [len(tokens_of(a).shards) for a in (one, two)] == [1, 2]
    assert np.array_equal(whole(one), whole(two))
    pictures, views = np.array([3, 0, 3, 2]), np.array([1, 0, 2, 3])
    expected = np.concatenate(tokens_of(one).shards)[pictures, views]
    assert np.array_equal(tokens_of(two).read(pictures, views), expected)
    # The shard that is made last is small: its pictures come out as they do beside others.
    give_pictures(run, COLOURS[:4][::-1])
    assert np.array_equal(whole(encode(run)), whole(one)), "nor does the order of the table"


def test_items_find_their_pictures(run: Run) -> None:
    tokens = tokens_of(encode(run))
    files = run.output("prepare-items").files("pictures")
    items = read_item_pictures(files, np.array([b"i0", b"i2", b"i3", b"none"]), tokens.digests)
    assert items.count.tolist() == [1, 1, 2, 0]
    assert [items.pictures[f : f + n].tolist() for f, n in zip(items.first, items.count, strict=True)] == [
        [0], [2], [3, 0], []
    ]  # fmt: skip


@pytest.mark.parametrize("variant", ["text_only", "smar"])
def test_a_variant_that_reads_no_pictures_or_trains_its_encoder_passes(run: Run, variant: str) -> None:
    give_encoder(run, variant=variant)
    artifact = encode(run)
    assert artifact.metrics == {"pictures": 0, "pictures_encoded": 0, "pictures_reused": 0}
    assert read_patch_tokens(artifact.folder / "patch_tokens") is None


def test_an_encoder_that_came_with_weights_encodes_once_though_nothing_adapts_it(run: Run, tmp_path: Path) -> None:
    write_timm(tmp_path / "encoder" / "vision")
    give_encoder(run, variant="smar", pretrained=tmp_path / "encoder")
    artifact = encode(run)
    assert counts(artifact) == (4, 0)
    tokens = tokens_of(artifact).read(np.arange(4), 0)
    assert tokens.shape == (4, 2 * 2, 32 + 48 + 64)
    give_encoder(run, variant="default", pretrained=tmp_path / "encoder")
    beside = tokens_of(encode(run)).read(np.arange(4), 0)
    assert np.array_equal(beside[..., : 32 + 48 + 64], tokens) and beside.shape[-1] > 32 + 48 + 64


def test_thumbnails_of_another_size_are_refused(run: Run) -> None:
    give_pictures(run, COLOURS[:3], size=(32, 32))
    with pytest.raises(InputError, match="pictures are 32×32, the vision encoder was made for 48×64"):
        encode(run)
