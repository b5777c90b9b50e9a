"""Settings of training: its stages, what hard negatives are mined from, precision and checkpoints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from smar_model.settings.section import Count, Section, Share


class Optimisation(Section):
    steps: Count
    batch: Count = 256
    clicked_share: Share = 0.5
    """Share of clicked pairs in a batch; the others are synthetic, with a fresh query at each visit."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warmup_share: Share = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    chunk: Count | None = None
    """Pairs encoded at a time: a batch of any size in the memory of a chunk (gradient caching). Unset: all at once."""
    false_negative_margin: Annotated[float, Field(ge=0)] | None = None
    """A batch item that scores more than this above the query's own is taken for another match, not for a negative
    (ROAR, arXiv 2606.01504, has 0.1). Unset: all are negatives."""
    patience: Count | None = None
    """Training ends when the loss on held-out pairs (a sixteenth of the queries, which it then learns nothing from) has not
    fallen for so many points of its curve, which has 60. Unset: all steps."""
    random_negatives: Annotated[int, Field(ge=0)] | None = None
    """Random items of the catalogue for each pair, negatives of every query of the batch; unset: as the variant has it."""
    hard_negatives: Annotated[int, Field(ge=0)] = 0
    """Likewise of the items that a release ranks high for a clicked pair's query (`training.mining`); random ones for the other
    pairs. Pretraining and fine-tuning alone."""


class VisionAdaptation(Optimisation):
    """Weights of the losses that `adapt-vision` adds up; one of weight 0 is not computed."""

    text_weight: Annotated[float, Field(ge=0)] = 1.0
    """Contrast of a picture and the query that belongs to it."""
    naming_weight: Annotated[float, Field(ge=0)] = 0.0
    """Words of that query, named from the picture among all words of the vocabulary by a linear head that is thrown away after."""
    view_weight: Annotated[float, Field(ge=0)] = 0.3
    """Contrast of two augmented views of a picture: one more forward pass of the encoder, a third of a step's time. At equal
    time it finds more, and keeps colours that queries and categories alone let go (`docs/vision.md`)."""
    category_weight: Annotated[float, Field(ge=0)] = 0.5
    """Category of the item in the picture, by a linear head that is thrown away after."""
    distillation_weight: Annotated[float, Field(ge=0)] = 0.0
    """How much a pretrained encoder is held to the patch tokens that it gave as it came (arXiv 2606.27708): one more forward pass."""
    interpolation: Annotated[float, Field(gt=0, le=1)] = 1.0
    """α of α·adapted + (1 − α)·as it came, the weights of a pretrained encoder at the end (WiSE-FT, arXiv 2109.01903). 1: adapted."""

    @model_validator(mode="after")
    def _something_to_learn(self) -> VisionAdaptation:
        if not (self.text_weight or self.naming_weight or self.view_weight or self.category_weight):
            raise ValueError("one of text_weight, naming_weight, view_weight and category_weight must be above 0")
        return self


class Mining(Section):
    """What `hard_negatives` are mined from (`smar_model/retrieval/mine_negatives.py`)."""

    release: str = "champion"
    """The champion, or the name of a run of this lake whose model and index are finished. Without one there are none."""
    ranks: tuple[Count, Count] = (101, 500)
    """From where to where in the release's ranking: above stand matches, below it is too easy (EBR, arXiv 2006.11632)."""
    margin: Share = 0.95
    """What scores more than this share of the clicked item's score is probably another match, and left out
    (NV-Retriever, arXiv 2407.15831)."""

    @field_validator("ranks")
    @classmethod
    def _in_order(cls, ranks: tuple[int, int]) -> tuple[int, int]:
        if ranks[0] > ranks[1]:
            raise ValueError("the higher rank comes first")
        return ranks


class Training(Section):
    seed: int = 0
    adapt_vision: VisionAdaptation
    pretrain: Optimisation
    finetune: Optimisation
    reuse_pretraining: Literal["auto", "always", "never"] = "auto"
    """Whether a run takes the pretraining of an earlier day, with its tokenizer and vision encoder, and fine-tunes the champion
    further where that descends from the same. `auto`: one of the last 7 days, made with the same settings and code;
    `always`: likewise, however old."""
    mining: Mining = Mining()
    text_first_share: Share = 0.65
    """Share of pretraining's steps that learn L_t alone. The multimodal embedding starts as the text embedding, so
    that what they learn carries over, at half the time a step; the others learn all three losses."""
    modality_weights: tuple[float, float, float] = (0.3, 0.1, 1.0)
    """α, β, γ of L = αL_t + βL_i + γL_m (SMAR, section 2.3)."""
    modality_weighting: Literal["fixed", "per_department", "uncertainty", "per_pair"] = "fixed"
    """What weighs the three losses (`smar_model/network/modality_weights.py`); all but `fixed` start from α, β, γ."""
    other_modality_weights: tuple[float, float, float] = (1.0, 0.1, 0.3)
    """Under `per_department`: α, β, γ of items outside shop.visual_departments."""
    token_dropout: Share = 0.1
    """Share of an item's tokens hidden at a visit."""
    picture_views: Count = 4
    """Augmented views of each picture that the locked vision encoder encodes once; a visit takes one of them."""
    threads: Count = 2
    """Of each process."""
    step_threads: Count | None = None
    """Of those, how many compute a training step. None: as many as are quickest, which `smar start` finds out once for each network."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: encoders and towers compute in bfloat16 where that is safe (autocast); weights, losses and optimiser stay
    fp32. For GPUs: on a CPU it is slower than fp32."""
    compile: bool = False
    """Whether encoders and towers are compiled (`torch.compile`): minutes at the start for faster steps."""
    gradients: Literal["fp32", "bf16"] = "fp32"
    """How gradients travel between processes. `bf16`: half the bytes, each rounded to 8 bits; for networks slower than the training."""
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 10
    """Time between checkpoints, from which a training that was stopped goes on."""
    silence_minutes: Annotated[float, Field(ge=2)] = 30
    """How long a process waits for the others before it takes one of them for lost, where the network does not say so."""
