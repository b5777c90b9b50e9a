"""bfloat16 and compiled towers: the same network, nearly the same figures."""

from __future__ import annotations

import torch

from smar_model.training.device import mixed_precision
from smar_model.training.pair_embeddings import encode_pairs
from tests.network.small_models import small_batch, small_model


def test_bf16_computes_in_bfloat16_and_stays_near() -> None:
    model = small_model()
    batch, seen = small_batch(model), set()
    model.query_projection.linear.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    exact = encode_pairs(model, batch, pictures=True)
    assert seen == {torch.float32}
    with mixed_precision("fp32"):
        again = encode_pairs(model, batch, pictures=True)
    assert all(torch.equal(again[name], exact[name]) for name in exact)
    with mixed_precision("bf16"):
        rounded = encode_pairs(model, batch, pictures=True)
    assert torch.bfloat16 in seen
    for name in ("queries", "texts", "images", "multimodal"):
        apart = (rounded[name].float() - exact[name]).abs().max()
        assert 0 < apart < 0.05, name
