"""The released pair as MLflow loads it (models from code: this file is stored in the version and run at loading)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc import PythonModel
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array

SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, "query")]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "query"),
            ColSpec(DataType.double, "p"),
            ColSpec(Array(DataType.string), "item_id"),
            ColSpec(Array(DataType.string), "title"),
            ColSpec(Array(DataType.double), "score"),
            ColSpec(Array(Array(DataType.string)), "pictures"),
        ]
    ),
    params=ParamSchema([ParamSpec("k", DataType.long, 10)]),
)


class SmarSearchModel(PythonModel):
    """Text queries to items, through the index that was built for the model."""

    def load_context(self, context: Any) -> None:
        from smar_model.delivery.shop_inputs import ShopInputs
        from smar_model.errors import InputError
        from smar_model.retrieval.search import Searcher
        from smar_model.settings import load_recorded_settings

        self.searcher = Searcher.load(Path(context.artifacts["model"]), Path(context.artifacts["index"]))
        try:
            pictures = ShopInputs.of(load_recorded_settings(Path(context.artifacts["settings.yaml"]))).pictures()
            self.picture_uri: Callable[[str], str] = pictures.uri
        except InputError:  # the shop is not on this machine: names as its catalogue has them
            self.picture_uri = str

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The k best items for each query.

        Args:
            model_input: column `query`.
            params: `k`, results a query, 10 unless stated.

        Returns:
            One row a query: query; p, the probability P(q) that pictures matter for it; item_id, title, score and pictures,
            lists of at most k, best first. An item's pictures are URIs, the main one first, or none; where the shop is not on
            this machine they are names under the pictures' root.
        """
        queries = model_input["query"].tolist()
        found, p = self.searcher.search(queries, k=(params or {}).get("k", 10))
        columns = {
            name: [[getattr(hit, name) for hit in hits] for hits in found] for name in ("item_id", "title", "score")
        }
        columns["pictures"] = [[[self.picture_uri(name) for name in hit.images] for hit in hits] for hits in found]
        return pd.DataFrame({"query": queries, "p": p.astype(float), **columns})


set_model(SmarSearchModel())
