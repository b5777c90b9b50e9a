"""Gradient caching and several processes against the plain gradient of the whole batch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from smar_model.network.model import RetrievalModel
from smar_model.settings import Network, Pictures, TextEncoder, VisionEncoder
from smar_model.training.batches import Batch
from smar_model.training.gradient_cache import Embeddings, backward
from smar_model.training.model_files import new_model
from smar_model.training.pair_embeddings import encode_pairs
from smar_model.training.pretrain import three_losses
from smar_model.training.processes import seed_rows

PAIRS = 14


def small_model(dropout: float) -> RetrievalModel:
    torch.manual_seed(0)
    network = Network(
        variant="smar_adapted",
        dimension=16,
        dropout=dropout,
        text=TextEncoder(width=32, heads=2, query_layers=1),
        vision=VisionEncoder(name="test_resnet"),
    )
    pictures = Pictures(width=48, height=64)
    model = new_model(network, vocabulary=100, query_length=8, item_length=12, pictures=pictures)
    for last in (model.fusion.attention.out_proj, model.fusion.feed_forward[-1]):
        torch.nn.init.normal_(last.weight, std=0.1)  # a fusion that adds nothing would hide the pictures' share
    return model.train()


def whole_batch(model: RetrievalModel) -> Batch:
    generator = torch.Generator().manual_seed(1)

    def ids(*shape: int) -> torch.Tensor:
        return torch.randint(1, 100, shape, generator=generator)

    return Batch(
        queries=ids(PAIRS, 8),
        query_keys=ids(PAIRS) % 9,
        item_keys=ids(PAIRS) % 9,
        texts=ids(PAIRS, 12),
        segments=ids(PAIRS, 12) % 4,
        patches=torch.rand(PAIRS, model.vision.patches, model.vision.channels, generator=generator),
        has_picture=torch.arange(PAIRS) % 5 != 0,
    )


def gradients(model: RetrievalModel, batch: Batch, **options: Any) -> dict[str, torch.Tensor]:
    """Loss and gradients; `options` are those of `backward`."""

    def encode(part: Batch) -> Embeddings:
        return encode_pairs(model, part, pictures=True)

    def objective(embeddings: Embeddings) -> dict[str, torch.Tensor]:
        return three_losses(model, embeddings, (0.3, 0.1, 1.0), margin=0.1)

    torch.manual_seed(3)
    parameters = [p for n, p in model.named_parameters() if not n.startswith("vision")]
    parts = backward(batch, encode, objective, parameters, **options)
    named = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {"loss": parts["loss"], **named}


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize("chunk", [1, 3, 7, 13])
def test_cached_gradients_equal_plain_ones(chunk: int) -> None:
    model = small_model(dropout=0.0)
    batch = whole_batch(model)
    plain = gradients(model, batch)
    assert {"log_scale", "query_tower.tokens.weight", "image_tower.no_picture"} <= plain.keys()
    assert largest_difference(plain, gradients(model, batch, chunk=chunk)) < 1e-5


def test_cached_gradients_equal_plain_ones_with_dropout() -> None:
    """The plain gradient, with the masks that fall when the chunks are encoded in turn."""
    model = small_model(dropout=0.3)
    batch = whole_batch(model)

    def plain(seed: int) -> dict[str, torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(seed)
        parts = [encode_pairs(model, part, pictures=True) for part in batch.split(5)]
        whole = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
        loss = three_losses(model, whole, (0.3, 0.1, 1.0), margin=0.1)["loss"]
        loss.backward()
        return {"loss": loss.detach()} | {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    wanted = plain(3)
    assert largest_difference(wanted, gradients(model, batch, chunk=5)) < 1e-5
    assert largest_difference(plain(4), wanted) > 1e-3  # other masks would show


def test_the_generator_goes_on_after_the_last_chunk() -> None:
    model = small_model(dropout=0.3)
    gradients(model, whole_batch(model), chunk=5)
    cached = torch.rand(3)
    torch.manual_seed(3)
    for part in whole_batch(model).split(5):
        encode_pairs(model, part, pictures=True)
    assert torch.equal(cached, torch.rand(3))


TOGETHER: dict[str, tuple[float, dict[str, Any]]] = {
    "in one part": (0.0, {}),
    "in chunks": (0.0, {"chunk": 3}),
    "with dropout": (0.3, {"chunk": PAIRS // 2, "seed": partial(seed_rows, 0, 5)}),
    "in bf16": (0.0, {"sent_as": torch.bfloat16}),
}
"""Name of a case → dropout, and options of `backward`."""


def in_case(name: str, batch: Batch, **changed: Any) -> dict[str, torch.Tensor]:
    dropout, options = TOGETHER[name]
    return gradients(small_model(dropout), batch, **options | changed)


def one_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    half = whole_batch(small_model(dropout=0.0)).split(PAIRS // 2)[rank]
    torch.save({name: in_case(name, half) for name in TOGETHER}, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one_on_the_same_global_batch(tmp_path: Path) -> None:
    mp.spawn(one_of_two, args=(tmp_path,), nprocs=2)
    batch = whole_batch(small_model(dropout=0.0))
    alone = {name: in_case(name, batch) for name in TOGETHER}
    for rank in range(2):
        together = torch.load(tmp_path / f"{rank}.pt")
        for name in TOGETHER.keys() - {"in bf16"}:
            assert largest_difference(alone[name], together[name]) < 1e-5, name
        for name, wanted in alone["in bf16"].items():
            apart = (together["in bf16"][name] - wanted).norm() / wanted.norm()
            assert apart < 2**-7, name
        assert largest_difference(alone["in bf16"], together["in bf16"]) > 1e-5
    # Dropout of which each process had its own would show.
    assert largest_difference(alone["with dropout"], in_case("with dropout", batch, chunk=PAIRS)) > 1e-3
