"""Networks and batches that are small enough to train in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from smar_model.network.model import RetrievalModel
from smar_model.settings import Network, Pictures, TextEncoder, VisionEncoder
from smar_model.training.batches import Batch
from smar_model.training.model_files import new_model

SMALL = TextEncoder(width=32, heads=2, query_layers=1)


def small_model(
    *,
    vocabulary: int = 100,
    text_encoder: Path | None = None,
    vision_encoder: Path | None = None,
    **network: Any,
) -> RetrievalModel:
    torch.manual_seed(0)
    options: dict = {
        "variant": "smar_adapted",
        "dimension": 16,
        "text": SMALL,
        "vision": VisionEncoder(name="test_vit"),
        **network,
    }
    vision = options["vision"]
    if vision.name == "test_vit":
        options["vision"] = vision.model_copy(update={"options": {"img_size": [64, 48]}})
    model = new_model(
        Network(**options),
        vocabulary=vocabulary,
        query_length=8,
        item_length=12,
        pictures=Pictures(width=48, height=64),
        text_encoder=text_encoder,
        vision_encoder=vision_encoder,
    )
    return model.eval()


def small_batch(model: RetrievalModel, pairs: int = 7, *, further: int = 0, frames: int = 1) -> Batch:
    """Pairs with distinct texts, `further` items each; every fifth item has no picture."""
    generator = torch.Generator().manual_seed(pairs)
    items = pairs * (1 + further)

    def ids(*shape: int) -> torch.Tensor:
        return torch.randint(1, 100, shape, generator=generator)

    batch = Batch(
        queries=ids(pairs, 8),
        query_keys=torch.arange(pairs),
        item_keys=torch.arange(items),
        texts=ids(items, 12),
        segments=ids(items, 12) % 4,
        labels=torch.arange(pairs) % 3 - 1,
    )
    if model.variant.fusion:
        has = torch.arange(items) % 5 != 0
        batch.has_picture = (
            has if frames == 1 else has[:, None] & (torch.arange(frames) <= torch.arange(items)[:, None] % 3)
        )
        if model.vision_locked:
            several = (frames,) if frames > 1 else ()
            batch.patches = torch.rand(
                items, *several, model.vision.patches, model.vision.channels, generator=generator
            )
        else:
            batch.pixels = torch.rand(items, 3, 64, 48, generator=generator)
    return batch
