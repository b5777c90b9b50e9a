"""Stage train-text-only: the baseline that reads no picture, pretrained and fine-tuned on the same number of pairs."""

from __future__ import annotations

from smar_model.lake.stage import StageContext
from smar_model.network.variants import find_variant
from smar_model.training.batches import TrainingData
from smar_model.training.finetune import finetune
from smar_model.training.loop import train
from smar_model.training.pair_embeddings import encode_pairs
from smar_model.training.pretrain import TEXT_ALONE, pair_batches, three_losses
from smar_model.training.stage_model import begin


def run(context: StageContext) -> dict[str, float]:
    """Both stages of the text-only variant in one, with the text towers of the run's own variant; publishes `model/`."""
    training, network = context.settings.training, context.settings.network
    text = network.text.model_copy(update={"tower": find_variant(network).text_tower})
    model = begin(context, network=network.model_copy(update={"variant": "text_only", "text": text}))
    pretraining, finetuning = training.pretrain, training.finetune
    data = TrainingData(context, seed=training.seed, pictures=False)
    pretrained = train(
        model,
        data,
        pair_batches(model, data, pretraining),
        encode=lambda step, batch: encode_pairs(model, batch, pictures=False),
        objective=lambda step, embeddings: three_losses(
            model, embeddings, TEXT_ALONE, margin=pretraining.false_negative_margin
        ),
        optimisation=pretraining,
        context=context,
        phase="pretrain_history",
    )
    tuned = finetune(context, model, finetuning)
    return tuned | {name: pretrained[name] + tuned[name] for name in ("pairs", "training_seconds", "looking_seconds")}
