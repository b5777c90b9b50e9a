"""The training stages on a tiny shop: they learn, repeat, and stop on what cannot be trained."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from smar_model.errors import InputError
from smar_model.lake.artifacts import manifest_path
from smar_model.lake.runs import Run
from smar_model.lake.stage import StageContext, run_stage
from smar_model.settings import Optimisation
from smar_model.stages import STAGES
from smar_model.training import pretrain
from smar_model.training.batches import TrainingData
from smar_model.training.loop import learning_rate_at
from smar_model.training.model_files import load_model
from tests.tiny_shop import DATA_STAGES, run_stages, tiny_run

TRAINING = ("train-tokenizer", "adapt-vision", "encode-pictures", "pretrain", "finetune")
STEPS = {"steps": 60, "batch": 16, "learning_rate": 0.003}


@pytest.fixture(scope="module")
def shop(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = shutil.copytree(tiny_data, tmp_path_factory.mktemp("training"), dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder / "var"))
        yield folder / "shop"


@pytest.fixture(scope="module")
def run(shop: Path) -> Run:
    run = tiny_run(shop, training={"adapt_vision": STEPS, "pretrain": STEPS, "finetune": STEPS})
    run_stages(run, *DATA_STAGES, *TRAINING, "train-text-only")
    return run


@pytest.mark.parametrize(("stage", "part"), [("adapt-vision", "contrast"), ("pretrain", "text"), ("finetune", "gate")])
def test_each_stage_learns(stage: str, part: str, run: Run) -> None:
    history = json.loads(run.output(stage).file("history.json").read_text())
    assert history[-1]["step"] == STEPS["steps"]
    first, last = ([point[part] for point in stretch] for stretch in (history[:10], history[-10:]))
    assert sum(last) < 0.8 * sum(first)


def test_the_curves_show_more_than_losses_and_speed_comes_beside_them(run: Run) -> None:
    history = json.loads(run.output("finetune").file("history.json").read_text())
    watched = {name for point in history for name in point if name.startswith("watched/")}
    shares = {"watched/picture_share", "watched/gate_share", "watched/picture_gradient_share"}
    assert shares | {"watched/queries_cosine", "watched/multimodal_rank"} <= watched
    assert all(0 <= point[name] <= 1 for point in history for name in shares)
    metrics = run.output("finetune").metrics
    assert metrics["collapse_warnings"] == metrics["dominance_warnings"] == 0
    lines = (run.folder / "finetune.history.jsonl").read_text().splitlines()
    live = [json.loads(line) for line in lines]
    assert all(point.pop("pairs_per_second") > 0 for point in live)
    assert live == history


def test_training_ends_early_when_the_held_out_loss_does_not_fall(run: Run, shop: Path) -> None:
    idle = STEPS | {"patience": 2, "learning_rate": 1e-30}
    waiting = tiny_run(shop, "idle", training={"adapt_vision": STEPS, "pretrain": idle, "finetune": STEPS})
    run_stages(waiting, *DATA_STAGES, "train-tokenizer", "adapt-vision", "encode-pictures", "pretrain")
    output = waiting.output("pretrain")
    history = json.loads(output.file("history.json").read_text())
    assert [point["step"] for point in history] == [1, 2, 3]
    assert history[0]["held_out"] == history[2]["held_out"]
    assert output.metrics["pairs"] == 3 * STEPS["batch"]
    assert "held_out" not in json.loads(run.output("pretrain").file("history.json").read_text())[-1]


def test_nothing_is_learned_from_held_out_pairs(run: Run) -> None:
    inputs = {name: run.output(name) for name in ("train-tokenizer", "prepare-items")}
    context = StageContext(stage=STAGES["pretrain"], run=run, inputs=inputs, folder=run.folder, key="none")
    data = TrainingData(context, seed=0, pictures=False)
    batches = data.batches(32, 0.5)
    held_out = {key for batch in data.hold_out(batches, 3) for key in batch.query_keys.tolist()}
    learned = {key for batch in islice(batches, 50) for key in batch.query_keys.tolist()}
    assert held_out and not held_out & learned
    everything = {key for batch in islice(TrainingData(context, seed=0, pictures=False).batches(32, 0.5), 50)
                  for key in batch.query_keys.tolist()}  # fmt: skip
    assert held_out & everything


def test_pretraining_learns_the_text_loss_first_then_all_three(run: Run) -> None:
    history = json.loads(run.output("pretrain").file("history.json").read_text())
    losses = [{"text", "image", "multimodal"} & point.keys() for point in history]
    text_first = round(STEPS["steps"] * run.settings.training.text_first_share)
    assert losses[:text_first] == [{"text"}] * text_first
    assert losses[text_first:] == [{"text", "image", "multimodal"}] * (STEPS["steps"] - text_first)


def test_the_vision_encoder_stays_locked_after_its_adaptation(run: Run) -> None:
    adapted, tuned = (load_model(run.output(s).folder / "model") for s in ("adapt-vision", "finetune"))
    for name, weight in adapted.vision.state_dict().items():
        assert torch.equal(weight, tuned.vision.state_dict()[name]), name


@pytest.mark.parametrize("stage", ["train-tokenizer", "adapt-vision", "encode-pictures", "pretrain", "finetune"])
def test_training_again_gives_the_same_files(stage: str, run: Run) -> None:
    first = run.output(stage)
    manifest_path(stage, first.key).unlink()
    again = run_stage(STAGES[stage], run)
    assert again.folder != first.folder
    assert again.digest == first.digest


def test_the_baseline_has_the_models_text_towers_and_reads_no_picture(run: Run) -> None:
    model, own = (load_model(run.output(stage).folder / "model") for stage in ("train-text-only", "finetune"))
    assert model.variant.fusion is None
    assert model.variant.text_tower == own.variant.text_tower == "words"
    assert not any("vision" in name or "image" in name for name in model.state_dict())


FEW = {"steps": 4, "batch": 8}
OTHERS: dict[str, dict] = {
    "end-to-end": {"network": {"variant": "concat"}},
    "text-only": {"network": {"variant": "text_only"}},
    "query-heads": {"network": {"variant": "dpsr"}},
    "reranker": {"network": {"variant": "beyond_text_rerank"}},
    "soft": {"network": {"routing": "soft", "item_confidence": True, "frames": 2}, "precision": "bf16"},
    "per-pair": {"modality_weighting": "per_pair", "pretrain": FEW | {"random_negatives": 2, "chunk": 3}},
    "per-department": {"modality_weighting": "per_department"},
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_variants_train_through_all_stages(name: str, run: Run, shop: Path) -> None:
    sections = dict(OTHERS[name])
    network = sections.pop("network", {})
    training = {"adapt_vision": FEW, "pretrain": FEW, "finetune": FEW, "text_first_share": 0} | sections
    other = tiny_run(shop, name, network=network, training=training)
    for stage in (*DATA_STAGES, *TRAINING, "embed", "index"):
        run_stage(STAGES[stage], other)
    assert other.output("embed").metrics["items"] == 24
    for stage in ("pretrain", "finetune"):
        history = json.loads(other.output(stage).file("history.json").read_text())
        assert len(history) == FEW["steps"]
        assert all(math.isfinite(value) for point in history for value in point.values() if isinstance(value, float))


def test_weights_that_leave_nothing_to_learn_are_refused(run: Run, shop: Path) -> None:
    training = {"adapt_vision": FEW, "pretrain": FEW, "finetune": FEW, "modality_weights": [1.0, 1.0, 0.0]}
    other = tiny_run(shop, "nothing", network={"variant": "concat"}, training=training)
    run_stages(other, *DATA_STAGES, *TRAINING[: TRAINING.index("pretrain")])
    with pytest.raises(
        InputError, match=r"modality_weights \(1.0, 1.0, 0.0\): each loss that .* concat .* has weight 0"
    ):
        run_stage(STAGES["pretrain"], other)


def test_a_loss_that_is_not_finite_stops_with_its_step(run: Run, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = STEPS | {"steps": 5}
    wild = tiny_run(shop, "wild", training={"adapt_vision": STEPS, "pretrain": short, "finetune": STEPS})
    run_stages(wild, *DATA_STAGES, "train-tokenizer", "adapt-vision", "encode-pictures")
    losses, values = pretrain.three_losses, iter([1.0, math.nan])

    def broken(*arguments: Any, **options: Any) -> dict[str, torch.Tensor]:
        parts = losses(*arguments, **options)
        return parts | {"loss": parts["loss"] * next(values)}

    monkeypatch.setattr(pretrain, "three_losses", broken)
    with pytest.raises(
        InputError, match=r"step 1: the loss is not finite .*look at the batch: '.+' → item-\d+; .* \(16 pairs\)"
    ):
        run_stage(STAGES["pretrain"], wild)
    assert wild.find_output("pretrain") is None


def test_the_learning_rate_warms_up_and_decays() -> None:
    optimisation = Optimisation(steps=100, learning_rate=1.0, warmup_share=0.1)
    rates = [learning_rate_at(step, optimisation) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(rates[10]) == pytest.approx(1.0)
    assert rates[-1] < 0.06
    assert rates[10:] == sorted(rates[10:], reverse=True)
