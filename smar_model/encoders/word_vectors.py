"""One vector a token from a sentence encoder, as model2vec distils it (github.com/MinishLab/model2vec, 0.10: `distill_from_model`).

1. Each token of the vocabulary goes through the encoder alone, between the tokens that the tokenizer puts around a text; its vector is the
   mean of the last states.
2. The vectors are rotated to their principal components, and the first 256 are kept.
3. Each is weighed by how rare its token is: a/(a + p), with p by Zipf's law from its place in the vocabulary (SIF, Arora et al. 2017).

Done here as model2vec's own distillation asks for a `transformers` before 5.4; what it makes of a model is the same within rounding. Its
rows are those of the tokens that it keeps, ours of all: special and unused tokens have zeros.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

DIMENSIONS = 256
SIF = 1e-4
UNUSED = re.compile(r"\[unused\d+\]")
TOGETHER = 1_024
PROBE = "a"


@torch.inference_mode()
def word_vectors(encoder: nn.Module, tokenizer: Tokenizer, *, report: Callable[[str], None]) -> Tensor:
    """Vectors (V, D) by token id, D ≤ 256, all finite.

    Args:
        encoder: of `transformers`: `input_ids` and `attention_mask` to `last_hidden_state`.
    """
    special = {token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special}
    tokens = sorted(
        number
        for token, number in tokenizer.get_vocab(with_added_tokens=True).items()
        if number not in special and not UNUSED.fullmatch(token)
    )
    before, after = around(tokenizer)
    device = next(encoder.parameters()).device
    states = []
    for start in range(0, len(tokens), TOGETHER):
        if start % (8 * TOGETHER) == 0:
            report(f"words: {start:,} of {len(tokens):,} tokens")
        ids = torch.tensor([[*before, token, *after] for token in tokens[start : start + TOGETHER]], device=device)
        output = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        states.append(output.float().mean(1).cpu().numpy())
    kept = weighed(principal(np.nan_to_num(np.concatenate(states))))
    rows = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    vectors = torch.zeros(rows, kept.shape[1])
    vectors[torch.tensor(tokens)] = torch.from_numpy(kept.astype(np.float32))
    return vectors


def around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Ids that the tokenizer puts before and after a text."""
    bare, whole = (tokenizer.encode(PROBE, add_special_tokens=special).ids for special in (False, True))
    for start in range(len(whole) - len(bare) + 1):
        if bare and whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []


def principal(vectors: np.ndarray) -> np.ndarray:
    """Their first principal components, (N, W) → (N, min(W, 256)); as they are where there are no more vectors than components."""
    count = min(DIMENSIONS, vectors.shape[1])
    if count >= len(vectors):
        return vectors[:, :count]
    centred = vectors - vectors.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred / (len(vectors) - 1))
    scores = centred @ axes[:, ::-1][:, :count]
    # An axis has no direction of its own: the largest score is positive.
    return scores * np.sign(scores[np.abs(scores).argmax(0), np.arange(count)])


def weighed(vectors: np.ndarray) -> np.ndarray:
    """By how rare each is, (N, D) in the order of the vocabulary, the most frequent first."""
    inverse_rank = 1 / np.arange(2, len(vectors) + 2)
    return vectors * (SIF / (SIF + inverse_rank / inverse_rank.sum()))[:, None]
