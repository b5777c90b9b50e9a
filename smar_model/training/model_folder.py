"""A model's folder read without PyTorch: its digest, and the side of the network that encodes queries."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from smar_model.errors import InputError
from smar_model.lake.digests import digest_files
from smar_model.network.variants import Variant, find_variant
from smar_model.settings import Network

WEIGHTS_FILE = "weights.safetensors"


def model_digest(folder: Path) -> str:
    """Digest of a model's files, equal to `content["model"]` in the manifest of the stage that published it."""
    return digest_files([f for f in folder.iterdir() if f.is_file()], root=folder.parent)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuerySide:
    """What must be known of a model to ask an index, besides the tower that encodes queries."""

    variant: Variant
    query_length: int
    """Tokens of a query that the tower reads."""
    dimension: int
    header_temperature: float
    """Divides the header's logits, so that P(q) is calibrated."""

    def route(self, logits: np.ndarray) -> np.ndarray:
        """The share of S_m, header's logits (B,) → (B,), as `RetrievalModel.route` says it."""
        if self.variant.routing == "none":
            return np.full_like(logits, float(self.variant.fusion is not None))
        return (logits >= 0).astype(logits.dtype) if self.variant.routing == "hard" else _sigmoid(logits)

    def probability(self, logits: np.ndarray) -> np.ndarray:
        """P(q), header's logits (B,) → (B,), as `RetrievalModel.probability` says it."""
        if self.variant.routing == "none":
            return self.route(logits)
        return _sigmoid(logits / np.float32(self.header_temperature))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(logits.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class WordsWeights:
    """Weights of a query tower that is the mean of its words' vectors (`MeanOfWords`), with projections and header; all float32."""

    tokens: np.ndarray
    """(V, W)"""
    positions: np.ndarray
    """(L, W)"""
    segment: np.ndarray
    """(W,)"""
    heads: list[tuple[np.ndarray, np.ndarray]]
    """Of each query head, (D, W) and (D,)."""
    header: list[tuple[np.ndarray, np.ndarray]]
    """Of the prediction header's two layers, (W, W) and (W,), (1, W) and (1,)."""


def read_query_side(folder: Path) -> QuerySide:
    """Read a model's `network.json`, and of its weights the header's temperature.

    Raises:
        InputError: a file is missing or damaged.
    """
    try:
        content = json.loads((folder / "network.json").read_text(encoding="utf-8"))
        network = Network.model_validate(content["network"])
        with safe_open(folder / WEIGHTS_FILE, framework="numpy") as weights:
            # A model from before there was a temperature has none.
            known = "header_temperature" in weights.keys()  # noqa: SIM118  (no mapping)
            temperature = float(weights.get_tensor("header_temperature")) if known else 1.0
        return QuerySide(
            variant=find_variant(network),
            query_length=int(content["query_length"]),
            dimension=network.dimension,
            header_temperature=temperature,
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _damaged(folder, error) from error


def read_words_weights(folder: Path) -> WordsWeights | None:
    """What a model's query tower consists of if it is a mean of words; None: it has layers.

    Raises:
        InputError: a file is missing or damaged.
    """
    try:
        content = json.loads((folder / "network.json").read_text(encoding="utf-8"))
        variant = find_variant(Network.model_validate(content["network"]))
        if variant.text_tower != "words" or content.get("text_encoder"):
            return None
        with safe_open(folder / WEIGHTS_FILE, framework="numpy") as weights:

            def layer(name: str) -> tuple[np.ndarray, np.ndarray]:
                return weights.get_tensor(f"{name}.weight"), weights.get_tensor(f"{name}.bias")

            further = [f"further_heads.{n}.linear" for n in range(variant.heads - 1)]
            return WordsWeights(
                tokens=weights.get_tensor("query_tower.tokens.weight"),
                positions=weights.get_tensor("query_tower.positions.weight"),
                segment=weights.get_tensor("query_tower.segments.weight")[0],
                heads=[layer(name) for name in ("query_projection.linear", *further)],
                header=[layer("header.0"), layer("header.2")],
            )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> InputError:
    return InputError(f"{folder}: not a whole model ({WEIGHTS_FILE}, network.json): {error}")
