"""Stage adapt-vision: the vision encoder meets this shop's products before any fusion (Beyond Text, stage 1).

The encoder learns from two things that a shop has: what shoppers and sellers call the product in the picture
(contrast of picture and query) and where it stands in the catalogue (a category head, thrown away after).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smar_model.lake.stage import StageContext
from smar_model.network.losses import duplicates_mask, in_batch_softmax
from smar_model.network.model import RetrievalModel
from smar_model.training.batches import Batch, TrainingData
from smar_model.training.device import device
from smar_model.training.gradient_cache import Embeddings
from smar_model.training.loop import train
from smar_model.training.stage_model import begin, move, publish

CATEGORY_WEIGHT = 0.5


class Adaptation(nn.Module):
    """The network's query side, vision encoder and image tower, with a category head beside them."""

    model: RetrievalModel
    categories: Tensor

    def __init__(self, data: TrainingData, model: RetrievalModel) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("categories", torch.tensor(data.categories, dtype=torch.long))
        self.category_head = nn.Linear(model.shape.network.dimension, int(data.categories.max()) + 1)

    def encode(self, batch: Batch) -> Embeddings:
        move(batch)
        assert batch.has_picture is not None and batch.pixels is not None
        queries, _ = self.model.encode_queries(batch.queries)
        _, images = self.model.encode_images(self.model.picture_patches(batch.pixels), batch.has_picture)
        return {
            "queries": queries,
            "images": images,
            "category": self.category_head(images),
            "has_picture": batch.has_picture,
            "query_keys": batch.query_keys,
            "item_keys": batch.item_keys,
        }

    def losses(self, embeddings: Embeddings) -> dict[str, Tensor]:
        seen = {name: value[embeddings["has_picture"]] for name, value in embeddings.items()}
        excluded = duplicates_mask(seen["query_keys"], seen["item_keys"])
        contrast = in_batch_softmax(seen["queries"] @ seen["images"].T, self.model.scale, excluded)
        category = F.cross_entropy(seen["category"], self.categories[seen["item_keys"]])
        return {"loss": contrast + CATEGORY_WEIGHT * category, "contrast": contrast, "category": category}


def run(context: StageContext) -> dict[str, float]:
    """Train and publish `model/`, whose vision encoder the later stages lock; variants without pictures pass."""
    optimisation = context.settings.training.adapt_vision
    model = begin(context)
    if not model.variant.fusion:
        context.output("history.json").write_text("[]", encoding="utf-8")
        return publish(context, model)
    data = TrainingData(context, seed=context.settings.training.seed, pictures=True)
    if not data.thumbnails or not len(data.thumbnails.pixels):
        context.report("no item has a picture: the vision encoder stays as it is")
        context.output("history.json").write_text("[]", encoding="utf-8")
        return publish(context, model)
    adaptation = Adaptation(data, model).to(device())
    metrics = train(
        adaptation,
        data,
        data.batches(optimisation.batch, optimisation.clicked_share, pixels=True),
        encode=lambda step, batch: adaptation.encode(batch),
        objective=lambda step, embeddings: adaptation.losses(embeddings),
        optimisation=optimisation,
        context=context,
    )
    return metrics | publish(context, model)
