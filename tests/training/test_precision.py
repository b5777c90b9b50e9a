"""bfloat16 and compiled towers: the same network, nearly the same figures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from smar_model.training.device import compile_parts, mixed_precision
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


def test_compiled_towers_give_the_same_figures_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured as for the compiler; generating C++ from that would take two minutes."""
    captured: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        captured.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    plain, compiled = small_model().train(), small_model().train()
    compile_parts(compiled)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    for pairs in (7, 9):
        found = []
        for model in (plain, compiled):
            embeddings = encode_pairs(model, small_batch(model, pairs), pictures=True)
            model.zero_grad()
            sum(value.square().sum(0).max() for value in embeddings.values() if value.requires_grad).backward()
            found.append(embeddings | {n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        assert found[0].keys() == found[1].keys()
        for name, value in found[0].items():
            torch.testing.assert_close(found[1][name], value, atol=1e-5, rtol=1e-4)
    assert len(captured) > 5
