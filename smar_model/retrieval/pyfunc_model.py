"""The released pair as MLflow loads it (models from code: this file is stored in the version and run at loading)."""

from __future__ import annotations

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
        ]
    ),
    params=ParamSchema([ParamSpec("k", DataType.long, 10)]),
)


class SmarSearchModel(PythonModel):
    """Text queries to items, through the index that was built for the model."""

    def load_context(self, context: Any) -> None:
        from smar_model.retrieval.search import Searcher

        self.searcher = Searcher.load(Path(context.artifacts["model"]), Path(context.artifacts["index"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The k best items for each query.

        Args:
            model_input: column `query`.
            params: `k`, results a query, 10 unless stated.

        Returns:
            One row a query: query; p, the probability P(q) that pictures matter for it; item_id, title and score,
            lists of at most k, best first.
        """
        queries = model_input["query"].tolist()
        found, p = self.searcher.search(queries, k=(params or {}).get("k", 10))
        columns = {
            name: [[getattr(hit, name) for hit in hits] for hits in found] for name in ("item_id", "title", "score")
        }
        return pd.DataFrame({"query": queries, "p": p.astype(float), **columns})


set_model(SmarSearchModel())
