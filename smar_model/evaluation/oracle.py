"""Stages reveal-truth and reveal-visible-truth: the catalogue with each item's true attributes, for oracles alone.

An oracle is the text-only model trained and embedded on this catalogue: a yardstick of what pictures could tell at best.
No stage of the pipeline has these among its inputs; an oracle's run takes the output in the place of prepare-items once all
tables that others share are made (`smar compare`, `smar_model/evaluation/compare.py`; `smar train-oracle`, below). Later runs of
the shop are judged beside the newest oracle (`Run.oracle`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from smar_model.errors import InputError
from smar_model.evaluation.evaluation_set import read_contract_table
from smar_model.lake.contracts import load_contract
from smar_model.lake.digests import digest_json
from smar_model.lake.object_paths import AnyPath
from smar_model.lake.runs import Run, create_run
from smar_model.lake.stage import Stage, run_stage
from smar_model.network.variants import find_variant
from smar_model.settings import validate_settings

if TYPE_CHECKING:
    from smar_model.lake.stage import StageContext

REVEAL = {"all": "reveal-truth", "visible": "reveal-visible-truth"}
"""Truth told → the stage that tells it."""
VISIBLE = frozenset({"colour", "type"})
"""What a picture can show."""


def run(context: StageContext) -> dict[str, int]:
    """All true attributes."""
    return _reveal(context, None)


def run_visible(context: StageContext) -> dict[str, int]:
    """Colour and type alone."""
    return _reveal(context, VISIBLE)


def _reveal(context: StageContext, names: frozenset[str] | None) -> dict[str, int]:
    file = context.shop.truth_items()
    if file is None:
        raise InputError(
            f"{context.shop.root / 'truth' / 'items.parquet'}: not there; an oracle needs a shop with truth"
        )
    path = context.output("catalogue/part-0.parquet")
    return reveal_truth(context.table("prepare-items", "catalogue"), file, names, path)


def reveal_truth(
    catalogue_files: Sequence[Path], truth_file: AnyPath, names: frozenset[str] | None, path: Path
) -> dict[str, int]:
    """Write `catalogue` with the truth among its attributes, which item towers read after title, category and brand.

    Args:
        names: of the true attributes told; None: all.
    """
    truth = read_contract_table("truth_items", [truth_file]).set_index("item_id")["attributes"]
    catalogue = ds.dataset([str(f) for f in catalogue_files]).to_table()
    merged, revealed = [], 0
    for item, attributes in zip(catalogue["item_id"].to_pylist(), catalogue["attributes"].to_pylist(), strict=True):
        own = dict(attributes or ())
        told = {k: v for k, v in (truth.get(item) or {}).items() if names is None or k in names}
        revealed += sum(own.get(name, "").lower() != value for name, value in told.items())
        merged.append(list((own | told).items()))
    told_columns: dict[str, list] = {"attributes": merged}
    for name in {"text_digest", "content_digest"} & set(catalogue.column_names):  # an older version wrote none
        told_columns[name] = [digest_json(pair) for pair in zip(catalogue[name].to_pylist(), merged, strict=True)]
    schema = load_contract("catalogue").arrow_schema()
    for name, values in told_columns.items():
        place = catalogue.schema.get_field_index(name)
        catalogue = catalogue.set_column(place, name, pa.array(values, schema.field(name).type))
    pq.write_table(catalogue, path)
    return {"items": len(merged), "attributes_revealed": revealed}


def train_oracle(run: Run, truth: str, stages: Mapping[str, Stage]) -> Run:
    """Train an oracle on the tables of a run whose data are checked; returns the oracle's own run, named RUN-oracle-TRUTH.

    It is trained as train-text-only is, with the text towers of the run's own variant and the same steps, so that the two can be
    compared. A call that was stopped goes on.

    Args:
        truth: which true attributes are told: `visible`, those that a picture can show, or `all`.
        stages: by name, those that reveal truth among them.

    Raises:
        InputError: there is no such truth to tell, or the run's data stages have not finished.
    """
    if truth not in REVEAL:
        raise InputError(f"--truth {truth}: give one of {', '.join(REVEAL)}")
    network = run.settings.network
    content = run.settings.model_dump(mode="json")
    content["network"] |= {"variant": "oracle"}
    content["network"]["text"] |= {"tower": find_variant(network).text_tower}
    told = create_run(
        Run(
            name=f"{run.name}-oracle-{truth}",
            date=run.date,
            settings_source=run.settings_source,
            settings=validate_settings(content, source=f"{run.name}: oracle"),
            champion=None,
            promotion="never",
            encoders=run.encoders,
            left_out=run.left_out,
        )
    )
    for name in stages["train-tokenizer"].inputs:
        told.take(run.output(name), stage=name)
    told.take(run_stage(stages[REVEAL[truth]], told), stage="prepare-items")
    for name in ("train-tokenizer", "adapt-vision", "encode-pictures", "pretrain", "finetune"):
        run_stage(stages[name], told)
    return told
