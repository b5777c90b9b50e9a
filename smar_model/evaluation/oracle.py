"""Stages reveal-truth and reveal-visible-truth: the catalogue with each item's true attributes, for oracle rows alone.

An oracle is the text-only model trained and embedded on this catalogue: a yardstick of what pictures could tell at best.
No stage of the pipeline has these among its inputs; `smar compare` lets an oracle's run take the output in the place of
prepare-items once all tables that others share are made (`smar_model/evaluation/compare.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from smar_model.errors import InputError
from smar_model.evaluation.evaluation_set import read_contract_table
from smar_model.lake.contracts import load_contract

if TYPE_CHECKING:
    from smar_model.lake.stage import StageContext

VISIBLE = frozenset({"colour", "type"})
"""What a picture can show."""


def run(context: StageContext) -> dict[str, Any]:
    """All true attributes."""
    return _reveal(context, None)


def run_visible(context: StageContext) -> dict[str, Any]:
    """Colour and type alone."""
    return _reveal(context, VISIBLE)


def _reveal(context: StageContext, names: frozenset[str] | None) -> dict[str, Any]:
    """Publish `catalogue` with the truth among its attributes, which item towers read after title, category and brand."""
    file = context.shop.truth_items()
    if file is None:
        raise InputError(
            f"{context.shop.root / 'truth' / 'items.parquet'}: not there; an oracle needs a shop with truth"
        )
    truth = read_contract_table("truth_items", [file]).set_index("item_id")["attributes"]
    catalogue = ds.dataset([str(f) for f in context.table("prepare-items", "catalogue")]).to_table()
    merged, revealed = [], 0
    for item, attributes in zip(catalogue["item_id"].to_pylist(), catalogue["attributes"].to_pylist(), strict=True):
        own = dict(attributes or ())
        told = {k: v for k, v in (truth.get(item) or {}).items() if names is None or k in names}
        revealed += sum(own.get(name, "").lower() != value for name, value in told.items())
        merged.append(list((own | told).items()))
    place = catalogue.schema.get_field_index("attributes")
    column = pa.array(merged, load_contract("catalogue").arrow_schema().field("attributes").type)
    path = context.output("catalogue/part-0.parquet")
    pq.write_table(catalogue.set_column(place, "attributes", column), path)
    return {"items": len(merged), "attributes_revealed": revealed}
