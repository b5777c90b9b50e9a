"""The one place where pickled weights are read: those of known packages, whose digest has been verified, and tensors alone."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from smar_model.errors import InputError, first_line


def read_pickled_tensors(file: Path) -> dict[str, Tensor]:
    """Name → tensor, in the file's order. PyTorch's own reader of weights runs nothing that the file names.

    Raises:
        InputError: the file holds something else.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise InputError(f"{file}: no weights that can be read without running code: {first_line(error)}") from None
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{file}: not a table of tensors by name")
    return dict(content)
