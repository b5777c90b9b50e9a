"""Building, loading and publishing the model of a training stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from smar_model.data.text_tokens import NUMBERS_FILE, load_tokenizer
from smar_model.data.token_tables import COUNTS_FILE
from smar_model.lake.stage import StageContext
from smar_model.network.model import RetrievalModel
from smar_model.settings import Network
from smar_model.training.batches import Batch
from smar_model.training.device import compile_parts, device, seed_everything
from smar_model.training.model_files import load_model, new_model, save_model


def begin(context: StageContext, *, network: Network | None = None) -> RetrievalModel:
    """A new model for this stage, seeded by `training.seed`, which begins with the pretrained encoders that the stage reads."""
    settings = context.settings
    seed_everything(settings.training.seed, _threads(context))
    tokenizer_file = context.input("train-tokenizer").file("tokenizer.json")
    model = new_model(
        network or settings.network,
        vocabulary=load_tokenizer(tokenizer_file).get_vocab_size(),
        query_length=settings.tokenizer.query_length,
        item_length=settings.tokenizer.item_length,
        pictures=settings.pictures,
        **{f"{kind}_encoder": context.encoder(kind) for kind in context.stage.encoders},
    )
    return _ready(context, model)


def continue_from(context: StageContext, folder: Path) -> RetrievalModel:
    """The model that an earlier stage, or an earlier run, published."""
    settings = context.settings
    seed_everything(settings.training.seed + 1, _threads(context))
    return _ready(context, load_model(folder))


def _threads(context: StageContext) -> int:
    """As many as the stage reads in its settings: adapting an encoder, whose steps are long, takes all there are."""
    training = context.settings.training
    reads = "training.step_threads" in context.stage.settings
    return training.step_threads or training.threads if reads else training.threads


def _ready(context: StageContext, model: RetrievalModel) -> RetrievalModel:
    tokens = model.query_tower.tokens
    if model.begins_with_pretrained_tokens and tokens.weight.requires_grad:
        counts = np.load(context.input("train-tokenizer").file(f"tokens/{COUNTS_FILE}"))
        tokens.train_difference(torch.from_numpy(np.flatnonzero(counts)))
    if context.settings.training.compile:
        compile_parts(model)
    return model.to(device())


def publish(context: StageContext, model: RetrievalModel) -> dict[str, float]:
    """Write the model into the attempt's folder; returns its size."""
    made = context.input("train-tokenizer")
    model.query_tower.tokens.fold()
    numbers_file = made.file(NUMBERS_FILE) if NUMBERS_FILE in made.manifest["files"] else None
    save_model(model.cpu().eval(), context.output("model"), made.file("tokenizer.json"), numbers_file)
    return {"parameters": float(sum(p.numel() for p in model.parameters()))}


def lock_vision(model: RetrievalModel) -> None:
    """No gradient into the vision encoder, and its batch statistics stay as they are."""
    model.vision.requires_grad_(False).eval()


def move(batch: Batch) -> None:
    """Move a batch's tensors to the device that trains."""
    target = device()
    if target.type != "cpu":
        batch.change(lambda tensor: tensor.to(target, non_blocking=True))
