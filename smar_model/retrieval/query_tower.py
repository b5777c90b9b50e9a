"""The query tower and the prediction header as they are served, without PyTorch.

A tower that is the mean of its words' vectors is a look-up in the model's own weights (`WordsTower`): NumPy does it, nothing is exported. One with
layers is exported to ONNX by the stage index (`tower_export.py`) and lies in the index. `index.query_tower` says in which precision:
`onnx`, the network's own numbers to TOLERANCE; `onnx_int8`, matrices in 8 bits (dynamic quantisation, a scale for each output), for
towers whose layers cost more than their calls. `benchmarks/search.md` has what each costs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from smar_model.errors import InputError
from smar_model.small_start import allow_all
from smar_model.training.model_folder import WordsWeights, read_words_weights

TOWER_FILE = "query_tower.onnx"
TOLERANCE = 1e-4
"""Largest difference of an embedding's element, or of P(q), between the network and what is served."""
LEAST_KEPT = 0.95
"""Share of the best 100 items that must stay the same in 8 bits; below, 8 bits are refused."""
SMALLEST_NORM = 1e-12

QueryTower = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Token ids (B, L) int64, 0 is padding, to embeddings (B, D) or of K heads (B, K, D), and the header's logits (B,)."""


class WordsTower:
    """The mean of words' vectors, its projections and the header: what `RetrievalModel.encode_queries` computes, to TOLERANCE.

    Every query is multiplied by itself and at full length, so that it is the same to the last bit alone and in any batch.
    """

    def __init__(self, weights: WordsWeights) -> None:
        self.weights = weights

    def __call__(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `QueryTower`."""
        of = self.weights
        whole = np.zeros((len(ids), len(of.positions)), dtype=ids.dtype)
        whole[:, : ids.shape[1]] = ids
        is_word = whole != 0
        counts = is_word.copy()
        counts[:, 0] = True  # a mean over nothing is no number
        share = (counts / counts.sum(1, keepdims=True)).astype(np.float32)[:, None]  # (B, 1, L)
        states = (share * is_word[:, None]) @ of.tokens[whole] + share @ of.positions + of.segment  # (B, 1, W)
        heads = [_unit(states @ weight.T + bias)[:, 0] for weight, bias in of.heads]
        (inner, inner_bias), (outer, outer_bias) = of.header
        logits = _gelu(states @ inner.T + inner_bias) @ outer.T + outer_bias
        return np.stack(heads, axis=1) if len(heads) > 1 else heads[0], logits[:, 0, 0]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), SMALLEST_NORM)


def _gelu(x: np.ndarray) -> np.ndarray:
    """x Φ(x), with the error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26), which NumPy has not."""
    scaled = np.abs(x) / np.float32(np.sqrt(2))
    t = 1 / (1 + np.float32(0.3275911) * scaled)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    erf = np.sign(x) * (1 - series * np.exp(-scaled * scaled))
    return (x * (1 + erf) / 2).astype(np.float32)


class ExportedTower:
    """Runs what `export_query_tower` wrote, in the thread that asks."""

    def __init__(self, file: Path) -> None:
        """Raises InputError: ONNX Runtime is not installed, or the file is no model."""
        try:
            import onnxruntime
        except ImportError:
            raise InputError(f"{file}: this index serves an exported query tower; install onnxruntime") from None
        options = onnxruntime.SessionOptions()
        # Queries come one by one from many threads: each computes by itself.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self.session: Any = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library's errors have no common class
            raise InputError(f"{file}: not a readable query tower: {str(error).splitlines()[0]}") from error

    def __call__(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `QueryTower`."""
        embeddings, logits = self.session.run(None, {"ids": ids})
        return embeddings, logits


def open_tower(model_folder: Path, exported: Path) -> QueryTower:
    """The tower that answers for a model.

    Args:
        exported: the file of its exported tower; not there where the model needs none, or an older version made no such file.

    Raises:
        InputError: the model is not whole, the file is no tower, or an older version exported none and PyTorch is not installed.
    """
    if exported.is_file():
        return ExportedTower(exported)
    if weights := read_words_weights(model_folder):
        return WordsTower(weights)
    allow_all()
    try:
        from smar_model.retrieval.network_queries import load_network_tower
    except ImportError as error:
        raise InputError(
            f"{model_folder}: an older version exported no query tower, and without that this model answers through PyTorch alone, which is not "
            f"installed ({error}): refresh its index (the DAG smar_refresh_index), which exports one, or install the extra `train`"
        ) from None
    return load_network_tower(model_folder)
