"""`smar encoder add` of folders that are broken, foreign or pickled: refused in one line, and nothing stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2Model

from smar_model.encoders.adding import add_encoder
from smar_model.errors import InputError
from tests.encoders.small_encoders import write_bert, write_timm, write_tokenizer


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def add(name: str, source: Path) -> None:
    add_encoder(name, str(source), report=lambda line: None)


def left(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "encoders").iterdir() if not path.name.startswith(".lock"))


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def other_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: t for name, t in tensors.items() if "layer.1" not in name},
        folder / "model.safetensors",
        {"format": "pt"},
    )


def unnumbered_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: t * float("nan") for name, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


def one_token_unnumbered(folder: Path) -> None:
    """Of one that the text which tries the model does not have."""
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"][7] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def indexed(folder: Path, shard: str) -> None:
    """Let an index name the file that has the weights, in the place of model.safetensors."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if shard.endswith(".bin"):
        torch.save(tensors, folder / shard)
    elif not shard.startswith("lost"):
        save_file(tensors, folder / shard, {"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(tensors, shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def index_of_pickles(folder: Path) -> None:
    indexed(folder, "part-1.bin")


def index_of_files_elsewhere(folder: Path) -> None:
    indexed(folder, "../part-1.safetensors")


def index_of_lost_files(folder: Path) -> None:
    indexed(folder, "lost-1.safetensors")


def index_of_nothing(folder: Path) -> None:
    indexed(folder, "part-1.safetensors")
    (folder / "model.safetensors.index.json").write_text("[]")


def no_heads(folder: Path) -> None:
    changed(folder, num_attention_heads=0)


def fewer_positions(folder: Path) -> None:
    changed(folder, max_position_embeddings=20)


def words_for_a_number(folder: Path) -> None:
    changed(folder, num_hidden_layers="two")


def quantized(folder: Path) -> None:
    changed(folder, quantization_config={"quant_method": "gptq", "bits": 4})


def own_code(folder: Path) -> None:
    changed(folder, auto_map={"AutoModel": "modelling.Net"})


def unknown_kind(folder: Path) -> None:
    changed(folder, model_type="no_such_model")


def no_kind(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{cut")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def larger_tokenizer(folder: Path) -> None:
    write_tokenizer(folder, (*(f"w{n}" for n in range(100)), "a"))


def changed(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


BROKEN: dict[Callable[[Path], None], str] = {
    without_weights: r"model\.safetensors: there is no such file",
    pickled_weights: r"pytorch_model\.bin: pickled weights, which can run code .*'Pickled weights'",
    cut_weights: r"not a model that transformers reads",
    other_weights: r"16 lack or have another shape, such as encoder\.layer\.1",
    unnumbered_weights: r"its weights are not all numbers",
    one_token_unnumbered: r"its weights are not all numbers, such as those of embeddings\.word_embeddings\.weight",
    index_of_pickles: r"model\.safetensors\.index\.json: names 'part-1\.bin'; taken are safetensors beside it",
    index_of_files_elsewhere: r"index\.json: names '\.\./part-1\.safetensors'; taken are safetensors beside it",
    index_of_lost_files: r"lost-1\.safetensors: there is no such file, which model\.safetensors\.index\.json names",
    index_of_nothing: r"model\.safetensors\.index\.json: not an index of weights",
    no_heads: r"not a model that transformers reads: integer .*modulo by zero",
    fewer_positions: r"1 lack or have another shape, such as embeddings\.position_embeddings\.weight",
    words_for_a_number: r"Validation error for field 'num_hidden_layers': .*expected int, got str",
    quantized: r"not a model that transformers reads: Loading a GPTQ quantized model requires",
    own_code: r"config\.json: names code of the model's own \(auto_map\), which is never run",
    unknown_kind: r"no_such_model|not a model that transformers reads|no tokenizer",
    no_kind: r"config\.json: says neither `model_type`",
    no_json: r"config\.json: not readable JSON",
    no_config: r"config\.json: there is no such file",
    no_tokenizer: r"has no tokenizer; a text encoder's folder has one of tokenizer\.json",
    larger_tokenizer: r"its tokenizer has token 105, its weights 16 tokens",
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_a_folder_that_is_no_whole_text_encoder_is_refused(
    damage: Callable[[Path], None], tmp_path: Path, home: Path
) -> None:
    write_bert(tmp_path / "bert")
    damage(tmp_path / "bert")
    with pytest.raises(InputError, match=BROKEN[damage]) as refused:
        add("small", tmp_path / "bert")
    assert "\n" not in str(refused.value) and str(tmp_path) in str(refused.value)
    assert left(home) == []


def test_a_model_that_writes_is_no_encoder(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=1, add_cross_attention=True, is_decoder=True)
    GPT2Model(config).save_pretrained(tmp_path / "gpt")
    write_tokenizer(tmp_path / "gpt")
    with pytest.raises(InputError, match="not a text encoder as the towers ask for one: it is a decoder"):
        add("gpt", tmp_path / "gpt")


def test_a_folder_that_is_no_whole_vision_encoder_is_refused(tmp_path: Path, home: Path) -> None:
    folder = tmp_path / "net"
    write_timm(folder)
    changed(folder, architecture="no_such_net")
    with pytest.raises(InputError, match=r"net: not a model that timm reads \(architecture 'no_such_net'\)"):
        add("net", folder)
    changed(folder, architecture="test_vit")
    with pytest.raises(InputError, match="not a model that timm reads"):
        add("net", folder)
    pickled_weights(folder)
    with pytest.raises(InputError, match=r"pytorch_model\.bin: pickled weights"):
        add("net", folder)
    assert left(home) == []
