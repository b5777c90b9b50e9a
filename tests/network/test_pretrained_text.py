"""Text towers that begin from a pretrained encoder: its first layers, or its words; saved and loaded without it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModel, BertModel

from smar_model.data.encoder_tokens import read_encoder_tokenizer
from smar_model.errors import InputError
from smar_model.network.model import RetrievalModel, Shape
from smar_model.network.token_vectors import TokenVectors
from smar_model.network.towers import ROWS_TOGETHER
from smar_model.settings import Optimisation, TextEncoder
from smar_model.training.loop import make_optimizer
from smar_model.training.model_files import load_model, save_model
from smar_model.training.pair_embeddings import encode_pairs
from smar_model.training.pretrain import three_losses
from tests.network.small_models import small_batch, small_model
from tests.network.small_text_encoder import LAYERS, WIDTH, write_text_encoder

TOKENS = 70
"""More than the small encoder has."""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_encoder(tmp_path_factory.mktemp("encoders") / "tiny", vocab_size=TOKENS)


def begun(
    encoder: Path, *, variant: str = "text_only", text: dict[str, Any] | None = None, **network: Any
) -> RetrievalModel:
    settings = TextEncoder(**{"pretrained": "tiny", "width": 32, "heads": 2, **(text or {})})
    return small_model(vocabulary=TOKENS, variant=variant, text=settings, text_encoder=encoder, **network)


@pytest.mark.parametrize("padding", [0, 3])
def test_states_are_those_of_the_encoders_first_layers(padding: int, tmp_path: Path) -> None:
    folder = write_text_encoder(tmp_path / "encoder", padding=padding)
    theirs = Tokenizer.from_file(str(folder / "text" / "tokenizer.json"))
    theirs.no_padding()
    source, ours = AutoModel.from_pretrained(folder / "text").eval(), read_encoder_tokenizer(folder).tokenizer
    model = small_model(
        vocabulary=ours.get_vocab_size(),
        variant="text_only",
        text=TextEncoder(pretrained="tiny", width=WIDTH, heads=2),
        text_encoder=folder,
    )
    for text in ("red shirts for women", ""):
        ids = torch.tensor([[*ours.encode(text, add_special_tokens=False).ids, 0, 0]])
        wanted = source(torch.tensor([theirs.encode(text).ids]), output_hidden_states=True).hidden_states
        for tower, layers in ((model.query_tower, 4), (model.item_text_tower, 1)):
            states, mask = tower(ids, torch.zeros_like(ids))
            assert mask.sum() == wanted[layers].shape[1]
            assert torch.allclose(states[0, mask[0]], wanted[layers][0], atol=1e-5)
    assert model.item_text_tower.tokens is model.query_tower.tokens


@pytest.mark.parametrize(
    ("variant", "tower"), [("smar", None), ("smar", "words"), ("default", None), ("text_only", "words"), ("dpsr", None)]
)
def test_what_was_trained_is_loaded_without_the_encoder_and_embeds_alike(
    variant: str, tower: Any, encoder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(encoder, tmp_path / "tiny")
    model = begun(folder, variant=variant, text={"tower": tower}).train()
    model.query_tower.tokens.train_difference(torch.arange(1, 60))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimisation = Optimisation(steps=2, batch=7, learning_rate=0.01)
    optimizer, batch = make_optimizer(model, optimisation), small_batch(model)
    batch.queries %= 60
    batch.texts %= 60
    for _ in range(2):
        optimizer.zero_grad()
        three_losses(model, encode_pairs(model, batch, pictures=True), (1.0, 1.0, 1.0))["loss"].backward()
        optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("query_tower") for name in moved)
    model.query_tower.tokens.fold()
    (tmp_path / "tokenizer.json").write_text("{}")
    save_model(model.eval(), tmp_path / "model", tmp_path / "tokenizer.json")
    shutil.rmtree(folder)
    loaded = load_model(tmp_path / "model")
    with torch.no_grad():
        for found, wanted in zip(
            loaded.encode_queries(batch.queries), model.encode_queries(batch.queries), strict=True
        ):
            assert torch.equal(found, wanted)
        assert torch.equal(
            loaded.encode_texts(batch.texts, batch.segments)[2], model.encode_texts(batch.texts, batch.segments)[2]
        )
    assert loaded.item_text_tower.tokens is loaded.query_tower.tokens
    assert "item_text_tower.tokens.weight" not in load_file(tmp_path / "model" / "weights.safetensors")


def test_words_that_training_never_meets_keep_their_vectors(encoder: Path) -> None:
    model = begun(encoder, variant="default")
    tokens = model.query_tower.tokens
    vectors = load_file(encoder / "words.safetensors")["vectors"][:, :32]
    cosines = torch.nn.functional.cosine_similarity(tokens.weight[1 : len(vectors)], vectors[1:])
    assert cosines.min() > 0.999
    assert tokens.weight.std().item() == pytest.approx(0.5, rel=0.05)
    first = tokens.weight.clone()
    met = torch.tensor([0, 5, 9, 11])
    tokens.train_difference(met)
    assert sum(p.numel() for p in tokens.parameters() if p.requires_grad) == 4 * 32
    optimizer = make_optimizer(model.train(), Optimisation(steps=9, learning_rate=0.1, weight_decay=0.5))
    ids = torch.tensor([[5, 9, 0], [11, 0, 30]])
    for _ in range(3):
        optimizer.zero_grad()
        model.encode_queries(ids)[0][:, 0].sum().backward()
        optimizer.step()
    tokens.fold()
    changed = (tokens.weight != first).any(1).nonzero().flatten().tolist()
    assert changed == [5, 9, 11]


def test_sums_and_single_vectors_agree_while_a_difference_is_trained() -> None:
    torch.manual_seed(0)
    tokens = TokenVectors(20, 8)
    tokens.train_difference(torch.arange(0, 10))
    assert tokens.difference is not None
    torch.nn.init.normal_(tokens.difference[1:].data)
    ids, weights = torch.randint(0, 20, (6, 5)), torch.rand(6, 5)
    single = (tokens(ids) * (weights * (ids != 0))[..., None]).sum(1)
    assert torch.allclose(tokens.weighted_sum(ids, weights), single, atol=1e-6)
    gradients = []
    for total in (tokens.weighted_sum(ids, weights), single):
        gradients.append(torch.autograd.grad(total.square().sum(), tokens.difference)[0])
    assert torch.allclose(*gradients, atol=1e-5)
    assert not gradients[0][0].any()
    expected = tokens(ids).detach()
    tokens.fold()
    assert torch.allclose(tokens(ids), expected, atol=1e-6)


def test_learning_rates_fall_by_layer_and_new_parts_have_the_stages_own(encoder: Path) -> None:
    model = begun(encoder, variant="smar", text={"learning_rate": 0.001, "layer_decay": 0.5})
    optimizer = make_optimizer(model, Optimisation(steps=9, learning_rate=0.01))
    share = {p: group["share"] for group in optimizer.param_groups for p in group["params"]}
    query, item = model.query_tower.encoder, model.item_text_tower.encoder
    assert [share[layer.output.dense.weight] for layer in query.encoder.layer] == pytest.approx(
        [0.0125, 0.025, 0.05, 0.1]
    )
    assert share[item.encoder.layer[0].output.dense.bias] == pytest.approx(0.1)
    assert share[query.embeddings.word_embeddings.weight] == pytest.approx(0.00625)
    assert share[model.query_projection.linear.weight] == share[model.query_tower.segments.weight] == 1
    slow = make_optimizer(model, Optimisation(steps=9, learning_rate=0.0001))  # below the encoder's own
    assert max(group["share"] for group in slow.param_groups) == 1
    assert slow.param_groups[0]["share"] == 1


def trained_names(module: torch.nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def test_an_encoder_is_locked_partly_locked_or_tuned(encoder: Path) -> None:
    def tower(trained: str) -> Any:
        return begun(encoder, text={"trained": trained, "last_blocks": 1}).train().query_tower

    assert trained_names(tower("tuned").encoder) == {name for name, _ in tower("tuned").encoder.named_parameters()}
    assert not trained_names(tower("locked").encoder)
    assert {name.split(".")[2] for name in trained_names(tower("partly").encoder)} == {"3"}
    blocks = tower("partly").encoder.encoder.layer
    assert [block.training for block in blocks] == [False, False, False, True]  # dropout of a locked block is off
    assert not tower("locked").encoder.training


def test_no_gradient_goes_through_a_locked_encoder_and_segments_are_learned_all_the_same(encoder: Path) -> None:
    ids, segments = torch.randint(5, 60, (3, 6)), torch.tensor([[0, 0, 1, 1, 2, 3]] * 3)
    for trained, seen in (("locked", False), ("tuned", True)):
        model = begun(encoder, text={"trained": trained}).train()
        vectors: list[torch.Tensor] = []
        model.item_text_tower.encoder.register_forward_hook(lambda _, __, output, kept=vectors: kept.append(output[0]))
        model.encode_texts(ids, segments)[2][:, 0].sum().backward()
        assert vectors[0].requires_grad is seen
        assert model.item_text_tower.segments.weight.grad.any(1).all()


def test_texts_of_about_one_length_together_change_nothing(encoder: Path) -> None:
    model = begun(encoder)
    ids = torch.randint(5, 60, (ROWS_TOGETHER + 20, 9))
    ids[torch.arange(9) >= torch.randint(0, 10, (len(ids), 1))] = 0
    with torch.no_grad():
        alone = model.encode_queries(ids)[0]
        together = model.train().encode_queries(ids)[0]
    assert torch.allclose(alone, together, atol=1e-5)


def test_a_model_of_before_texts_had_anything_around_them_is_loaded(encoder: Path, tmp_path: Path) -> None:
    new = begun(encoder, variant="text_only", text={"item_layers": 2})
    source = AutoModel.from_pretrained(encoder / "text").eval()
    old = RetrievalModel(Shape(**{n: getattr(new.shape, n) for n in Shape.__slots__} | {"text_form": None})).eval()
    for tower in (old.query_tower, old.item_text_tower):
        tower.encoder.load_state_dict(source.state_dict())
    assert old.query_tower.tokens is not old.item_text_tower.tokens
    (tmp_path / "tokenizer.json").write_text("{}")
    save_model(old, tmp_path / "model", tmp_path / "tokenizer.json")
    content = json.loads((tmp_path / "model" / "network.json").read_text())
    del content["text_form"], content["network"]["text"]["learning_rate"], content["network"]["text"]["layer_decay"]
    content["network"]["text"] |= {"pretrained": "/some/folder", "query_layers": 2}
    (tmp_path / "model" / "network.json").write_text(json.dumps(content))
    loaded = load_model(tmp_path / "model")
    ids = torch.randint(5, 60, (3, 6))
    with torch.no_grad():
        wanted = source(ids).last_hidden_state
        states, mask = loaded.query_tower(ids, torch.zeros_like(ids))
        assert mask.all()
        assert torch.allclose(states, loaded.query_tower.project(wanted), atol=1e-5)


def without_weights(folder: Path) -> None:
    (folder / "text" / "model.safetensors").unlink()


def without_a_layer(folder: Path) -> None:
    weights = BertModel.from_pretrained(folder / "text").state_dict()
    kept = {n: w.contiguous() for n, w in weights.items() if not n.startswith("encoder.layer.2.")}
    save_file(kept, folder / "text" / "model.safetensors", metadata={"format": "pt"})


def without_words(folder: Path) -> None:
    (folder / "words.safetensors").unlink()


def with_few_words(folder: Path) -> None:
    save_file({"vectors": torch.rand(9, 32)}, folder / "words.safetensors")


@pytest.mark.parametrize(
    ("damage", "text", "message"),
    [
        (None, {"query_layers": LAYERS + 1}, rf"query_layers.* is {LAYERS + 1}, the encoder has {LAYERS} layers"),
        (None, {"tower": "words", "width": 48}, r"network\.text\.width 48: .*words\.safetensors has vectors of 32"),
        (without_weights, {}, "not a text encoder with its weights"),
        (without_a_layer, {}, r"its weights lack encoder\.layer\.2\."),
        (without_words, {"tower": "words"}, r"words\.safetensors: no vectors of words"),
        (with_few_words, {"tower": "words"}, r"words\.safetensors: has 9 vectors for the 70 tokens"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(
    damage: Any, text: dict, message: str, encoder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(encoder, tmp_path / "tiny")
    if damage:
        damage(folder)
    with pytest.raises(InputError, match=message) as refused:
        begun(folder, text=text)
    assert "\n" not in str(refused.value)


def test_texts_longer_than_the_encoder_takes_are_refused(tmp_path: Path) -> None:
    folder = write_text_encoder(tmp_path / "tiny", max_position_embeddings=13, vocab_size=TOKENS)
    with pytest.raises(InputError, match=r"tokenizer\.item_length 12: .*at most 11 tokens"):
        begun(folder)
