"""Stage adapt-vision: the vision encoder meets this shop's products before any fusion (Beyond Text, stage 1).

The encoder and the image tower learn from what a shop has: what shoppers and sellers call the product in the picture (contrast of
picture and query; or the query's words named from the picture, all words of the vocabulary against each other), the picture
itself (contrast of two augmented views), and where the product stands in the catalogue. The heads that name words and
categories are thrown away after. One that came with weights can be held near to what it was (arXiv 2606.27708): while it learns, by
the tokens that it gave (distillation); after, by its weights (WiSE-FT). `docs/vision.md` says what each is worth.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smar_model.data.picture_views import look
from smar_model.errors import InputError
from smar_model.lake.stage import StageContext
from smar_model.network.losses import duplicates_mask, in_batch_softmax
from smar_model.network.model import RetrievalModel
from smar_model.network.picture_encoder import PictureEncoder
from smar_model.network.towers import PADDING
from smar_model.settings import VisionAdaptation
from smar_model.training.batches import Batch, TrainingData
from smar_model.training.device import device
from smar_model.training.gradient_cache import Embeddings
from smar_model.training.loop import train
from smar_model.training.processes import own_rows, processes
from smar_model.training.stage_model import begin, move, publish

FITTED_PICTURES = 2_048
"""From which descriptors learn what is usual in this shop."""


class Adaptation(nn.Module):
    """The network's query side, vision encoder and image tower, with heads for categories and words beside them."""

    model: RetrievalModel
    categories: Tensor

    def __init__(self, categories: np.ndarray, model: RetrievalModel, weights: VisionAdaptation) -> None:
        """`categories`: number of each item's category, by item row."""
        super().__init__()
        self.model, self.weights = model, weights
        self.register_buffer("categories", torch.tensor(categories, dtype=torch.long))
        width = model.shape.network.text.width
        self.category_head = nn.Linear(width, int(categories.max()) + 1)
        self.word_head = nn.Linear(width, model.shape.vocabulary) if weights.naming_weight else None
        # No part of what is trained or kept in a checkpoint: each process makes it of the weights that the encoder came with.
        self._as_it_came = [copy.deepcopy(model.vision).eval()] if weights.distillation_weight else []

    def encode(self, batch: Batch) -> Embeddings:
        """What the losses of positive weight need: queries, images, views: unit vectors (B, D), views where the batch has second ones,
        without a gradient; category: logits; naming, distillation: each pair's loss (B,)."""
        move(batch)
        assert batch.has_picture is not None and batch.pixels is not None
        first, *second = batch.pixels.unbind(1) if batch.pixels.ndim == 5 else (batch.pixels,)
        patches = self.model.picture_patches(first)
        states, images = self.model.encode_images(patches, batch.has_picture)
        picture = states.mean(1)  # (B, W)
        embeddings = {
            "images": images,
            "category": self.category_head(picture),
            "has_picture": batch.has_picture,
            "query_keys": batch.query_keys,
            "item_keys": batch.item_keys,
        }
        if self.weights.text_weight:
            embeddings["queries"], _ = self.model.encode_queries(batch.queries)
        if self.word_head:
            embeddings["naming"] = naming_loss(self.word_head(picture), batch.queries)
        for encoder in self._as_it_came:
            with torch.no_grad():
                wanted = encoder.to(first.device)(first)
            embeddings["distillation"] = (patches - wanted).square().mean((1, 2))
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
            return {"loss": embeddings["category"].sum() * 0}
        weights, items = self.weights, seen["item_keys"]
        parts: dict[str, Tensor] = {}
        total = seen["images"].new_zeros(())
        if weights.text_weight:
            excluded = duplicates_mask(seen["query_keys"], items)
            parts["contrast"] = in_batch_softmax(seen["queries"] @ seen["images"].T, self.model.scale, excluded)
            total = total + weights.text_weight * parts["contrast"]
        if weights.naming_weight:
            parts["naming"] = seen["naming"].mean()
            total = total + weights.naming_weight * parts["naming"]
        if weights.distillation_weight:
            parts["distillation"] = seen["distillation"].mean()
            total = total + weights.distillation_weight * parts["distillation"]
        if weights.view_weight:
            excluded = duplicates_mask(items, items)
            parts["views"] = in_batch_softmax(seen["images"] @ seen["views"].T, self.model.scale, excluded)
            total = total + weights.view_weight * parts["views"]
        if weights.category_weight:
            parts["category"] = F.cross_entropy(seen["category"], self.categories[items])
            total = total + weights.category_weight * parts["category"]
        return {"loss": total, **parts}


