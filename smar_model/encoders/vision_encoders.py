"""A vision encoder of timm into the form of the store: `vision/`, timm's own folder layout without the classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.models._hub import save_config_for_hf
from torch import Tensor

from smar_model.encoders.pickled_weights import read_pickled_tensors
from smar_model.encoders.source_folders import CONFIG, WEIGHTS, read_config, require_safetensors
from smar_model.encoders.text_encoders import save_tensors
from smar_model.errors import InputError, first_line

HEADS = ("classifier.", "head.fc.", "head.", "fc.")
"""Where timm's models keep what is left out."""


def convert_timm_folder(folder: Path, to: Path) -> int:
    """Read a model that timm (or its hub) saved in a folder, try it, and write it below `to`; returns the number of its weights.

    Raises:
        InputError: its weights are pickled or do not fit its architecture, or timm does not know that.
    """
    config = read_config(folder / CONFIG)
    require_safetensors(folder, WEIGHTS)
    try:
        encoder = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
    except Exception as error:  # timm raises whatever it meets
        raise InputError(
            f"{folder}: not a model that timm reads (architecture {config.get('architecture')!r}): {first_line(error)}"
        ) from None
    return _write(folder, encoder, to)


def convert_timm_tensors(file: Path, architecture: str, to: Path) -> int:
    """Likewise of pickled tensors in timm's order under other names, such as those of TensorFlow's EfficientNet-Lite.

    Raises:
        InputError: they are not those of the architecture.
    """
    return _write(file, timm_model_of(read_pickled_tensors(file), architecture, source=file), to)


def timm_model_of(tensors: dict[str, Tensor], architecture: str, *, source: Path) -> Any:
    """timm's model without its classifier, with weights that stand in timm's order under other names.

    Raises:
        InputError: they are not as many, or have other shapes.
    """
    whole: Any = timm.create_model(architecture, pretrained=False)
    places = whole.state_dict()
    fits = len(tensors) == len(places) and all(
        tensor.shape == place.shape for tensor, place in zip(tensors.values(), places.values(), strict=True)
    )
    if not fits:
        raise InputError(f"{source}: its {len(tensors)} tensors are not, one by one, those of timm's {architecture}")
    whole.load_state_dict(dict(zip(places, tensors.values(), strict=True)))
    whole.reset_classifier(0)
    return whole


def _write(source: Path, encoder: Any, to: Path) -> int:
    encoder = encoder.eval()
    size = encoder.pretrained_cfg.get("input_size", (3, 224, 224))
    try:
        with torch.inference_mode():
            states = encoder.forward_features(torch.zeros(1, *size))
    except (RuntimeError, ValueError, TypeError, AssertionError, SafetensorError) as error:
        raise InputError(
            f"{source}: does not encode a picture of {size[2]}×{size[1]} pixels: {first_line(error)}"
        ) from None
    if not bool(states.isfinite().all()) or not all(bool(t.isfinite().all()) for t in encoder.state_dict().values()):
        raise InputError(f"{source}: its weights are not all numbers")
    folder = to / "vision"
    folder.mkdir(parents=True)
    save_tensors(encoder.state_dict(), folder / WEIGHTS)
    save_config_for_hf(encoder, str(folder / CONFIG))
    return sum(parameter.numel() for parameter in encoder.parameters())
