"""Stage pretrain: SMAR's three losses, L = αL_t + βL_i + γL_m, on synthetic and clicked pairs (SMAR, section 2.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from smar_model.data.catalogue import read_catalogue
from smar_model.errors import InputError
from smar_model.lake.stage import StageContext
from smar_model.network.modality_weights import ModalityWeights
from smar_model.network.model import RetrievalModel
from smar_model.network.variants import switched_parts
from smar_model.settings import Optimisation
from smar_model.training.batches import Batch, TrainingData
from smar_model.training.device import device
from smar_model.training.gradient_cache import Embeddings
from smar_model.training.loop import train
from smar_model.training.model_files import load_model
from smar_model.training.pair_embeddings import Cut, all_items, contrast, encode_pairs
from smar_model.training.stage_model import begin, lock_vision, publish

TEXT_ALONE = (1.0, 0.0, 0.0)
PARTS = {"text": "texts", "image": "images", "multimodal": "multimodal"}
"""The three losses, and the embeddings that each is of."""


def three_losses(
    model: RetrievalModel,
    embeddings: Embeddings,
    weights: tuple[float, float, float] | ModalityWeights,
    *,
    margin: float | None = None,
) -> dict[str, Tensor]:
    """The pretraining loss and its parts; a part whose weight is 0, or that the variant leaves out, is not computed.

    Args:
        weights: α, β, γ, or what finds them for each pair; then their means are among the parts.
        margin: of likely false negatives, see `in_batch_softmax`.
    """
    queries = embeddings["queries"]
    fixed, found = (None, weights(embeddings)) if isinstance(weights, ModalityWeights) else (weights, None)
    parts: dict[str, Tensor] = {}
    total = queries.new_zeros(())
    for number, (part, name) in enumerate(PARTS.items()):
        # Items without a picture share one state: as positives, or as negatives, they would teach nothing.
        rows = embeddings["has_picture"] if name == "images" and name in embeddings else None
        if name not in embeddings or not model.variant.losses[number] or (rows is not None and not rows.any()):
            continue

        def score(cut: Cut, place: str, name: str = name) -> Tensor:
            scores = model.scores(cut(queries), cut(all_items(embeddings, place + name)))
            if name == "images" and place:
                scores = scores.masked_fill(~embeddings[f"{place}has_picture"].flatten(), -torch.inf)
            return scores

        if found:
            weight, cost = (table[:, number] if rows is None else table[rows, number] for table in found)
            each = contrast(model, embeddings, score, rows=rows, margin=margin, each=True)
            parts[part], parts[f"weight_{part}"] = each.mean(), weight.detach().mean()
            total = total + (weight * each + cost).mean()
        elif fixed and fixed[number]:
            parts[part] = contrast(model, embeddings, score, rows=rows, margin=margin)
            total = total + fixed[number] * parts[part]
    if not parts:  # no item of the batch has a picture, and only pictures are learned
        total = queries.sum() * 0
    return {"loss": total, **parts, "scale": model.scale.detach()}


def pair_batches(
    model: RetrievalModel, data: TrainingData, optimisation: Optimisation, labels: Mapping[str, int] | None = None
) -> Iterator[Batch]:
    """Batches with the pictures in the form that the model trains on, and the further items that settings ask for."""
    random_negatives, patch_table = optimisation.random_negatives, None
    if model.vision_locked:
        lock_vision(model)
        patch_table = data.patch_table(model)
    return data.batches(
        optimisation.batch,
        optimisation.clicked_share,
        patch_table=patch_table,
        pixels=model.variant.fusion is not None and not model.vision_locked,
        random_negatives=model.variant.random_negatives if random_negatives is None else random_negatives,
        hard_negatives=optimisation.hard_negatives,
        labels=labels,
    )


def modality_weights(context: StageContext, model: RetrievalModel) -> ModalityWeights | None:
    """What weighs the losses where α, β, γ are not the same numbers for every pair.

    Raises:
        InputError: every loss that the variant learns has weight 0.
    """
    training, variant = context.settings.training, model.variant
    if not any(weight and learned for weight, learned in zip(training.modality_weights, variant.losses, strict=True)):
        raise InputError(
            f"training.modality_weights {training.modality_weights}: each loss that network.variant "
            f"{context.settings.network.variant} learns ({switched_parts(variant)}) has weight 0"
        )
    weighting, visual = training.modality_weighting, None
    if weighting == "fixed" or not variant.fusion:
        return None
    if weighting == "per_department":
        catalogue = read_catalogue(context.table("prepare-items", "catalogue"), before=context.run.cutoff)
        visual = torch.tensor(catalogue["department"].isin(context.settings.shop.visual_departments).to_numpy())
    return ModalityWeights(
        weighting,
        training.modality_weights,
        dimension=model.shape.network.dimension,
        other_weights=training.other_modality_weights if weighting == "per_department" else None,
        visual=visual,
    ).to(device())


def run(context: StageContext) -> dict[str, float | str]:
    """Train all towers, on patch tokens where the vision encoder is locked, else on pictures; publish `model/`."""
    training, optimisation = context.settings.training, context.settings.training.pretrain
    model = begin(context)
    if model.variant.fusion:
        adapted = load_model(context.input("adapt-vision").folder / "model")
        model.vision.load_state_dict(adapted.vision.state_dict())
        if model.variant.adapted:
            # The text side starts anew: adapting the vision encoder has bent it towards pictures.
            model.image_tower.load_state_dict(adapted.image_tower.state_dict())
    data = TrainingData(context, seed=training.seed, pictures=model.variant.fusion is not None)
    text_first = round(optimisation.steps * training.text_first_share) if model.variant.text_loss else 0
    weighting = modality_weights(context, model)

    def weights(step: int) -> tuple[float, float, float] | ModalityWeights:
        return TEXT_ALONE if step < text_first else weighting or training.modality_weights

    metrics = train(
        nn.ModuleList([model, weighting]) if weighting else model,
        data,
        pair_batches(model, data, optimisation),
        encode=lambda step, batch: encode_pairs(model, batch, pictures=weights(step) != TEXT_ALONE),
        objective=lambda step, embeddings: three_losses(
            model, embeddings, weights(step), margin=optimisation.false_negative_margin
        ),
        optimisation=optimisation,
        context=context,
    )
    return {**metrics, **publish(context, model), "trained_up_to": f"{context.run.cutoff:%Y-%m-%d}"}
