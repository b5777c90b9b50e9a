"""Arrow's numbers as NumPy's without pandas, which Arrow's own `to_numpy` imports wherever it is installed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def numbers(array: pa.Array) -> np.ndarray:
    """Numbers or truth values (N,), none of them null, in their own type (truth values as int8); not to be written to."""
    if pa.types.is_boolean(array.type):
        array = pc.cast(array, pa.int8())
    return np.from_dlpack(array)