def naming_loss(logits: Tensor, words: Tensor) -> Tensor:
    """−log softmax of a query's tokens, their mean: logits (B, V), ids (B, L), 0 is padding → (B,).

    Words as classes, as weakly supervised vision encoders learn them (Joulin et al. 2016, arXiv 1511.02251; Huang et al. 2024,
    arXiv 2411.03313): the whole vocabulary is negative, not just a batch's other queries. A query without tokens has 0.
    """
    there = (words != PADDING).to(logits.dtype)
    named = logits.log_softmax(-1).gather(1, words)
    return -(named * there).sum(1) / there.sum(1).clamp(min=1)


def two_views(batches: Iterable[Batch], random: np.random.Generator) -> Iterator[Batch]:
    """Batches with a second augmented view of each picture beside the first: pixels (B, 2, 3, H, W)."""
    for batch in batches:
        assert batch.pixels is not None
        count = len(batch.pixels) * processes()
        chances = random.random((count, 4))[own_rows(count)]
        first = batch.pixels.numpy()
        again = np.divide(look(np.rint(first * 255).astype(np.uint8), chances), 255, dtype=np.float32)
        yield replace(batch, pixels=torch.from_numpy(np.stack([first, again], axis=1)))


def fit_descriptors(model: RetrievalModel, pixels: np.ndarray) -> None:
    """Tell descriptors, where the model has them, what is usual among a shop's pictures, (N, 3, H, W) uint8."""
    vision = model.vision
    descriptors = vision.descriptors if isinstance(vision, PictureEncoder) else vision
    some = pixels[:: -(-len(pixels) // FITTED_PICTURES)]
    if descriptors is not None and len(some) > 1:
        descriptors.fit(torch.from_numpy(some).to(device()).float() / 255)


def refuse_without_weights(model: RetrievalModel, weights: VisionAdaptation) -> None:
    """
    Raises:
        InputError: settings hold the encoder to weights that it did not come with.
    """
    for name, is_set in (
        ("distillation_weight", weights.distillation_weight > 0),
        ("interpolation", weights.interpolation < 1),
    ):
        if is_set and not (isinstance(model.vision, PictureEncoder) and model.vision.came_with_weights):
            raise InputError(
                f"training.adapt_vision.{name} {getattr(weights, name):g}: holds an encoder to the weights that it came with, and this one "
                "begins with nothing; name one in network.vision.pretrained, or take the line out"
            )


def run(context: StageContext) -> dict[str, float]:
    """Train and publish `model/`, whose vision encoder the later stages lock; variants that do not adapt it leave it as it came."""
    optimisation = context.settings.training.adapt_vision
    model = begin(context)
    adapted, has_pictures = model.variant.adapted, model.variant.fusion is not None
    if adapted:
        refuse_without_weights(model, optimisation)
    data = TrainingData(context, seed=context.settings.training.seed, pictures=has_pictures)
    if has_pictures and model.variant.descriptors != "none" and data.thumbnails and len(data.thumbnails.pixels):
        fit_descriptors(model, data.thumbnails.pixels)
    if not adapted or not data.thumbnails or not len(data.thumbnails.pixels):
        if adapted:
            context.report("no item has a picture: the vision encoder stays as it is")
        context.output("history.json").write_text("[]", encoding="utf-8")
        return publish(context, model)
    vision, came_with = model.vision, dict[str, Tensor]()
    if isinstance(vision, PictureEncoder) and optimisation.interpolation < 1:
        came_with = copy.deepcopy(vision.state_dict())
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
    if came_with and isinstance(vision, PictureEncoder):
        vision.move_towards(came_with, optimisation.interpolation)
    return metrics | publish(context, model)
