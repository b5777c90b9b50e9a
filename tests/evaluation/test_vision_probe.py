"""The linear probe of picture encoders: what it reads, on which products, and what it refuses."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from smar_model.cli import app
from smar_model.data.training_pairs import in_novel_bucket
from smar_model.errors import InputError
from smar_model.evaluation.evaluation_record import Estimate
from smar_model.evaluation.picture_features import (
    BINS,
    colour_histogram,
    encode,
    generic_encoder,
    pad_to_square,
)
from smar_model.evaluation.vision_probe import (
    VisionProbe,
    format_probe,
    probe,
    probe_vision,
    read_products,
    unadapted_model,
)
from smar_model.lake.artifacts import manifest_path
from smar_model.lake.digests import digest_bytes, digest_json
from smar_model.lake.publishing import Attempt
from smar_model.lake.runs import Run
from smar_model.training.model_files import load_model
from smar_model.training.stage_model import begin
from tests.evaluation.published_run import NETWORK, PublishedRun, publish_run
from tests.tiny_shop import write_rows

ITEMS = 150
COLOURS = ("red", "green", "blue")
SHAPES = {"tall": (18, 12, 30, 52), "wide": (4, 26, 44, 38)}
"""Of 48 × 64 pixels; as many of them either way, so that a histogram tells no shape."""


def original(n: int) -> int:
    """Item whose picture item n has: the last ten have item 3's."""
    return 3 if n >= 140 else n


