"""One network with parts switched: each variant is a row, not a copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from smar_model.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    fusion: Literal["cross_attention", "concat"] | None
    """None: no picture is read at all."""
    text_loss: bool = True
    image_loss: bool = True


VARIANTS = {
    "smar": Variant(fusion="cross_attention"),
    "concat": Variant(fusion="concat", text_loss=False, image_loss=False),
    "text_only": Variant(fusion=None, image_loss=False),
}


def find_variant(name: str) -> Variant:
    """A variant by name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in VARIANTS:
        raise InputError(f"network.variant {name!r}: choose one of {', '.join(VARIANTS)}")
    return VARIANTS[name]
