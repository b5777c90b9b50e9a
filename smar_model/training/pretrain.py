"""Stage pretrain: SMAR's three losses, L = αL_t + βL_i + γL_m, on synthetic and clicked pairs (SMAR, section 2.3)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from smar_model.lake.stage import StageContext
from smar_model.network.losses import duplicates_mask, in_batch_softmax
from smar_model.network.model import RetrievalModel, load_model
from smar_model.training.batches import PatchTable, TrainingData
from smar_model.training.gradient_cache import Embeddings
from smar_model.training.loop import train
from smar_model.training.pair_embeddings import encode_pairs
from smar_model.training.stage_model import begin, lock_vision, publish

TEXT_ALONE = (1.0, 0.0, 0.0)


def three_losses(
    model: RetrievalModel,
    embeddings: Embeddings,
    weights: tuple[float, float, float],
    *,
    margin: float | None = None,
) -> dict[str, Tensor]:
    """The pretraining loss and its parts; a part whose weight is 0, or that the variant leaves out, is not computed.

    Args:
        margin: of likely false negatives, see `in_batch_softmax`.
    """
    alpha, beta, gamma = weights
    queries = embeddings["queries"]
    excluded = duplicates_mask(embeddings["query_keys"], embeddings["item_keys"])

    def contrast(items: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        scores = (queries @ items.T)[rows][:, rows]
        return in_batch_softmax(scores, model.scale, excluded[rows][:, rows], margin=margin)

    parts: dict[str, Tensor] = {}
    total = queries.new_zeros(())
    if alpha and model.variant.text_loss:
        parts["text"] = contrast(embeddings["texts"])
        total = total + alpha * parts["text"]
    if beta and model.variant.image_loss and "images" in embeddings:
        # Items without a picture share one state: as positives they would teach nothing.
        parts["image"] = contrast(embeddings["images"], embeddings["has_picture"])
        total = total + beta * parts["image"]
    if gamma and "multimodal" in embeddings:
        parts["multimodal"] = contrast(embeddings["multimodal"])
        total = total + gamma * parts["multimodal"]
    return {"loss": total, **parts, "scale": model.scale.detach()}


def patch_table(context: StageContext, model: RetrievalModel, data: TrainingData) -> PatchTable | None:
    """Encode every picture with the locked encoder; None for a variant without pictures."""
    if not model.variant.fusion or not data.thumbnails:
        return None
    lock_vision(model)
    views = context.settings.training.picture_views
    context.report(f"encoding {len(data.thumbnails.pixels):,} pictures in {views} views")
    random = np.random.default_rng(context.settings.training.seed)
    return PatchTable(model, data.thumbnails, views, random)


def run(context: StageContext) -> dict[str, float]:
    """Train all towers on patch tokens of the adapted, locked vision encoder; publish `model/`."""
    training = context.settings.training
    model = begin(context)
    if model.variant.fusion:
        # The text side starts anew: adapting the vision encoder has bent it towards pictures.
        adapted = load_model(context.input("adapt-vision").folder / "model")
        model.vision.load_state_dict(adapted.vision.state_dict())
        model.image_tower.load_state_dict(adapted.image_tower.state_dict())
    data = TrainingData(context, seed=training.seed, pictures=model.variant.fusion is not None)
    table = patch_table(context, model, data)
    text_first = round(training.pretrain.steps * training.text_first_share) if model.variant.text_loss else 0

    def weights(step: int) -> tuple[float, float, float]:
        return TEXT_ALONE if step < text_first else training.modality_weights

    metrics = train(
        model,
        data,
        data.batches(training.pretrain.batch, training.pretrain.clicked_share, patch_table=table),
        encode=lambda step, batch: encode_pairs(model, batch, pictures=weights(step) != TEXT_ALONE),
        objective=lambda step, embeddings: three_losses(
            model, embeddings, weights(step), margin=training.pretrain.false_negative_margin
        ),
        optimisation=training.pretrain,
        context=context,
    )
    return metrics | publish(context, model)