def drawn(n: int) -> tuple[str, str]:
    """Colour and shape of an item's picture."""
    return COLOURS[original(n) % 3], list(SHAPES)[original(n) // 3 % 2]


def picture(colour: str, shape: str, *, shift: int) -> bytes:
    image = Image.new("RGB", (48, 64), "white")
    left, top, right, bottom = SHAPES[shape]
    ImageDraw.Draw(image).rectangle((left, top + shift, right - 1, bottom + shift - 1), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_products(folder: Path) -> None:
    """The table `pictures`: two of each item; those of items 0 and 1 say nothing."""
    rows = []
    for n in range(ITEMS):
        front = picture(*drawn(n), shift=original(n) % 9 - 4)
        back = picture(COLOURS[(original(n) + 1) % 3], "wide", shift=0)
        for frame, thumbnail in enumerate((front, back)):
            row = {
                "item_id": f"p-{n:03}",
                "frame": frame,
                "thumbnail": thumbnail,
                "perceptual_hash": 0,
                "signature": [],
            }
            digest = digest_bytes(thumbnail + bytes([original(n)]))
            rows.append(row | {"picture_digest": digest, "uninformative": "uniform" if n < 2 else None})
    write_rows(folder / "pictures" / "part-0.parquet", "pictures", rows[::-1])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PublishedRun]:
    folder = tmp_path_factory.mktemp("probe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder / "var"))
        published = publish_run(folder / "shop", with_truth=True, segments={"novel_bucket": 0.3})
        network = published.run.settings.network.model_copy(update={"variant": "smar_adapted"})
        published.run = of_run(published.run, network=network)
        truth = [
            {"item_id": f"p-{n:03}", "attributes": list(zip(("colour", "type"), drawn(n), strict=True))}
            for n in range(ITEMS)
        ]
        write_rows(published.root / "truth" / "items.parquet", "truth_items", truth)
        attempt = Attempt("prepare-items", digest_json("products"))
        write_products(attempt.folder)
        artifact = attempt.publish(metrics={}, inputs={}, settings={})
        published.run.write_state("prepare-items", "finished", key=artifact.key)
        # In place of the one without a model.
        manifest_path("adapt-vision", published.run.output("adapt-vision").key).unlink()
        published.publish_model("adapt-vision", variant="smar_adapted", seed=1)
        yield published


@pytest.fixture(scope="module")
def result(published: PublishedRun) -> VisionProbe:
    return probe_vision(published.run)


def of_run(run: Run, **sections: Any) -> Run:
    """The run with other settings."""
    return replace(run, settings=run.settings.model_copy(update=sections))


def test_products_are_the_informative_main_pictures_held_out_by_hash(published: PublishedRun) -> None:
    products = read_products(published.run)
    ids = [f"p-{n:03}" for n in range(2, ITEMS)]
    held_out = in_novel_bucket("item", ids, (0.0, 0.3))
    copies = [n for n, item in enumerate(ids) if item >= "p-140" and held_out[n]]
    assert not held_out[1] and copies  # item 3 is learned from, so those of its copies that are held out must go
    kept = np.delete(np.arange(len(ids)), copies)
    assert np.array_equal(products.held_out, held_out[kept])
    colours = [drawn(int(ids[n][2:]))[0] for n in kept]
    assert products.attributes["colour"].tolist() == colours
    # The main picture, not the one of the back: what stands in the middle has the product's own colour.
    assert [COLOURS[n] for n in products.pixels[:, :, 32, 24].argmax(1)] == colours


def test_a_run_without_novel_items_holds_out_some_of_its_own_and_says_so(
    published: PublishedRun, result: VisionProbe
) -> None:
    run = of_run(published.run, segments=published.run.settings.segments.model_copy(update={"novel_bucket": 0.0}))
    share = read_products(run).held_out.mean()
    assert 0.1 < share < 0.3
    assert "has not seen the products held out" in format_probe(result)
    assert "trained its encoder on all" in format_probe(replace(result, unseen_by_encoder=False))


def test_a_histogram_reads_colours_and_not_shapes(result: VisionProbe) -> None:
    colour, shape = (result.attributes[name] for name in ("colour", "type"))
    assert (colour.values, shape.values) == (3, 2)
    assert colour.held_out == shape.held_out > 20
    assert colour.accuracy["colour_histogram"].mean > 0.95
    assert shape.accuracy["colour_histogram"].mean < 0.8 < shape.accuracy["unadapted"].mean
    assert shape.accuracy["colour_histogram"].low < shape.accuracy["colour_histogram"].mean


def test_figures_stand_in_a_file_and_in_a_table(published: PublishedRun, result: VisionProbe) -> None:
    assert json.loads((published.run.folder / "vision_probe.json").read_text()) == asdict(result)
    lines = format_probe(result).splitlines()
    assert "colour, 3 values, n = " in lines[0]
    for row in (
        "most frequent value",
        "colour histogram",
        "colours and edges by field",
        "unadapted encoder",
        "adapted encoder",
    ):
        assert any(line.startswith(row) for line in lines), row
    assert any(
        line.startswith("generic encoder") and "not measured: no folder of one was given" in line for line in lines
    )
    assert any(line.startswith("adapted less unadapted encoder, points: colour ") for line in lines)


def test_the_unadapted_encoder_is_the_one_that_training_began_with(published: PublishedRun, tmp_path: Path) -> None:
    run = published.run
    started = begin(published.context("adapt-vision", tmp_path)).state_dict()
    made = unadapted_model(run, load_model(run.output("adapt-vision").folder / "model")).state_dict()
    assert started.keys() == made.keys()
    assert all(torch.equal(weight, made[name]) for name, weight in started.items())


def test_where_pictures_are_read_by_descriptors_the_image_tower_is_probed(published: PublishedRun) -> None:
    model = published.run.output("adapt-vision")
    manifest_path("adapt-vision", model.key).rename(kept := published.run.folder / "kept.json")
    figures = (published.run.folder / "vision_probe.json").read_bytes()
    try:
        published.publish_model("adapt-vision", variant="default")
        network = published.run.settings.network.model_copy(update={"variant": "default"})
        result = probe_vision(of_run(published.run, network=network))
    finally:
        kept.replace(manifest_path("adapt-vision", model.key))
        (published.run.folder / "vision_probe.json").write_bytes(figures)
    assert result.dimensions["adapted"] == NETWORK["text"]["width"]
    assert result.attributes["type"].accuracy["descriptors"].mean > 0.9
    assert any(line.startswith("adapted image tower") for line in format_probe(result).splitlines())


def test_a_generic_encoder_is_measured_at_its_own_size(published: PublishedRun, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = timm.create_model("test_vit", pretrained=False, num_classes=0)
    timm.models.save_for_hf(encoder, tmp_path)
    answer = CliRunner().invoke(app, ["probe-vision", "--run", published.run.name, "--generic", str(tmp_path)])
    assert answer.exit_code == 0, answer.output
    assert "not measured" not in answer.output
    measured = json.loads((published.run.folder / "vision_probe.json").read_text())
    assert measured["parameters"]["generic"] == sum(p.numel() for p in encoder.parameters())
    assert measured["attributes"]["colour"]["accuracy"]["generic"]["mean"] > 0.5
    loaded, size = generic_encoder(tmp_path)
    assert size == (160, 160)
    white = np.full((3, 3, 64, 48), 255, dtype=np.uint8)
    assert encode(loaded, white, size=size).shape == (3, measured["dimensions"]["generic"])


def test_thumbnails_are_made_square_with_white() -> None:
    square = pad_to_square(torch.zeros(2, 3, 6, 3))
    assert square.shape == (2, 3, 6, 6)
    assert torch.equal(square[0, 0, 0], torch.tensor([1.0, 0, 0, 0, 1, 1]))
    wide = pad_to_square(torch.zeros(1, 3, 2, 4))
    assert torch.equal(wide[0, 0, :, 0], torch.tensor([1.0, 0, 0, 1]))


def test_a_histogram_counts_colours_wherever_they_stand() -> None:
    pixels = np.zeros((1, 3, 2, 2), dtype=np.uint8)
    pixels[0, :, 0, 0] = (255, 0, 32)
    histogram = colour_histogram(pixels)
    assert histogram.shape == (1, BINS**3)
    assert histogram[0, (BINS - 1) * BINS**2 + 1] == pytest.approx(np.sqrt(1 / 4))
    assert histogram[0, 0] == pytest.approx(np.sqrt(3 / 4))
    assert np.array_equal(histogram, colour_histogram(pixels[:, :, ::-1]))


def test_the_probe_reads_what_is_planted_and_nothing_from_noise() -> None:
    random = np.random.default_rng(0)
    values = random.choice(["a", "b", "c"], 400).astype(object)
    values[:4] = "rare"
    values[4:10] = None
    held_out = np.arange(400) % 4 == 0
    planted = np.stack([values == v for v in "abc"], axis=1).astype(float)
    features = {"adapted": planted, "unadapted": random.normal(size=(400, 3))}
    figures = probe(features, values, held_out, samples=200, seed=0)
    assert figures.left_out == 10
    assert figures.learned_from + figures.held_out == 390
    assert figures.accuracy["adapted"] == Estimate(mean=1.0, low=1.0, high=1.0)
    assert figures.accuracy["unadapted"].mean < 0.5
    assert figures.adapted_minus["unadapted"].low > 0.4
    assert figures == probe(features, values, held_out, samples=200, seed=0)


def test_without_truth_there_is_nothing_to_judge_by(published: PublishedRun, tmp_path: Path) -> None:
    shop = published.run.settings.shop.model_copy(update={"root": tmp_path})
    with pytest.raises(InputError, match=r"truth/items\.parquet: no such file; the probe needs true attributes"):
        read_products(of_run(published.run, shop=shop))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}: not a timm model"):
        generic_encoder(tmp_path)


@pytest.mark.parametrize("variant", ["text_only", "smar"])
def test_a_variant_that_adapts_no_encoder_has_nothing_to_probe(variant: str, published: PublishedRun) -> None:
    model = published.run.output("adapt-vision")
    manifest_path("adapt-vision", model.key).rename(kept := published.run.folder / "kept.json")
    try:
        published.publish_model("adapt-vision", variant=variant)
        with pytest.raises(InputError, match="adapts no vision encoder; nothing to probe"):
            probe_vision(published.run)
    finally:
        kept.replace(manifest_path("adapt-vision", model.key))
