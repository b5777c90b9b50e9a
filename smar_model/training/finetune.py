"""Stage finetune: clicks, and the prediction header P(q) (SMAR, section 2.4, "adaptive embedding learning").

A query with P(q) = 1 is trained against the multimodal embedding, one with P(q) = 0 against the text embedding;
the header learns P from the fashion labels, and is calibrated by a part of them that it has not learned from.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.dataset as ds
import torch
import torch.nn.functional as F
from torch import Tensor

from smar_model.lake.digests import digest_file
from smar_model.lake.release_copies import released_folder
from smar_model.lake.stage import StageContext
from smar_model.network.losses import duplicates_mask, in_batch_softmax
from smar_model.network.model import RetrievalModel
from smar_model.settings import Optimisation
from smar_model.training.batches import UNKNOWN, TrainingData
from smar_model.training.calibration import calibrate, split_labels
from smar_model.training.encode_pictures import encoder_digest
from smar_model.training.gradient_cache import Embeddings
from smar_model.training.loop import train
from smar_model.training.model_files import load_model
from smar_model.training.pair_embeddings import Cut, all_items, contrast, encode_pairs
from smar_model.training.pretrain import pair_batches
from smar_model.training.stage_model import continue_from, publish


def routed_loss(model: RetrievalModel, embeddings: Embeddings, *, margin: float | None = None) -> dict[str, Tensor]:
    """Contrast of each query with the embedding that P(q) chooses, plus the header's own loss.

    The score is Q·S_t + p(q)·c(item)·Q·(S_m − S_t). Under hard routing p is the label where there is one, else what the
    header says, and learns from labels alone; under soft routing p is the header's probability and learns from the
    retrieval loss too. Without routing p = 1. A reranker learns the same contrast by its own scores.

    Args:
        margin: of likely false negatives, see `in_batch_softmax`.
    """
    queries, labels, header = embeddings["queries"], embeddings["labels"], embeddings["header"]
    variant = model.variant
    parts: dict[str, Tensor] = {}
    total = queries.new_zeros(())
    known = labels != UNKNOWN
    p = header.sigmoid()
    if variant.routing == "hard":
        p = torch.where(known, labels.to(p.dtype), (p.detach() >= 0.5).to(p.dtype))
    elif variant.routing == "none":
        p = torch.ones_like(p)
    if variant.routing != "none" and known.any():
        parts["gate"] = F.binary_cross_entropy_with_logits(header[known], labels[known].to(header.dtype))
        total = total + parts["gate"]

    def score(cut: Cut, place: str) -> Tensor:
        if variant.fusion:
            by_both = model.scores(cut(queries), cut(all_items(embeddings, place + "multimodal")))
            if variant.routing == "none" and not variant.item_confidence:
                return by_both
        by_text = model.scores(cut(queries), cut(all_items(embeddings, place + "texts")))
        if not variant.fusion:
            return by_text
        share = p[:, None]
        if variant.item_confidence:
            share = share * embeddings[place + "confidence"].flatten()
        return by_text + share * (by_both - by_text)

    parts["retrieval"] = contrast(model, embeddings, score, margin=margin)
    total = total + parts["retrieval"]
    if variant.reranker:
        excluded = duplicates_mask(embeddings["query_keys"], embeddings["item_keys"])
        scores = model.reranker(queries, embeddings["texts"], embeddings["images"])
        parts["rerank"] = in_batch_softmax(scores, model.scale, excluded, margin=margin)
        total = total + parts["rerank"]
    return {"loss": total, **parts, "scale": model.scale.detach()}


def read_labels(context: StageContext) -> pd.DataFrame:
    """Columns label (1 visual, 0 not) and clicks, by query; without the queries that are unsure."""
    files = [str(f) for f in context.table("label-fashion", "fashion_labels")]
    frame = ds.dataset(files).to_table(columns=["query", "is_visual", "clicks"]).to_pandas().dropna().set_index("query")
    return pd.DataFrame({"label": frame["is_visual"].astype(int), "clicks": frame["clicks"]})


def finetune(context: StageContext, model: RetrievalModel, optimisation: Optimisation) -> dict[str, float]:
    """Fine-tune a pretrained model on this run's clicks and publish `model/`."""
    training = context.settings.training
    data = TrainingData(context, seed=training.seed + 1, pictures=model.variant.fusion is not None)
    learned, held_out = split_labels(read_labels(context))
    metrics = train(
        model,
        data,
        pair_batches(model, data, optimisation, learned),
        encode=lambda step, batch: encode_pairs(model, batch, pictures=True),
        objective=lambda step, embeddings: routed_loss(model, embeddings, margin=optimisation.false_negative_margin),
        optimisation=optimisation,
        context=context,
    )
    if model.variant.routing != "none":
        metrics |= calibrate(model, data.tokenizer, held_out)
    return metrics | publish(context, model)


def starting_point(context: StageContext) -> tuple[Path, str]:
    """Folder of the model that fine-tuning goes on from, and which it is: the release that the run may warm-start from, where
    its weights fit; else the pretrained one.

    Raises:
        InputError: the release's model is gone or damaged.
    """
    pretrained, release = context.input("pretrain").folder / "model", context.run.warm_start
    if release is None:
        return pretrained, "pretraining"
    folder, name = released_folder(context.run, release, "model"), release.name
    if different := misfit(folder, pretrained):
        return pretrained, f"pretraining, as {name} has another {different}"
    return folder, f"{name}, trained up to {release.cutoff[:10]}"


def misfit(release: Path, pretrained: Path) -> str | None:
    """What keeps a release's weights from standing in the place of the pretrained ones; None: they fit."""
    if digest_file(release / "tokenizer.json") != digest_file(pretrained / "tokenizer.json"):
        return "tokenizer"
    theirs, own = load_model(release), load_model(pretrained)
    if theirs.shape != own.shape:
        return "architecture"
    # Patch tokens are of the encoder that pretraining locked.
    return "vision encoder" if own.vision_locked and encoder_digest(theirs) != encoder_digest(own) else None


def run(context: StageContext) -> dict[str, float | str]:
    folder, name = starting_point(context)
    context.report(f"goes on from {name}")
    return {
        **finetune(context, continue_from(context, folder), context.settings.training.finetune),
        "started_from": name,
    }
