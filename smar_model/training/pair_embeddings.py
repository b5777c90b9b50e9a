"""A batch of pairs as embeddings: what every loss of the towers is made of."""

from __future__ import annotations

from smar_model.network.model import RetrievalModel
from smar_model.training.batches import Batch
from smar_model.training.gradient_cache import Embeddings
from smar_model.training.stage_model import move


def encode_pairs(model: RetrievalModel, batch: Batch, *, pictures: bool) -> Embeddings:
    """Embed the batch's queries and items.

    Args:
        pictures: whether to look at them; False leaves `images`, `multimodal` and `has_picture` out.

    Returns:
        queries, texts, images, multimodal: unit vectors (B, D). header: logits of P(q) (B,). labels: as in the batch,
        where it has them. query_keys, item_keys, has_picture: (B,).
    """
    move(batch)
    queries, header = model.encode_queries(batch.queries)
    text_states, text_mask, texts = model.encode_texts(batch.texts, batch.segments)
    embeddings = {
        "queries": queries,
        "header": header,
        "texts": texts,
        "query_keys": batch.query_keys,
        "item_keys": batch.item_keys,
    }
    if batch.labels is not None:
        embeddings["labels"] = batch.labels
    if pictures and model.variant.fusion:
        assert batch.patches is not None and batch.has_picture is not None
        image_states, images = model.encode_images(batch.patches, batch.has_picture)
        embeddings["images"] = images
        embeddings["multimodal"] = model.fuse(text_states, text_mask, image_states)
        embeddings["has_picture"] = batch.has_picture
    return embeddings
