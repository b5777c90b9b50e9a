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
from smar_model.training.batches import TrainingData
from smar_model.training.gradient_cache import Embeddings
from smar_model.training.loop import train
from smar_model.training.pair_embeddings import encode_pairs
from smar_model.training.pretrain import patch_table
from smar_model.training.stage_model import continue_from, publish

UNKNOWN = -1


def routed_loss(model: RetrievalModel, embeddings: Embeddings, *, margin: float | None = None) -> dict[str, Tensor]:
    """Contrast of each query with the embedding that P(q) chooses, plus the header's own loss.

    The label chooses where there is one, else the header. Under soft routing the score is
    Q·S_t + p·Q·(S_m − S_t) with the header's p, and the header also learns from the retrieval loss.

    Args:
        margin: of likely false negatives, see `in_batch_softmax`.
    """
    queries, labels, header = embeddings["queries"], embeddings["labels"], embeddings["header"]
    scores = queries @ embeddings["texts"].T
    parts: dict[str, Tensor] = {}
    total = scores.new_zeros(())
    known = labels != UNKNOWN
    if "multimodal" in embeddings:
        p = header.sigmoid()
        if model.shape.network.routing == "hard":
            p = torch.where(known, labels.to(p.dtype), (p.detach() >= 0.5).to(p.dtype))
        scores = scores + p[:, None] * (queries @ embeddings["multimodal"].T - scores)
        if known.any():
            parts["gate"] = F.binary_cross_entropy_with_logits(header[known], labels[known].to(header.dtype))
            total = total + parts["gate"]
    excluded = duplicates_mask(embeddings["query_keys"], embeddings["item_keys"])
    parts["retrieval"] = in_batch_softmax(scores, model.scale, excluded, margin=margin)
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
        data,
        batches,
        encode=lambda step, batch: encode_pairs(model, batch, pictures=True),
        objective=lambda step, embeddings: routed_loss(model, embeddings, margin=optimisation.false_negative_margin),
        optimisation=optimisation,
        context=context,
    )
    return metrics | publish(context, model)


def run(context: StageContext) -> dict[str, float]:
    return finetune(context, continue_from(context, "pretrain"), context.settings.training.finetune)
