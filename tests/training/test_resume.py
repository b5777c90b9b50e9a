"""A training that was stopped goes on as if nothing had happened, bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact, find_checkpoints, manifest_path
from smar_model.lake.encoder_store import encoder_place, resolve_encoders
from smar_model.lake.runs import Run, create_run
from smar_model.lake.stage import run_stage
from smar_model.lake.sweeping import sweep_orphans
from smar_model.stages import STAGES
from smar_model.training import checkpoints, loop
from smar_model.training.checkpoints import STATE_FILE
from smar_model.training.model_files import load_model
from smar_model.training.processes import first_rows
from tests.network.small_text_encoder import add_text_encoder
from tests.tiny_shop import DATA_STAGES, flip_byte, run_stages, tiny_run

STEPS = {"steps": 12, "batch": 16, "learning_rate": 0.003}
TRAINING = ("adapt-vision", "pretrain", "finetune", "train-text-only")
STAGES_RUN = ("train-tokenizer", "adapt-vision", "encode-pictures", "pretrain", "finetune", "train-text-only")


class Stopped(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture(scope="module")
def run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = shutil.copytree(tiny_data, tmp_path_factory.mktemp("resume"), dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder / "var"))
        training = {"adapt_vision": STEPS, "pretrain": STEPS | {"patience": 50}, "finetune": STEPS}
        training |= {"checkpoint_minutes": 0}
        run = tiny_run(folder / "shop", training=training, network={"dropout": 0.2})
        run_stages(run, *DATA_STAGES, *STAGES_RUN)
        yield run


def train_again(
    run: Run, stage: str, *, stop_after: int, patch: pytest.MonkeyPatch, phases: int = 0, taken_again: int = 0
) -> Artifact:
    """Without the finished output: once until it is stopped, then to the end.

    Args:
        taken_again: steps of before the stop that are expected to be taken once more.
    """
    output = run.output(stage)
    sweep_orphans()
    manifest_path(stage, output.key).unlink()
    step, whole = 0, loop.backward

    def backward(*arguments: Any, **options: Any) -> Any:
        nonlocal step
        if step == stop_after:
            raise Stopped
        step += 1
        return whole(*arguments, **options)

    patch.setattr(loop, "backward", backward)
    with pytest.raises(Stopped):
        run_stage(STAGES[stage], run)
    assert len(find_checkpoints(stage)) >= 1
    step, stop_after = 0, -stop_after
    again = run_stage(STAGES[stage], run)
    phases = phases or (2 if stage == "train-text-only" else 1)
    assert step == phases * STEPS["steps"] + stop_after + taken_again
    return again


@pytest.fixture
def pretrained_run(run: Run) -> Run:
    """Text towers that begin from a pretrained encoder: learning rates by layer, and token vectors of which a part is trained."""
    add_text_encoder("tiny")
    network = {"variant": "text_only", "text": {"pretrained": "tiny", "tower": "transformer", "width": 16, "heads": 2}}
    training = run.settings.training.model_dump() | {"pretrain": STEPS}
    encoder = tiny_run(
        run.settings.shop_root,
        "pretrained",
        training=training,
        network=network,
        tokenizer={"query_length": 6, "item_length": 12},
    )
    encoder = replace(encoder, name="pretrained-encoder", encoders=resolve_encoders(encoder.settings))
    create_run(encoder)
    run_stages(encoder, *DATA_STAGES, "train-tokenizer", "train-text-only")
    return encoder


def test_a_training_from_a_pretrained_encoder_is_resumed_too(
    pretrained_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = pretrained_run.output("train-text-only")
    model = load_model(wanted.folder / "model")
    encoder = encoder_place("tiny")
    begun = load_file(encoder / "text" / "model.safetensors")["embeddings.word_embeddings.weight"]
    moved = (model.query_tower.tokens.weight != begun).any(1)
    counts = np.load(pretrained_run.output("train-tokenizer").file("tokens/counts.npy"))
    assert not moved[torch.from_numpy(counts == 0)].any()
    assert moved.any()
    again = train_again(pretrained_run, "train-text-only", stop_after=STEPS["steps"] + 5, patch=monkeypatch)
    assert again.digest == wanted.digest


@pytest.mark.parametrize("stop_after", [1, 9])
@pytest.mark.parametrize("stage", TRAINING)
def test_a_stopped_training_ends_as_an_uninterrupted_one(
    stage: str, stop_after: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = run.output(stage)
    again = train_again(run, stage, stop_after=stop_after, patch=monkeypatch)
    assert again.folder != wanted.folder
    assert again.digest == wanted.digest


def test_the_second_phase_of_a_stage_is_resumed_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = run.output("train-text-only")
    again = train_again(run, "train-text-only", stop_after=STEPS["steps"] + 5, patch=monkeypatch)
    assert again.digest == wanted.digest


def test_a_damaged_checkpoint_is_set_aside_and_the_training_begins_without_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted, restore = run.output("finetune"), loop.Checkpoints.restore

    def damaged(self: Any, *arguments: Any) -> Any:
        for checkpoint in find_checkpoints("finetune"):
            flip_byte(checkpoint.place / STATE_FILE)
        return restore(self, *arguments)

    monkeypatch.setattr(loop.Checkpoints, "restore", damaged)
    train_again(run, "finetune", stop_after=3, patch=monkeypatch, taken_again=3)
    assert "finetune-checkpoint" in (said := capsys.readouterr().err) and "is set aside" in said
    assert run.output("finetune").digest == wanted.digest


def test_a_spoiled_random_generator_shows(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = run.output("pretrain")
    restore = loop.Checkpoints.restore

    def spoiled(self: Any, model: Any, optimizer: Any, random: Any) -> Any:
        progress = restore(self, model, optimizer, random)
        if progress:
            random.random()
        return progress

    monkeypatch.setattr(loop.Checkpoints, "restore", spoiled)
    again = train_again(run, "pretrain", stop_after=3, patch=monkeypatch)
    assert again.digest != wanted.digest


def test_chunks_cut_a_batch_alike_in_any_number_of_processes_whose_shares_they_divide() -> None:
    assert first_rows(16, 1, 4) == first_rows(16, 2, 4) == first_rows(16, 4, 4) == [0, 4, 8, 12]
    assert first_rows(16, 1, None) == [0] and first_rows(16, 2, None) == [0, 8]
    assert first_rows(16, 2, 5) == [0, 5, 8, 13]


def test_checkpoints_of_a_finished_output_are_swept(run: Run) -> None:
    output = run.output("finetune")
    manifest_path("finetune", output.key).unlink()
    run_stage(STAGES["finetune"], run)
    assert find_checkpoints("finetune")
    sweep_orphans()
    assert not find_checkpoints("finetune")


def test_another_number_of_processes_is_refused_where_dropout_would_fall_otherwise(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The last one here: it leaves the run without a pretraining.
    processes = iter([2, 2, 2, 1])
    monkeypatch.setattr(checkpoints, "processes", lambda: next(processes))
    with pytest.raises(
        InputError, match=r"after step 3 was made by 2 process\(es\); dropout, .* would be another in 1"
    ):
        train_again(run, "pretrain", stop_after=3, patch=monkeypatch)
