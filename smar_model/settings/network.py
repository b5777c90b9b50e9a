"""Settings of the model: encoders, towers, fusion, routing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_serializer, field_validator, model_validator

from smar_model.settings.section import Count, Section, Share

Fusion = Literal["cross_attention", "concat", "linear", "weighted_sum", "mlp", "beyond_text", "mixture", "image"]
TextTower = Literal["transformer", "words"]
ImageTower = Literal["transformer", "placed"]
Routing = Literal["hard", "soft", "none"]
Trained = Literal["locked", "partly", "tuned"]
Descriptors = Literal["none", "alone", "beside"]
EncoderName = Annotated[str, Field(min_length=1)]


class Tokenizer(Section):
    vocabulary: Count = 4_096
    query_length: Count = 12
    item_length: Count = 32
    """Lengths in tokens; longer texts are cut."""


class TextEncoder(Section):
    pretrained: EncoderName | None = None
    """Name of an encoder that `smar encoder add` has added. Text towers that are transformers begin as its first layers, those of `words`
    with its vectors of words (`docs/training.md`); the tokenizer is the encoder's own. Unset: trained from scratch."""
    trained: Trained = "tuned"
    """How much of a pretrained encoder's layers is trained; `partly`: its last blocks."""
    last_blocks: Count = 2
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Peak of the pretrained layers' learning rate, at their top; never above that of the stage, which all new parts have."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Factor of the learning rate from each pretrained layer to the one below it; embeddings are the lowest."""
    tower: TextTower | None = None
    """`transformer` is SMAR's; `words`: each word's own vector, no layer between words; unset: as the variant has it."""
    query_layers: Count | None = None
    """Of the transformer. SMAR has 4, as have towers that begin from a pretrained encoder where this is unset; else 2, which train on
    two cores."""
    item_layers: Count = 1
    heads: Count = 4
    """Of transformers that are trained from scratch, and of fusion; a pretrained encoder has its own."""
    width: Count = 128

    def layers(self, side: Literal["query", "item"]) -> int:
        """Layers of a transformer tower."""
        return self.item_layers if side == "item" else self.query_layers or (4 if self.pretrained else 2)


class VisionEncoder(Section):
    name: str = "test_resnet"
    """A `timm` architecture by name, which begins with nothing; `pretrained` comes before it."""
    pretrained: EncoderName | None = None
    """Name of an encoder that `smar encoder add` has added; unset: the architecture above, which begins with nothing."""
    levels: Count | None = None
    """How many of the encoder's levels are patch tokens: its last ones, as strides of 8, 16 and 32 pixels; of a ViT so many blocks,
    evenly spaced, the last among them. Several are brought to one grid, each normalised. Unset: 3 of a pretrained encoder, else its output."""
    adapted: bool | None = None
    """Whether adapt-vision prepares the encoder before fusion; unset: as the variant has it."""
    descriptors: Descriptors | None = None
    """Fixed histograms of colours and edges: `none`; `alone`, in the place of this encoder; `beside` it, on the same places. Unset: as
    the variant has it, where `alone` becomes `beside` when `pretrained` names an encoder."""
    trained: Trained = "locked"
    """How much of an encoder that was adapted, or came with weights, is trained inside the network: nothing, so that each picture
    is encoded once; its last blocks (adapt-vision then trains no others either); all."""
    last_blocks: Count = 2
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """Peak of a pretrained encoder's learning rate; never above that of the stage, which all new parts have."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed on to `timm.create_model`. Unset: none, but of the architecture above `output_stride: 16`, which gives 12 patches a thumbnail."""

    @model_validator(mode="before")
    @classmethod
    def _options_of_the_default(cls, values: Any) -> Any:
        """Only its own: an encoder that came with weights has learned at the strides that it came with."""
        if isinstance(values, dict) and not values.get("pretrained") and not values.keys() & {"name", "options"}:
            return values | {"options": {"output_stride": 16}}
        return values

    @model_validator(mode="before")
    @classmethod
    def _switch_of_older_versions(cls, values: Any) -> Any:
        """`pretrained` was true or false once. False names no encoder, and true one that none can have: models of older versions are
        read, and `smar start` says what to write in its place."""
        if isinstance(values, dict) and isinstance(switched := values.get("pretrained"), bool):
            return values | {"pretrained": "true" if switched else None}
        return values

    @field_validator("descriptors", mode="before")
    @classmethod
    def _alone_or_none(cls, value: object) -> object:
        """Before an encoder could have them beside it, true and false said whether they took its place."""
        return {True: "alone", False: "none"}[value] if isinstance(value, bool) else value

    @field_serializer("descriptors", when_used="json")
    def _as_older_versions_wrote_it(self, value: Descriptors | None) -> bool | str | None:
        """So that rows measured before are still those that a comparison asks for."""
        return {"alone": True, "none": False}.get(value, value) if value else None


class Network(Section):
    variant: str = "default"
    """A row of `smar_model/network/variants.py`."""
    fusion: Fusion | None = None
    """How text and picture become one embedding; unset: as the variant has it. So are routing and item_confidence."""
    dimension: Count = 128
    matryoshka: tuple[Count, ...] = ()
    """Lengths of the embeddings' prefixes that can be used alone, `dimension` among them: the loss is their mean."""
    text: TextEncoder = TextEncoder()
    vision: VisionEncoder = VisionEncoder()
    """The default learns fastest from scratch among timm's small ones."""
    image_tower: ImageTower | None = None
    """`transformer` is SMAR's; `placed`: a small network over all places of a picture at once; unset: as the variant has it."""
    image_layers: Annotated[int, Field(ge=0)] = 1
    """Of the transformer."""
    dropout: Share = 0.0
    """Inside the transformers; on a CPU it costs a quarter of the time, and hidden tokens regularise as well."""
    frames: Annotated[int, Field(ge=1, le=4)] = 1
    """Pictures of an item that are attended to at once. 1: a visit takes one of them, and the item's embedding is the
    mean over them."""
    routing: Routing | None = None
    """`hard` is SMAR's: a query meets the multimodal embedding or the text embedding; `soft`: a mixture of the two by
    P(q), which then learns from the retrieval loss too; `none`: always the multimodal embedding."""
    item_confidence: bool | None = None
    """Whether each item's own picture says how much it counts: c(item)."""

    @field_validator("matryoshka")
    @classmethod
    def _whole_among_them(cls, lengths: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if lengths and max(lengths) != info.data.get("dimension"):
            raise ValueError("the longest is network.dimension itself")
        return lengths
