"""How much a model with item confidence lets each item's picture count, c(s): of all items, and of those whose pictures lie.

It is read off the embeddings: embed stores S_t + c·(S_m − S_t) of two unit vectors, so with d for the stored difference from S_t
c = −|d|² / (2 S_t·d).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from smar_model.evaluation.evaluation_record import ConfidenceOf, PictureConfidence
from smar_model.evaluation.routing_quality import area_under_curve
from smar_model.retrieval.item_embeddings import ItemEmbeddings

LEAST_DISTANCE = 1e-3
"""Of a stored vector from S_t: nearer, rounding to 32 bits would decide."""
NO_CONFIDENCE = 0.999
"""If no item's is below this, the model has none."""


def confidence_in_pictures(embeddings: ItemEmbeddings) -> np.ndarray:
    """c(s) of N items, (N,) float64; NaN where the stored vectors are too near each other to tell."""
    found = np.full(len(embeddings.item_ids), np.nan)
    for start in range(0, len(found), 50_000):
        rows = slice(start, start + 50_000)
        text = embeddings.text[rows].astype(np.float64)
        moved = embeddings.multimodal[rows].astype(np.float64) - text
        squared = (moved**2).sum(axis=1)
        far = squared > LEAST_DISTANCE**2
        along = (text * moved).sum(axis=1)
        found[rows] = np.where(far, -squared / np.where(far, 2 * along, 1), np.nan)
    return found


def measure_picture_confidence(
    embeddings: ItemEmbeddings, catalogue: pd.DataFrame, wrong: Mapping[str, str] | None
) -> PictureConfidence | None:
    """Figures of items with pictures; None where the model has no item confidence.

    Args:
        catalogue: in the order of the embeddings.
        wrong: item → what it shows instead of its own picture, as in the table `truth_pictures`; None: nobody knows.
    """
    found = confidence_in_pictures(embeddings)
    pictured = (catalogue["images"].str.len() > 0).to_numpy() & ~np.isnan(found)
    if not pictured.any() or found[pictured].min() >= NO_CONFIDENCE:
        return None
    shows = np.array([(wrong or {}).get(item, "right") for item in embeddings.item_ids], dtype=object)
    groups = {"all": pictured}
    if wrong is not None:
        groups |= {kind: pictured & (shows == kind) for kind in ("right", "another_item", "placeholder")}
    return PictureConfidence(
        items={
            name: ConfidenceOf(
                items=int(inside.sum()),
                mean=float(found[inside].mean()),
                low=float(np.quantile(found[inside], 0.1)),
                high=float(np.quantile(found[inside], 0.9)),
            )
            for name, inside in groups.items()
            if inside.any()
        },
        right_above_wrong=area_under_curve(found[pictured], shows[pictured] == "right"),
    )
