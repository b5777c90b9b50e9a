"""Text towers without layers that begin from a pretrained encoder: one vector a token, as model2vec distils them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from smar_model.data.encoder_tokens import read_encoder_tokenizer
from smar_model.errors import InputError
from smar_model.network.token_vectors import PADDING, TokenVectors
from smar_model.network.towers import TOKEN_SCALE

WORDS_FILE = "words.safetensors"
TENSOR = "vectors"


def begin_with_words(tokens: TokenVectors, folder: Path) -> None:
    """Give tokens (V, W) the first W dimensions of an encoder's vectors, which are ordered by their variance, scaled as a table that
    begins at random is.

    Raises:
        InputError: there are no vectors, or too few or too short ones.
    """
    file = folder / WORDS_FILE
    try:
        vectors = load_file(file)[TENSOR].astype(np.float32)
    except (OSError, KeyError, SafetensorError) as error:
        raise InputError(f"network.text.pretrained: {file}: no vectors of words: {error}") from error
    vocabulary, width = tokens.weight.shape
    if vectors.ndim != 2 or vectors.shape[1] < width:
        raise InputError(
            f"network.text.width {width}: {file} has vectors of {vectors.shape[-1]} numbers; set it to at most that, or network.text.tower to "
            "transformer"
        )
    if len(vectors) < vocabulary:
        raise InputError(
            f"{file}: has {len(vectors)} vectors for the {vocabulary} tokens of its tokenizer; add the encoder again"
        )
    vectors = read_encoder_tokenizer(folder).swapped_rows(vectors)[:vocabulary, :width]
    with torch.no_grad():
        tokens.weight.copy_(torch.from_numpy(vectors * (TOKEN_SCALE / (vectors.std() or 1.0))))
        tokens.weight[PADDING].zero_()
