"""Pairs that are not whole, or of a form that cannot be taken over, are refused in one line and leave nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from smar_model.encoders import aligned_pairs
from smar_model.encoders.adding import add_encoder
from smar_model.errors import InputError
from tests.encoders.small_pairs import write_open_clip, write_pair


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def refused(folder: Path, home: Path) -> str:
    with pytest.raises(InputError) as error:
        add_encoder("pair", str(folder), words=False, report=lambda line: None)
    assert [path for path in (home / "encoders").iterdir() if not path.name.startswith(".lock")] == []
    assert "\n" not in str(error.value)
    return str(error.value)


def drop(file: Path, part: str) -> None:
    tensors = load_file(file)
    save_file({name: tensor for name, tensor in tensors.items() if part not in name}, file, {"format": "pt"})


def test_a_pair_that_lacks_its_projection_is_refused(tmp_path: Path, home: Path) -> None:
    write_pair(tmp_path / "clip", "clip")
    drop(tmp_path / "clip" / "model.safetensors", "visual_projection")
    assert "1 lack or have another shape, such as visual_projection.weight" in refused(tmp_path / "clip", home)


def test_a_vision_tower_that_would_answer_otherwise_is_refused(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pair(tmp_path / "siglip", "siglip")
    pooling: Callable[..., dict[str, torch.Tensor]] = aligned_pairs._pooling
    wrong = {"attn_pool.q.weight": torch.zeros(24, 24)}
    monkeypatch.setattr(aligned_pairs, "_pooling", lambda *asked: pooling(*asked) | wrong)
    assert "its vision tower, as timm has it, embeds a picture otherwise by" in refused(tmp_path / "siglip", home)


@pytest.mark.parametrize("side", ["vision_cfg", "text_cfg"])
def test_towers_that_transformers_has_no_clip_for_are_refused(side: str, tmp_path: Path, home: Path) -> None:
    write_open_clip(tmp_path / "open")
    file = tmp_path / "open" / "open_clip_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    named = "timm_model_name" if side == "vision_cfg" else "hf_model_name"
    config["model_cfg"][side][named] = "another"
    file.write_text(json.dumps(config), encoding="utf-8")
    said = refused(tmp_path / "open", home)
    assert "not a pair that transformers' CLIP can express" in said and f"it names {named}" in said


def test_an_open_clip_that_lacks_weights_is_refused(tmp_path: Path, home: Path) -> None:
    write_open_clip(tmp_path / "open")
    drop(tmp_path / "open" / "open_clip_model.safetensors", "resblocks.2.mlp")
    assert "not a pair that transformers' CLIP can express" in refused(tmp_path / "open", home)


def test_an_open_clip_whose_pictures_go_through_a_resnet_is_refused(tmp_path: Path, home: Path) -> None:
    write_open_clip(tmp_path / "open")
    file = tmp_path / "open" / "open_clip_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["model_cfg"]["vision_cfg"]["layers"] = [3, 4, 6, 3]
    file.write_text(json.dumps(config), encoding="utf-8")
    assert "not a pair that transformers' CLIP can express" in refused(tmp_path / "open", home)


def test_texts_with_weights_that_are_no_numbers_are_refused(tmp_path: Path, home: Path) -> None:
    write_pair(tmp_path / "siglip", "siglip")
    file = tmp_path / "siglip" / "model.safetensors"
    tensors = load_file(file)
    tensors["text_model.embeddings.token_embedding.weight"][3] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    assert "its weights are not all numbers, such as those of text_model" in refused(tmp_path / "siglip", home)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{cut", "not readable JSON"),
        ("[]", "which is an object"),
        ('{"image_mean": null}', "image_mean is None; three numbers from 0 to 1 belong there"),
        ('{"image_mean": "abc"}', "image_mean is 'abc'"),
        ('{"image_std": [0.5, 0, 0.5]}', "image_std is [0.5, 0, 0.5]"),
    ],
)
def test_colours_that_no_picture_can_be_normalised_with_are_refused(
    content: str, said: str, tmp_path: Path, home: Path
) -> None:
    write_pair(tmp_path / "clip", "clip")
    file = tmp_path / "clip" / "preprocessor_config.json"
    file.write_text(content, encoding="utf-8")
    assert (line := refused(tmp_path / "clip", home)).startswith(f"{file}: ") and said in line
