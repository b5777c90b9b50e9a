"""What a run is judged on: the catalogue, the clicks before and after the cutoff, the queries of the evaluation days, their segments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from smar_model.data.catalogue import read_catalogue
from smar_model.evaluation.evaluation_set import EvaluationSet, build_evaluation_set, read_contract_table
from smar_model.evaluation.segments import query_segments
from smar_model.lake.contracts import load_contract

if TYPE_CHECKING:
    from smar_model.lake.stage import StageContext


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    catalogue: pd.DataFrame
    """Sorted by item id."""
    trained: pd.DataFrame
    """Clicks of the training days: day, query, item_id, clicks, orders."""
    evaluated: pd.DataFrame
    """Those of the evaluation days."""
    queries: EvaluationSet
    segments: dict[str, np.ndarray]
    """Name → (Q,) bool, as `query_segments` has them."""
    wrong_pictures: dict[str, str] | None
    """Item → what it shows instead of its own picture; None: the shop does not know."""


def read_held_out(context: StageContext) -> HeldOut:
    """Read it from the outputs of prepare-items, extract-clicks and assign-segments.

    Raises:
        InputError: there is nothing to evaluate, or truth or judgments differ from their contracts.
    """
    run, settings = context.run, context.settings
    catalogue = read_catalogue(context.table("prepare-items", "catalogue"))
    files = [str(f) for f in context.table("extract-clicks", "clicks")]
    clicks = ds.dataset(files, schema=load_contract("clicks").arrow_schema())
    trained, evaluated = (
        clicks.to_table(
            columns=["day", "query", "item_id", "clicks", "orders"], filter=ds.field("day").isin(days)
        ).to_pandas()
        for days in (run.training_days, run.evaluation_days)
    )
    queries = build_evaluation_set(
        shop=context.shop,
        days=run.evaluation_days,
        clicks=evaluated,
        catalogue=catalogue,
        visual_departments=settings.shop.visual_departments,
        maximum_queries=settings.evaluation.maximum_queries,
        seed=settings.evaluation.seed,
    )
    file = context.shop.truth_pictures()
    wrong = read_contract_table("truth_pictures", [file]) if file else None
    wrong_pictures = None if wrong is None else dict(zip(wrong["item_id"], wrong["shows"], strict=True))
    segments = query_segments(
        queries,
        catalogue=catalogue,
        trained=trained,
        cutoff=run.cutoff,
        novel_bucket=settings.segments.novel_range,
        files=context.table("assign-segments", "segments"),
        wrong_pictures=wrong_pictures,
    )
    return HeldOut(
        catalogue=catalogue,
        trained=trained,
        evaluated=evaluated,
        queries=queries,
        segments=segments,
        wrong_pictures=wrong_pictures,
    )
