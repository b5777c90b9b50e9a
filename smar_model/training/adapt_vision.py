"""Stage adapt-vision: the vision encoder meets this shop's products before any fusion (Beyond Text, stage 1).

The encoder learns from what a shop has: what shoppers and sellers call the product in the picture (contrast of picture
and query), the picture itself (contrast of two augmented views), and where the product stands in the catalogue (a
category head, thrown away after). `docs/vision.md` says what each is worth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smar_model.data.catalogue import look
from smar_model.lake.stage import StageContext
from smar_model.network.losses import duplicates_mask, in_batch_softmax
from smar_model.network.model import RetrievalModel
from smar_model.settings import VisionAdaptation
from smar_model.training.batches import Batch, TrainingData
from smar_model.training.device import device
from smar_model.training.gradient_cache import Embeddings
from smar_model.training.loop import train
from smar_model.training.processes import own_rows, processes
from smar_model.training.stage_model import begin, move, publish


class Adaptation(nn.Module):
    """The network's query side, vision encoder and image tower, with a category head beside them."""

    model: RetrievalModel
    categories: Tensor

    def __init__(self, categories: np.ndarray, model: RetrievalModel, weights: VisionAdaptation) -> None:
        """`categories`: number of each item's category, by item row."""
        super().__init__()
        self.model, self.weights = model, weights
        self.register_buffer("categories", torch.tensor(categories, dtype=torch.long))
        self.category_head = nn.Linear(model.shape.network.dimension, int(categories.max()) + 1)

    def encode(self, batch: Batch) -> Embeddings:
        """queries, images, views: unit vectors (B, D), views where the batch has second ones, without a gradient."""
        move(batch)
        assert batch.has_picture is not None and batch.pixels is not None
        queries, _ = self.model.encode_queries(batch.queries)
        first, *second = batch.pixels.unbind(1) if batch.pixels.ndim == 5 else (batch.pixels,)
        _, images = self.model.encode_images(self.model.picture_patches(first), batch.has_picture)
        embeddings = {
            "queries": queries,
            "images": images,
            "category": self.category_head(images),
            "has_picture": batch.has_picture,
            "query_keys": batch.query_keys,
            "item_keys": batch.item_keys,
        }
        if second:
            with torch.no_grad():
                _, embeddings["views"] = self.model.encode_images(
                    self.model.picture_patches(second[0]), batch.has_picture
                )
        return embeddings

    def losses(self, embeddings: Embeddings) -> dict[str, Tensor]:
        """The weighted sum and its parts, over the pairs with a picture; a part of weight 0 is not computed."""
        seen = {name: value[embeddings["has_picture"]] for name, value in embeddings.items()}
        if not len(seen["images"]):  # the mean of nothing is no number
            return {"loss": embeddings["images"].sum() * 0}
        weights, items = self.weights, seen["item_keys"]
        parts: dict[str, Tensor] = {}
        total = seen["images"].new_zeros(())
        if weights.text_weight:
            excluded = duplicates_mask(seen["query_keys"], items)
            parts["contrast"] = in_batch_softmax(seen["queries"] @ seen["images"].T, self.model.scale, excluded)
            total = total + weights.text_weight * parts["contrast"]
        if weights.view_weight:
            excluded = duplicates_mask(items, items)
            parts["views"] = in_batch_softmax(seen["images"] @ seen["views"].T, self.model.scale, excluded)
            total = total + weights.view_weight * parts["views"]
        if weights.category_weight:
            parts["category"] = F.cross_entropy(seen["category"], self.categories[items])
            total = total + weights.category_weight * parts["category"]
        return {"loss": total, **parts}


def two_views(batches: Iterable[Batch], random: np.random.Generator) -> Iterator[Batch]:
    """Batches with a second augmented view of each picture beside the first: pixels (B, 2, 3, H, W)."""
    for batch in batches:
        assert batch.pixels is not None
        count = len(batch.pixels) * processes()
        chances = random.random((count, 4))[own_rows(count)]
        again = look((batch.pixels * 255).round().byte().numpy(), chances)
        yield replace(batch, pixels=torch.stack([batch.pixels, torch.from_numpy(again).float() / 255], dim=1))


def run(context: StageContext) -> dict[str, float]:
    """Train and publish `model/`, whose vision encoder the later stages lock; variants that do not adapt it pass."""
    optimisation = context.settings.training.adapt_vision
    model = begin(context)
    if not model.variant.adapted:
        context.output("history.json").write_text("[]", encoding="utf-8")
        return publish(context, model)
    data = TrainingData(context, seed=context.settings.training.seed, pictures=True)
    if not data.thumbnails or not len(data.thumbnails.pixels):
        context.report("no item has a picture: the vision encoder stays as it is")
        context.output("history.json").write_text("[]", encoding="utf-8")
        return publish(context, model)
    adaptation = Adaptation(data.categories, model, optimisation).to(device())
    batches = data.batches(optimisation.batch, optimisation.clicked_share, pixels=True)
    metrics = train(
        adaptation,
        data,
        two_views(batches, data.random) if optimisation.view_weight else batches,
        encode=lambda step, batch: adaptation.encode(batch),
        objective=lambda step, embeddings: adaptation.losses(embeddings),
        optimisation=optimisation,
        context=context,
    )
    return metrics | publish(context, model)
