"""Item embeddings: several pictures, none, and an item's confidence in its own."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from smar_model.data.catalogue import decode_thumbnail, read_catalogue, read_thumbnails
from smar_model.data.patch_tokens import PatchTokens
from smar_model.data.text_tokens import encode_items, load_tokenizer
from smar_model.network.model import RetrievalModel
from smar_model.retrieval.embed import embed_catalogue
from tests.network.small_models import small_model
from tests.tiny_shop import draw_picture, write_rows

PICTURES = {"a": [], "b": ["red"], "c": ["blue", "green", "white"], "d": ["white"]}
PLACEHOLDER = "d"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("embed")
    words = ["<pad>", "<other>", "shirt", "clothing"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<other>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    items = [
        {
            "item_id": item,
            "title": f"shirt {item}",
            "category": "Clothing > Shirts",
            "department": "Clothing",
            "brand": "",
            "attributes": [],
            "images": colours,
            "informative_pictures": len(colours),
            "updated_at": datetime(2026, 11, 1, tzinfo=UTC),
        }
        for item, colours in PICTURES.items()
    ]
    pictures = [
        {
            "item_id": item,
            "frame": frame,
            "picture_digest": f"{item}{frame}".ljust(64, "0"),
            "perceptual_hash": 0,
            "signature": [0] * 144,
            "uninformative": "uniform" if item == PLACEHOLDER else None,
            "thumbnail": thumbnail(colour),
        }
        for item, colours in PICTURES.items()
        for frame, colour in enumerate(colours)
    ]
    return {
        "tokenizer": folder / "tokenizer.json",
        "catalogue": write_rows(folder / "catalogue.parquet", "catalogue", items),
        "pictures": write_rows(folder / "pictures.parquet", "pictures", pictures),
    }


def thumbnail(colour: str) -> bytes:
    image = Image.open(io.BytesIO(draw_picture(colour))).resize((48, 64))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def trained_model(**network: object) -> RetrievalModel:
    """Weights as after training: the fusion adds something, and every frame and item differs."""
    model = small_model(**network)
    torch.manual_seed(2)
    parts = [model.fusion, model.image_tower, *([model.confidence_head] if model.variant.item_confidence else [])]
    for parameter in (p for part in parts for p in part.parameters()):
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@torch.no_grad()
def by_hand(
    model: RetrievalModel, files: dict[str, Path]
) -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """S_t, S_m and c of each item, one at a time, S_m and c of each picture where they are looked at one by one."""
    catalogue = read_catalogue([files["catalogue"]])
    texts = encode_items(load_tokenizer(files["tokenizer"]), catalogue, model.shape.item_length)
    thumbnails = read_thumbnails([files["pictures"]], texts.item_ids)
    found = {}
    for row, item in enumerate(texts.item_ids):
        ids, segments = (torch.from_numpy(a[row : row + 1]).long() for a in (texts.ids, texts.segments))
        states, mask, text = model.encode_texts(ids[:, : int((ids != 0).sum())], segments[:, : int((ids != 0).sum())])
        first, count = thumbnails.first[row], thumbnails.count[row]
        pixels = torch.from_numpy(thumbnails.pixels[first : first + count]).float() / 255
        patches = model.picture_patches(pixels if count else torch.zeros(1, 3, 64, 48))
        has = torch.full((max(1, count),), bool(count))
        if model.shape.network.frames > 1:
            patches, has = patches[None, : model.shape.network.frames], has[None, : model.shape.network.frames]
        views = [
            (states, mask, model.encode_images(p, h)[0], model.image_mask(h))
            for p, h in zip(patches.split(1), has.split(1), strict=True)
        ]
        found[item] = (
            text[0],
            torch.cat([model.fuse(*view) for view in views]),
            torch.cat([model.confidence(*view) for view in views]),
        )
    return found


@pytest.mark.parametrize(
    "network", [{}, {"frames": 2}, {"frames": 3, "item_confidence": True}, {"item_confidence": True}]
)
def test_items_are_embedded_as_one_at_a_time(network: dict, files: dict[str, Path]) -> None:
    model = trained_model(**network)
    embeddings = embed_catalogue(model, files["tokenizer"], [files["catalogue"]], [files["pictures"]])
    assert embeddings.item_ids == list(PICTURES)
    for row, (text, fused, confidence) in enumerate(by_hand(model, files).values()):
        assert embeddings.text[row] == pytest.approx(text.numpy(), abs=1e-5)
        multimodal = torch.nn.functional.normalize(fused.mean(0), dim=0)
        served = text + confidence.mean() * (multimodal - text)
        assert embeddings.multimodal[row] == pytest.approx(served.numpy(), abs=1e-5)
    if "item_confidence" not in network:
        assert (embeddings.multimodal**2).sum(1) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("network", [{}, {"frames": 2}])
def test_pictures_that_are_encoded_already_are_not_encoded_again(
    network: dict, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained_model(**network)
    inputs = (files["tokenizer"], [files["catalogue"]], [files["pictures"]])
    direct = embed_catalogue(model, *inputs)
    rows = pq.read_table(files["pictures"]).sort_by([("picture_digest", "descending")]).to_pylist()[::-1]
    pixels = np.stack([decode_thumbnail(row["thumbnail"]) for row in rows])
    with torch.no_grad():
        patches = model.picture_patches(torch.from_numpy(pixels).float() / 255).half().numpy()
    digests = np.array([row["picture_digest"].encode() for row in rows])
    monkeypatch.setattr(RetrievalModel, "picture_patches", None)
    tokens = PatchTokens(digests=digests, shards=[patches[:3, None], patches[3:, None]])
    reused = embed_catalogue(model, *inputs, patch_tokens=tokens)
    assert reused.item_ids == direct.item_ids
    np.testing.assert_array_equal(reused.text, direct.text)
    np.testing.assert_allclose(reused.multimodal, direct.multimodal, atol=3e-3)  # half precision


def test_a_picture_that_says_nothing_is_as_none(files: dict[str, Path]) -> None:
    model = trained_model()
    before = by_hand(model, files)
    torch.nn.init.normal_(model.image_tower.no_picture, std=3.0)
    moved = by_hand(model, files)
    changed = [item for item in PICTURES if not torch.allclose(moved[item][1], before[item][1], atol=1e-3)]
    assert changed == ["a", PLACEHOLDER]
