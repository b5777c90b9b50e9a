"""One network with parts switched: each variant is a row, not a copy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from smar_model.errors import InputError
from smar_model.settings import Descriptors, Fusion, ImageTower, Network, Routing, TextTower

HEAD_TEMPERATURE = 1 / 30
"""β of DPSR's query heads: JD's softmax temperature (EMNLP 2023 industry track, paper 72)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What a variant switches. What it does not name is the same for all: sizes, data, optimiser, schedule."""

    summary: str
    text_tower: TextTower = "transformer"
    """`words`: queries and item texts are the mean of their words' vectors, no layer before it (Nigam et al. 2019, arXiv 1907.00937)."""
    fusion: Fusion | None = None
    """How the multimodal embedding comes about; None: no picture is read at all."""
    adapted: bool = False
    """The vision encoder is prepared by adapt-vision, then locked, and every picture is encoded once. Otherwise one that came with
    weights is locked as it came, and one that begins with nothing is trained inside the network, through the network's own losses
    ("end to end")."""
    descriptors: Descriptors = "none"
    """`alone`: pictures are read by histograms of colours and edges (`network/descriptors.py`) in the place of an encoder; what
    adapt-vision prepares is then the image tower alone. `beside`: by both."""
    image_tower: ImageTower = "transformer"
    """`placed`: a small network over all places of the picture at once."""
    text_loss: bool = True
    image_loss: bool = False
    multimodal_loss: bool = True
    """Of pretraining's L_t, L_i and L_m, those that are learned."""
    routing: Routing = "none"
    """By P(q): `hard`, `soft`; `none`: every query meets the multimodal embedding (the text embedding without pictures)."""
    item_confidence: bool = False
    """c(item), learned with the gate: how far an item's own picture moves it away from its text."""
    loss: Literal["softmax", "hinge"] = "softmax"
    heads: int = 1
    """Embeddings of a query (DPSR)."""
    random_negatives: int = 0
    """Random items of the catalogue for each pair, where settings do not say."""
    reranker: bool = False
    """A fusion that sees the query, to order the best results anew."""

    @property
    def losses(self) -> tuple[bool, bool, bool]:
        """Of L_t, L_i and L_m, in this order."""
        return self.text_loss, self.image_loss, self.multimodal_loss


_SMAR = Variant(summary="SMAR (arXiv 2506.20330)", fusion="cross_attention", image_loss=True, routing="hard")
_CONCAT = Variant(summary="Naive concatenation, end to end", fusion="concat", text_loss=False)
_BEYOND_TEXT = Variant(
    summary="Beyond Text (arXiv 2603.04836): staged, item-side", fusion="beyond_text", adapted=True, text_loss=False
)
_TEXT_ONLY = Variant(summary="DPSR in softmax form", multimodal_loss=False)

VARIANTS = {
    "default": replace(
        _SMAR,
        summary="Ours",
        text_tower="words",
        fusion="mlp",
        adapted=True,
        descriptors="alone",
        image_tower="placed",
        routing="soft",
    ),
    "dpsr": replace(
        _TEXT_ONLY,
        summary="DPSR as published (arXiv 2006.02282): query heads, hinge, random and batch negatives",
        loss="hinge",
        heads=4,
        random_negatives=1,
    ),
    "text_only": _TEXT_ONLY,
    "image_only": Variant(summary="DPSR-i: the picture alone", fusion="image", adapted=True, text_loss=False),
    "smar": _SMAR,
    "smar_adapted": replace(_SMAR, summary="SMAR on the adapted vision encoder", adapted=True),
    "smar_nc": replace(_SMAR, summary="SMAR without cross-attention: pooled states, one linear map", fusion="linear"),
    "smar_ni": replace(_SMAR, summary="SMAR without the image loss", image_loss=False),
    "smar_nt": replace(_SMAR, summary="SMAR without the text loss", text_loss=False),
    "smar_nm": replace(_SMAR, summary="SMAR without the multimodal loss", multimodal_loss=False),
    "concat": _CONCAT,
    "concat_adapted": replace(_CONCAT, summary="Concatenation on the adapted vision encoder", adapted=True),
    "beyond_text": _BEYOND_TEXT,
    "beyond_text_rerank": replace(_BEYOND_TEXT, summary="Beyond Text with the query in the fusion", reranker=True),
    "oracle": replace(_TEXT_ONLY, summary="Text-only over texts that name each item's true attributes"),
}
"""Choices that the papers leave open: DPSR has four heads. "Naive" concatenation and SMAR train their vision encoder
inside the network where it begins with nothing: a frozen random one would be a straw man, and an adapted one is Beyond
Text's first stage (for them `network.vision.adapted`). That also leaves an ablated tower without any other direct
supervision before fine-tuning, as adapt-vision would be for -ni. One that came with weights is locked as it came."""


def find_variant(network: Network) -> Variant:
    """The variant that settings name, with the parts that they put in its parts' place.

    But for the text towers those are parts of how pictures are used, so a variant without pictures is taken as it is.

    Raises:
        InputError: there is none of that name.
    """
    if network.variant not in VARIANTS:
        raise InputError(f"network.variant {network.variant!r}: choose one of {', '.join(VARIANTS)}")
    variant = VARIANTS[network.variant]
    set_parts: dict[str, object] = {"text_tower": network.text.tower}
    if variant.fusion:
        set_parts |= {
            "fusion": network.fusion,
            "routing": network.routing,
            "item_confidence": network.item_confidence,
            "adapted": network.vision.adapted,
            "descriptors": network.vision.descriptors,
            "image_tower": network.image_tower,
        }
    if variant.descriptors == "alone" and has_encoder(network):
        variant = replace(variant, descriptors="beside")
    return replace(variant, **{name: value for name, value in set_parts.items() if value is not None})  # type: ignore[arg-type]


def has_encoder(network: Network) -> bool:
    """Whether settings name a pretrained vision encoder; "true" is what models of older versions have, which knew no names."""
    return network.vision.pretrained not in (None, "true")


def switched_parts(variant: Variant) -> str:
    """What a variant switches, in one line."""
    parts = {
        "words": variant.text_tower == "words",
        f"{variant.fusion}": variant.fusion is not None,
        "descriptors"
        if variant.descriptors == "alone"
        else "adapted encoder"
        if variant.adapted
        else "encoder trained inside": variant.fusion is not None,
        "descriptors beside it": variant.descriptors == "beside",
        "placed image tower": variant.image_tower == "placed",
        " + ".join(name for name, learned in zip(("L_t", "L_i", "L_m"), variant.losses, strict=True) if learned): True,
        f"{variant.routing} gate": variant.routing != "none",
        "item confidence": variant.item_confidence,
        "reranker": variant.reranker,
        f"{variant.heads} query heads": variant.heads > 1,
        "hinge": variant.loss == "hinge",
        f"{variant.random_negatives} random item(s) a pair": variant.random_negatives > 0,
    }
    return ", ".join(part for part, there in parts.items() if there)
