"""What each variant consists of and costs: parameters and training FLOPs, as `docs/variants.md` shows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from smar_model.data.encoder_tokens import read_encoder_tokenizer
from smar_model.lake.encoder_store import added_encoders
from smar_model.network.model import SEGMENTS, RetrievalModel
from smar_model.network.variants import VARIANTS, switched_parts
from smar_model.settings import Settings
from smar_model.training.batches import Batch
from smar_model.training.finetune import routed_loss
from smar_model.training.gradient_cache import Embeddings
from smar_model.training.model_files import new_model
from smar_model.training.pair_embeddings import encode_pairs
from smar_model.training.pretrain import three_losses
from smar_model.training.stage_model import lock_vision

PAIRS = 32

PAGE = """# Variants

Written by `smar variants --settings {source}`; the rows are `smar_model/network/variants.py`.

One network with parts switched (`network.variant`). What a row does not switch is the same for all of them: sizes, data,
optimiser and schedule. Parameters count what is saved; *a query* is the part that runs online. FLOPs are those of one training
pair, forward and backward, texts at full length ({query} and {item} tokens), as `torch.utils.flop_counter` counts them in a batch
of {pairs} (a batch's scores grow with its size); pretraining with all its losses. An adapted vision encoder is locked and encodes
a picture once, ahead of training: {picture} MFLOP. Elsewhere it is trained with the pair, and that is in the pair's figure.

What the papers leave open: DPSR has four query heads. SMAR and "naive" concatenation train their vision encoder inside the
network where it begins with nothing: a frozen random one would be a straw man, and an adapted one is Beyond Text's first stage
(`network.vision.adapted: true` gives it to any of them); one that came with weights is locked as it came, unless
`network.vision.trained` says otherwise. So an ablated tower of SMAR has no other direct
supervision before fine-tuning, as adapt-vision would be for -ni. Beyond Text's item-side fusion attends over the item's two
vectors; with the query in it, it can only order what was found.

| variant | what it is | parts | parameters, M | a query, M | pretraining, MFLOP a pair | fine-tuning, MFLOP a pair |
| --- | --- | --- | ---: | ---: | ---: | ---: |
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantCosts:
    parameters: int
    query_parameters: int
    """Of what runs online: query tower, projections of its heads, prediction header."""
    pretraining: float
    """FLOPs of one pair, forward and backward."""
    finetuning: float
    picture: float
    """FLOPs of one picture through the vision encoder, forward; 0 without pictures."""


def measure_variant(settings: Settings, variant: str) -> VariantCosts:
    """Build a variant and count one step of each stage over random tokens and pictures.

    Raises:
        InputError: a pretrained encoder that settings name has not been added, or does not fit.
    """
    torch.manual_seed(settings.training.seed)
    network = settings.network.model_copy(update={"variant": variant})
    model = untrained_model(settings.model_copy(update={"network": network}))
    picture = 0.0
    if model.variant.fusion:
        picture = _flops(lambda: model.picture_patches(_pixels(model, 1)))
    batch = random_batch(model, pairs=PAIRS)
    weights = settings.training.modality_weights
    online = (model.query_tower, model.query_projection, model.further_heads, model.header)
    return VariantCosts(
        parameters=sum(p.numel() for p in model.parameters()),
        query_parameters=sum(p.numel() for part in online for p in part.parameters()),
        pretraining=_step(model, batch, lambda found: three_losses(model, found, weights)) / PAIRS,
        finetuning=_step(model, batch, lambda found: routed_loss(model, found)) / PAIRS,
        picture=picture,
    )


def untrained_model(settings: Settings) -> RetrievalModel:
    """The settings' network with the pretrained encoders that they name, as it begins to train; of a locked encoder nothing learns.

    Raises:
        InputError: a pretrained encoder has not been added, or does not fit.
    """
    tokens, encoders = settings.tokenizer, added_encoders(settings)
    text = encoders.get("text")
    model = new_model(
        settings.network,
        vocabulary=read_encoder_tokenizer(text).tokenizer.get_vocab_size() if text else tokens.vocabulary,
        query_length=tokens.query_length,
        item_length=tokens.item_length,
        pictures=settings.pictures,
        text_encoder=text,
        vision_encoder=encoders.get("vision"),
    )
    if model.variant.fusion and model.vision_locked:
        lock_vision(model)
    return model.train()


def variants_page(settings: Settings, *, source: str) -> str:
    """All variants under the given settings, as Markdown.

    Args:
        source: where the settings come from.
    """
    costs = {name: measure_variant(settings, name) for name in VARIANTS}
    head = PAGE.format(
        source=source,
        query=settings.tokenizer.query_length,
        item=settings.tokenizer.item_length,
        pairs=PAIRS,
        picture=f"{max(c.picture for c in costs.values()) / 1e6:.1f}",
    )
    rows = [
        f"| `{name}` | {VARIANTS[name].summary} | {switched_parts(VARIANTS[name])} | {cost.parameters / 1e6:.2f} | "
        f"{cost.query_parameters / 1e6:.2f} | {cost.pretraining / 1e6:.1f} | {cost.finetuning / 1e6:.1f} |\n"
        for name, cost in costs.items()
    ]
    return head + "".join(rows)


def _step(model: RetrievalModel, batch: Batch, objective: Callable[[Embeddings], dict[str, Tensor]]) -> float:
    model.train().zero_grad()
    return _flops(lambda: objective(encode_pairs(model, batch, pictures=True))["loss"].backward())


def _flops(work: Callable[[], object]) -> float:
    # The plain form of attention: not every fused one is counted.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return float(counter.get_total_flops())


def random_batch(model: RetrievalModel, *, pairs: int) -> Batch:
    """Pairs of distinct queries and items, each with as many random items as the variant has."""
    shape, items = model.shape, pairs * (1 + model.variant.random_negatives)
    batch = Batch(
        queries=torch.randint(1, shape.vocabulary, (pairs, shape.query_length)),
        query_keys=torch.arange(pairs),
        item_keys=torch.arange(items),
        texts=torch.randint(1, shape.vocabulary, (items, shape.item_length)),
        segments=torch.randint(0, len(SEGMENTS), (items, shape.item_length)),
        labels=torch.arange(pairs) % 2,
    )
    if model.variant.fusion:
        frames = (shape.network.frames,) if shape.network.frames > 1 else ()
        batch.has_picture = torch.ones(items, *frames, dtype=torch.bool)
        if model.vision_locked:
            batch.patches = torch.rand(items, *frames, model.vision.patches, model.vision.channels)
        else:
            batch.pixels = _pixels(model, items)
    return batch


def _pixels(model: RetrievalModel, pictures: int) -> Tensor:
    return torch.rand(pictures, 3, model.shape.picture_height, model.shape.picture_width)
