"""Stage pretrain: SMAR's three losses, L = αL_t + βL_i + γL_m, on synthetic and clicked pairs (SMAR, section 2.3)."""

from __future__ import annotations

import itertools

import numpy as np
from torch import Tensor

from smar_model.lake.stage import StageContext
from smar_model.network.losses import duplicates_mask, in_batch_softmax
from smar_model.network.model import RetrievalModel, load_model
from smar_model.training.batches import Batch, PatchTable, TrainingData
from smar_model.training.loop import train
from smar_model.training.stage_model import begin, lock_vision, move, publish

TEXT_ALONE = (1.0, 0.0, 0.0)


def three_losses(model: RetrievalModel, batch: Batch, weights: tuple[float, float, float]) -> dict[str, Tensor]:
    """The pretraining loss and its parts; a part whose weight is 0, or that the variant leaves out, is not computed."""
    move(batch)
    alpha, beta, gamma = weights
    queries, _ = model.encode_queries(batch.queries)
    excluded = duplicates_mask(batch.query_keys, batch.item_keys)

    def contrast(items: Tensor) -> Tensor:
        return in_batch_softmax(queries @ items.T, model.scale, excluded)

    text_states, text_mask, texts = model.encode_texts(batch.texts, batch.segments)
    parts: dict[str, Tensor] = {}
    total = queries.new_zeros(())
    if alpha and model.variant.text_loss:
        parts["text"] = contrast(texts)
        total = total + alpha * parts["text"]
    if model.variant.fusion and (beta or gamma):
        assert batch.patches is not None and batch.has_picture is not None
        image_states, images = model.encode_images(batch.patches, batch.has_picture)
        if beta and model.variant.image_loss:
            # Items without a picture share one state: as positives they would teach nothing.
            has = batch.has_picture
            scores = (queries @ images.T)[has][:, has]
            parts["image"] = in_batch_softmax(scores, model.scale, excluded[has][:, has])
            total = total + beta * parts["image"]
        if gamma:
            parts["multimodal"] = contrast(model.fuse(text_states, text_mask, image_states))
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
    steps = itertools.count()

    def loss(batch: Batch) -> dict[str, Tensor]:
        return three_losses(model, batch, TEXT_ALONE if next(steps) < text_first else training.modality_weights)

    metrics = train(
        model,
        data.batches(training.pretrain.batch, training.pretrain.clicked_share, patch_table=table),
        loss,
        training.pretrain,
        report=context.report,
        history_file=context.output("history.json"),
    )
    return metrics | publish(context, model)
