"""Stage finetune: clicks, and the prediction header P(q) (SMAR, section 2.4, "adaptive embedding learning").

A query with P(q) = 1 is trained against the multimodal embedding, one with P(q) = 0 against the text embedding;
the header learns P from the fashion labels.
"""

from __future__ import annotations

import pyarrow.dataset as ds
import torch
import torch.nn.functional as F
from torch import Tensor

from smar_model.lake.stage import StageContext
from smar_model.network.losses import duplicates_mask, in_batch_softmax
from smar_model.network.model import RetrievalModel
from smar_model.settings import Optimisation
from smar_model.training.batches import Batch, TrainingData
from smar_model.training.loop import train
from smar_model.training.pretrain import patch_table
from smar_model.training.stage_model import continue_from, move, publish

UNKNOWN = -1


def routed_loss(model: RetrievalModel, batch: Batch) -> dict[str, Tensor]:
    """Contrast of each query with the embedding that P(q) chooses, plus the header's own loss.

    The label chooses where there is one, else the header. Under soft routing the score is
    Q·S_t + p·Q·(S_m − S_t) with the header's p, and the header also learns from the retrieval loss.
    """
    move(batch)
    assert batch.labels is not None
    queries, logits = model.encode_queries(batch.queries)
    text_states, text_mask, texts = model.encode_texts(batch.texts, batch.segments)
    scores = queries @ texts.T
    excluded = duplicates_mask(batch.query_keys, batch.item_keys)
    parts: dict[str, Tensor] = {}
    total = scores.new_zeros(())
    known = batch.labels != UNKNOWN
    if model.variant.fusion:
        assert batch.patches is not None and batch.has_picture is not None
        image_states, _ = model.encode_images(batch.patches, batch.has_picture)
        multimodal = model.fuse(text_states, text_mask, image_states)
        p = logits.sigmoid()
        if model.shape.network.routing == "hard":
            p = torch.where(known, batch.labels.to(p.dtype), (p.detach() >= 0.5).to(p.dtype))
        scores = scores + p[:, None] * (queries @ multimodal.T - scores)
        if known.any():
            parts["gate"] = F.binary_cross_entropy_with_logits(logits[known], batch.labels[known].to(logits.dtype))
            total = total + parts["gate"]
    parts["retrieval"] = in_batch_softmax(scores, model.scale, excluded)
    return {"loss": total + parts["retrieval"], **parts, "scale": model.scale.detach()}


def read_labels(context: StageContext) -> dict[str, int]:
    """Query → 1 visual, 0 not; without those that are unsure."""
    files = [str(f) for f in context.table("label-fashion", "fashion_labels")]
    frame = ds.dataset(files).to_table(columns=["query", "is_visual"]).to_pandas().dropna()
    return dict(zip(frame["query"], frame["is_visual"].astype(int), strict=True))


def finetune(context: StageContext, model: RetrievalModel, optimisation: Optimisation) -> dict[str, float]:
    """Fine-tune a pretrained model on this run's clicks and publish `model/`."""
    training = context.settings.training
    data = TrainingData(context, seed=training.seed + 1, pictures=model.variant.fusion is not None)
    labels = read_labels(context)
    table = patch_table(context, model, data)
    batches = data.batches(
        optimisation.batch,
        optimisation.clicked_share,
        patch_table=table,
        label_of=lambda query: labels.get(query, UNKNOWN),
    )
    metrics = train(
        model,
        batches,
        lambda batch: routed_loss(model, batch),
        optimisation,
        report=context.report,
        history_file=context.output("history.json"),
    )
    return metrics | publish(context, model)


def run(context: StageContext) -> dict[str, float]:
    return finetune(context, continue_from(context, "pretrain"), context.settings.training.finetune)
