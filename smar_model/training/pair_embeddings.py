"""A batch of pairs as embeddings, and the contrast that every loss of the towers is made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from smar_model.network.losses import batch_hinge, duplicates_mask, in_batch_softmax, over_dimensions
from smar_model.network.model import RetrievalModel
from smar_model.training.batches import Batch
from smar_model.training.gradient_cache import Embeddings
from smar_model.training.stage_model import move

HINGE_MARGIN = 0.1
"""Of DPSR's loss: JD's margin (EMNLP 2023 industry track, paper 72)."""
Cut = Callable[[Tensor], Tensor]
Score = Callable[[Cut, str], Tensor]
"""Scores of the batch's queries with its items, given what cuts embeddings to a prefix and the beginning of the items'
names in `Embeddings`: "" for the pairs' own (B, B), "further_" for the others (B, B·R)."""


def encode_pairs(model: RetrievalModel, batch: Batch, *, pictures: bool) -> Embeddings:
    """Embed the batch's queries and items.

    Args:
        pictures: whether to look at them; False leaves `images`, `multimodal`, `confidence` and `has_picture` out.

    Returns:
        queries: (B, D) or, with several heads, (B, K, D). texts, images, multimodal: unit vectors (B, D). header: logits of
        P(q) (B,). confidence: c(item) (B,), where the variant has it. labels: as in the batch, where it has them.
        query_keys, item_keys, has_picture: (B,). Where the batch has R further items a pair, all that belongs to items
        comes again as further_…: (B, R, D) or (B, R).
    """
    move(batch)
    queries, header = model.encode_queries(batch.queries)
    embeddings = {"queries": queries, "header": header, "query_keys": batch.query_keys}
    if batch.labels is not None:
        embeddings["labels"] = batch.labels
    each = len(batch.texts) // len(batch.queries)

    def add(name: str, items: Tensor) -> None:
        if each == 1:
            embeddings[name] = items
        else:
            by_pair = items.unflatten(0, (-1, each))
            embeddings[name], embeddings[f"further_{name}"] = by_pair[:, 0], by_pair[:, 1:]

    text_states, text_mask, texts = model.encode_texts(batch.texts, batch.segments)
    add("texts", texts)
    add("item_keys", batch.item_keys)
    if pictures and model.variant.fusion:
        assert batch.has_picture is not None
        patches = batch.patches
        if patches is None:
            assert batch.pixels is not None
            patches = model.picture_patches(batch.pixels)
        image_states, images = model.encode_images(patches, batch.has_picture)
        both = (text_states, text_mask, image_states, model.image_mask(batch.has_picture))
        add("images", images)
        add("multimodal", model.fuse(*both))
        add("has_picture", batch.has_picture if batch.has_picture.ndim == 1 else batch.has_picture.any(1))
        if model.variant.item_confidence:
            add("confidence", model.confidence(*both))
    return embeddings


def contrast(
    model: RetrievalModel,
    embeddings: Embeddings,
    score: Score,
    *,
    rows: Tensor | None = None,
    margin: float | None = None,
    each: bool = False,
) -> Tensor:
    """The variant's contrastive loss of a batch, over every prefix that `network.matryoshka` names.

    Args:
        rows: pairs that take part, (B,) bool; None: all.
        margin: of likely false negatives, see `in_batch_softmax`.
        each: the loss of each pair that takes part; in softmax form only.
    """
    item_keys = embeddings["item_keys"]
    excluded = duplicates_mask(embeddings["query_keys"], item_keys)

    def loss(cut: Cut) -> Tensor:
        scores, skip, further = score(cut, ""), excluded, None
        if "further_item_keys" in embeddings:
            own = embeddings["further_item_keys"].flatten() == item_keys[:, None]
            further = score(cut, "further_").masked_fill(own, -torch.inf)
        if rows is not None:
            scores, skip = scores[rows][:, rows], skip[rows][:, rows]
            further = None if further is None else further[rows]
        if model.variant.loss == "hinge":
            return batch_hinge(scores, HINGE_MARGIN, skip, further=further)
        return in_batch_softmax(scores, model.scale, skip, further=further, margin=margin, each=each)

    return over_dimensions(model.shape.network.matryoshka, loss)


def all_items(embeddings: Embeddings, name: str) -> Tensor:
    """Embeddings of items in one list: (N, D), of further ones (B·R, D)."""
    return embeddings[name].flatten(0, -2)
