"""The query tower and the prediction header exported to ONNX, for serving without PyTorch's cost of each call.

`index.query_tower` says what serves: `pytorch`; `onnx`, the same numbers to TOLERANCE; `onnx_int8`, its matrices in 8 bits (dynamic
quantisation, a scale for each output), for towers whose layers cost more than their calls. `benchmarks/search.md` has what each costs.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from smar_model.errors import InputError
from smar_model.network.model import RetrievalModel

TOWER_FILE = "query_tower.onnx"
TOLERANCE = 1e-4
"""Largest difference of an embedding's element, or of P(q), between PyTorch and the export."""
LEAST_KEPT = 0.95
"""Share of the best 100 items that must stay the same in 8 bits; below, 8 bits are refused."""


class _Tower(nn.Module):
    def __init__(self, model: RetrievalModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.encode_queries(ids)


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
            f"index.query_tower: exporting needs onnx, onnxscript and onnxruntime ({error}); install them or set it to pytorch"
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


class ExportedTower:
    """Runs what `export_query_tower` wrote, in as many threads as PyTorch is given when it is opened."""

    def __init__(self, file: Path) -> None:
        """Raises InputError: ONNX Runtime is not installed, or the file is no model."""
        try:
            import onnxruntime
        except ImportError:
            raise InputError(
                f"{file}: this index serves an exported query tower; install onnxruntime, or build the index with "
                "index.query_tower: pytorch"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        # Threads that spin while they wait take the cores that FAISS searches on.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self.session: Any = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library's errors have no common class
            raise InputError(f"{file}: not a readable query tower: {str(error).splitlines()[0]}") from error

    def __call__(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B, L) int64 to embeddings (B, D) or (B, K, D), and the header's logits (B,)."""
        embeddings, logits = self.session.run(None, {"ids": ids})
        return embeddings, logits
