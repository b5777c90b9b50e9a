"""Exporting the query tower and the prediction header to ONNX, and what is served of a model against the network itself."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from smar_model.errors import InputError
from smar_model.network.model import RetrievalModel
from smar_model.retrieval.index_building import RoutedItems
from smar_model.retrieval.index_files import TowerCheck
from smar_model.retrieval.index_recall import RecallQueries, exact_search
from smar_model.retrieval.network_queries import network_tower
from smar_model.retrieval.query_encoder import QueryEncoder
from smar_model.retrieval.query_tower import LEAST_KEPT, TOLERANCE, TOWER_FILE, open_tower
from smar_model.retrieval.search import MEASURED_DEPTH
from smar_model.settings import QueryTower
from smar_model.training.model_folder import read_words_weights

CHECKED_QUERIES = 256


class _Tower(nn.Module):
    def __init__(self, model: RetrievalModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.encode_queries(ids)


def export_where_needed(model: RetrievalModel, model_folder: Path, file: Path, kind: QueryTower) -> str:
    """Write the file of an exported tower unless the model's own weights serve; returns what serves: `words`, `onnx` or `onnx_int8`.

    Raises:
        InputError: the packages that export are not installed.
    """
    if kind == "onnx" and read_words_weights(model_folder):
        return "words"
    export_query_tower(model, file, int8=kind == "onnx_int8")
    return kind


def export_query_tower(model: RetrievalModel, file: Path, *, int8: bool) -> None:
    """Write ids (B, L) → embeddings (B, D) or (B, K, D) and logits (B,), for any B and L up to the model's.

    Raises:
        InputError: the packages that export are not installed.
    """
    try:
        import onnxscript  # noqa: F401  (torch asks for it late, with a longer message)
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise InputError(
            f"exporting the query tower needs onnx, onnxscript and onnxruntime ({error}); install the extra `train`"
        ) from None
    length = model.shape.query_length
    example = torch.ones(2, min(3, length), dtype=torch.long)
    batch, places = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=1, max=length)
    # The fused layer of PyTorch's own inference cannot be exported.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    logging.disable(logging.WARNING)  # advice to whoever exports by hand
    try:
        with warnings.catch_warnings(), TemporaryDirectory() as scratch:
            warnings.simplefilter("ignore")
            plain = file if not int8 else Path(scratch) / TOWER_FILE
            torch.onnx.export(
                _Tower(model).eval(),
                (example,),
                str(plain),
                input_names=["ids"],
                output_names=["embeddings", "logits"],
                dynamic_shapes={"ids": {0: batch, 1: places} if length > 1 else {0: batch}},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
            if int8:
                quantize_dynamic(str(plain), str(file), weight_type=QuantType.QInt8, per_channel=True)
    finally:
        logging.disable(logging.NOTSET)
        torch.backends.mha.set_fastpath_enabled(fused)


def check_any_query(model: RetrievalModel, model_folder: Path, file: Path) -> None:
    """Whether what serves is the network's own tower, by token ids drawn at random: where no queries are at hand.

    Raises:
        InputError: it differs by more than TOLERANCE.
    """
    ids = np.random.default_rng(0).integers(0, model.shape.vocabulary, (CHECKED_QUERIES, model.shape.query_length))
    served, own = open_tower(model_folder, file)(ids), network_tower(model)(ids)
    difference = max(float(np.abs(mine - theirs).max()) for mine, theirs in zip(served, own, strict=True))
    if difference > TOLERANCE:
        raise InputError(_differs("onnx", difference))


def check_query_tower(
    served: QueryEncoder,
    network: QueryEncoder,
    texts: Sequence[str],
    vectors: RoutedItems,
    queries: RecallQueries,
    kind: str,
) -> TowerCheck:
    """How far what serves is from the network, over the texts of `queries`.

    Args:
        kind: what serves, as `export_where_needed` says it.

    Raises:
        InputError: as `judge_tower`.
    """
    ours, difference = compare_towers(served, network, texts)
    _, rows = exact_search(vectors, ours, queries.rows.shape[1])
    # Those of the texts come first in `queries`.
    kept = np.mean([np.isin(r, wanted).mean() for r, wanted in zip(rows, queries.rows[: len(rows)], strict=True)])
    return judge_tower(difference, float(kept), kind)


def compare_towers(served: QueryEncoder, network: QueryEncoder, texts: Sequence[str]) -> tuple[np.ndarray, float]:
    """What an index is asked by what serves, (n, 2D), and the largest difference of embeddings and P(q) from the network's."""
    ours, _, p = served.encode(texts)
    theirs, _, network_p = network.encode(texts)
    return ours, max(float(np.abs(ours - theirs).max()), float(np.abs(p - network_p).max()))


def judge_tower(difference: float, kept: float, kind: str) -> TowerCheck:
    """The check of a query tower.

    Args:
        difference: of `compare_towers`.
        kept: share of the best items of the network's queries that are the best of what serves.

    Raises:
        InputError: the difference is over TOLERANCE, or in 8 bits the share under LEAST_KEPT.
    """
    if kind != "onnx_int8" and difference > TOLERANCE:
        raise InputError(_differs(kind, difference))
    if kept < LEAST_KEPT:
        raise InputError(
            f"index.query_tower {kind}: only {kept:.3f} of the best {MEASURED_DEPTH} items stay, under {LEAST_KEPT}; set it to onnx"
        )
    # Rounded, so that what the last bits of a sum do on another machine makes no other index.
    return TowerCheck(largest_difference=round(difference, 4), best_items_kept=round(kept, 3))


def _differs(kind: str, difference: float) -> str:
    return (
        f"the query tower that is served ({kind}) differs from PyTorch's by {difference:.1e}, over {TOLERANCE:.0e}; nothing is published: "
        "are torch, onnxscript and onnxruntime those of requirements.lock?"
    )
