"""A second day builds on the first: its pretraining is taken, the champion is fine-tuned further, and when it is not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from smar_model.errors import InputError
from smar_model.lake.artifacts import manifest_path
from smar_model.lake.earlier_outputs import Release
from smar_model.lake.runs import Run, create_run
from smar_model.lake.stage import run_stage
from smar_model.release.starting_points import earlier_release, find_base, starting_points
from smar_model.settings import validate_settings
from smar_model.stages import STAGES
from smar_model.training.finetune import misfit
from smar_model.training.model_files import load_model, save_model
from smar_model.training.model_folder import model_digest
from tests.earlier_models import a_release
from tests.evaluation.published_run import NETWORK, PublishedRun, write_clicks, write_items, write_labels, write_queries
from tests.network.small_models import small_model
from tests.tiny_shop import DAYS, flip_byte, publish_with, tiny_events, tiny_items, tiny_settings

STEPS = {"steps": 4, "batch": 8, "learning_rate": 0.003}
NOTHING = {"steps": 1, "batch": 8, "learning_rate": 1e-30}
TRAINING = ("train-tokenizer", "adapt-vision", "encode-pictures", "pretrain", "finetune")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("economy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder))
        yield folder


def planned(home: Path, name: str, day: date, *, pictures: dict[str, int] | None = None, **training: Any) -> Run:
    """A run over the day and the one before it, which it learns from; not recorded yet."""
    training = {"adapt_vision": STEPS, "pretrain": STEPS, "finetune": STEPS} | training
    sections = {"window": {"days": 2, "evaluation_days": 1}, "network": NETWORK, "pictures": pictures or {}}
    settings = tiny_settings(home / "shop", training=training, **sections)
    return Run(name=name, date=day, settings_source="tests", settings=settings, champion=None, promotion="automatic")


def started(run: Run, champion: Release | None) -> Run:
    """Recorded as `smar start` does, its data half published."""
    run = create_run(replace(run, champion=champion, **starting_points(run, champion)))
    items = tiny_items()
    events = {day: tiny_events(day, items) for day in run.days}
    published = PublishedRun(run=run, root=run.folder)
    published.publish("prepare-items", lambda folder: write_items(folder, items))
    published.publish("extract-clicks", lambda folder: write_clicks(folder, events))
    published.publish("generate-queries", lambda folder: write_queries(folder, items))
    published.publish("label-fashion", lambda folder: write_labels(folder, events, items))
    published.publish("check-data", lambda folder: None)
    return run


def train(run: Run) -> None:
    for stage in TRAINING:
        run_stage(STAGES[stage], run)
    decide(run, "promote")


def decide(run: Run, decision: str) -> None:
    run.write_state("gate", "finished", metrics={"decision": decision})


def as_champion(run: Run, version: str) -> Release:
    made = run.output("finetune")
    return a_release(
        version=version,
        run=run.name,
        cutoff=run.cutoff.isoformat(),
        model_digest=made.manifest["content"]["model"],
        model_folder=str(made.folder / "model"),
    )


@pytest.fixture(scope="module")
def first(home: Path) -> Run:
    run = started(planned(home, "first", DAYS[1]), None)
    train(run)
    return run


@pytest.fixture(scope="module")
def second(home: Path, first: Run) -> Run:
    run = started(planned(home, "second", DAYS[2], finetune=NOTHING), as_champion(first, "1"))
    train(run)
    return run


def test_the_first_day_pretrains(first: Run) -> None:
    assert (first.base, first.warm_start) == (None, None)
    assert first.output("finetune").metrics["started_from"] == "pretraining"
    assert first.output("pretrain").metrics["trained_up_to"] == str(DAYS[1])


def test_a_second_day_takes_the_first_ones_pretraining(first: Run, second: Run) -> None:
    assert second.base and second.base.run == "first"
    for stage in ("adapt-vision", "pretrain"):
        assert second.output(stage).key == first.output(stage).key
        state = second.state(stage)
        assert state and state["reused"] and state["metrics"]["taken_from"] == "first"
    tokens = [run.output("train-tokenizer") for run in (first, second)]
    assert tokens[0].file("tokenizer.json").read_bytes() == tokens[1].file("tokenizer.json").read_bytes()
    # The day's own clicks, under the first day's vocabulary.
    assert tokens[0].manifest["content"]["tokens"] != tokens[1].manifest["content"]["tokens"]
    assert second.output("encode-pictures").digest == first.output("encode-pictures").digest


def test_fine_tuning_goes_on_from_exactly_the_champion(first: Run, second: Run) -> None:
    metrics = second.output("finetune").metrics
    assert metrics["started_from"] == f"version 1, trained up to {DAYS[1]}"
    champion, pretrained, tuned = (
        load_model(run.output(stage).folder / "model")
        for run, stage in ((first, "finetune"), (first, "pretrain"), (second, "finetune"))
    )
    for name, weight in tuned.named_parameters():  # its steps were too small to move any
        assert torch.equal(weight, champion.get_parameter(name)), name
    assert any(not torch.equal(w, pretrained.get_parameter(name)) for name, w in tuned.named_parameters())


def test_the_same_run_again_gives_the_same_and_another_champion_does_not(home: Path, first: Run, second: Run) -> None:
    made = second.output("finetune")
    manifest_path("finetune", made.key).unlink()
    again = run_stage(STAGES["finetune"], second)
    assert (again.key, again.digest) == (made.key, made.digest)
    folder = shutil.copytree(first.output("finetune").folder / "model", home / "other" / "model")
    with (folder / "network.json").open("a") as file:
        file.write("\n")
    other = replace(as_champion(first, "2"), model_digest=model_digest(folder), model_folder=str(folder))
    follower = started(planned(home, "other-champion", DAYS[2], finetune=NOTHING), other)
    train(follower)
    assert follower.output("finetune").key != made.key


def test_a_second_run_of_a_day_starts_where_the_first_did(home: Path, first: Run, second: Run) -> None:
    champion = as_champion(second, "2")
    again = started(planned(home, "second-again", DAYS[2], finetune=NOTHING), champion)
    assert (again.base, again.warm_start) == (second.base, second.warm_start)
    train(again)
    assert again.output("finetune").key == second.output("finetune").key
    assert earlier_release(planned(home, "x", DAYS[1]), champion) is None
    assert earlier_release(planned(home, "x", DAYS[2] + timedelta(days=1)), champion) == champion
    assert earlier_release(second, replace(champion, run="elsewhere")) is None


def test_never_pretrains_and_takes_no_champion(home: Path, first: Run) -> None:
    points = starting_points(planned(home, "x", DAYS[2], reuse_pretraining="never"), as_champion(first, "1"))
    assert not any(points.values())


@pytest.mark.parametrize(("days", "policy", "reused"), [(7, "auto", True), (8, "auto", False), (8, "always", True)])
def test_how_old_a_pretraining_may_be(
    days: int, policy: str, reused: bool, home: Path, first: Run, second: Run
) -> None:
    base = find_base(planned(home, "x", DAYS[1] + timedelta(days=days), reuse_pretraining=policy))
    assert (base is not None) is reused
    # Not the second run's, which has no pretraining of its own.
    assert base is None or base.run == "first"


def test_a_pretraining_of_the_same_day_or_a_later_one_is_none_to_build_on(home: Path, first: Run) -> None:
    for day in (DAYS[1], DAYS[0]):
        assert find_base(planned(home, "x", day, reuse_pretraining="always")) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"pretrain": STEPS | {"steps": 5}},
        {"adapt_vision": STEPS | {"steps": 5}},
        {"picture_views": 2},
        {"pictures": {"width": 64}},
    ],
)
def test_other_settings_before_pretraining_need_another(changed: dict[str, Any], home: Path, first: Run) -> None:
    assert find_base(planned(home, "x", DAYS[2])) is not None
    assert find_base(planned(home, "x", DAYS[2], finetune=STEPS | {"steps": 5})) is not None
    assert find_base(planned(home, "x", DAYS[2], **changed)) is None


def test_other_code_before_pretraining_needs_another(home: Path, first: Run) -> None:
    made = first.output("generate-queries")
    publish_with(made.stage, made.key, made_by="0" * 64)
    try:
        assert find_base(planned(home, "other-code", DAYS[2])) is None
    finally:
        publish_with(made.stage, made.key, made_by=made.manifest["made_by"])


def test_bounds_of_checks_may_differ(home: Path, first: Run) -> None:
    looser = planned(home, "x", DAYS[2])
    content = looser.settings.model_dump(mode="json")
    content["checks"]["minimum_agreement"] = 0.5
    looser = replace(looser, settings=validate_settings(content, source="tests"))
    assert find_base(looser) == find_base(planned(home, "x", DAYS[2])) is not None


def test_a_pretraining_whose_model_was_refused_or_never_judged_is_none_to_build_on(home: Path, first: Run) -> None:
    try:
        decide(first, "keep")
        assert find_base(planned(home, "x", DAYS[2])) is None
        (first.folder / "gate.json").unlink()
        assert find_base(planned(home, "x", DAYS[2])) is None
    finally:
        decide(first, "promote")


def test_an_oracles_pretraining_is_none_to_build_on(home: Path, first: Run) -> None:
    items = first.output("prepare-items")
    try:
        first.write_state("prepare-items", "finished", key=first.output("label-fashion").key, output_of="label-fashion")
        assert find_base(planned(home, "x", DAYS[2])) is None
    finally:
        first.take(items, stage="prepare-items")


def test_a_pretraining_that_is_damaged_is_not_built_on_and_made_again_where_it_was(
    home: Path, first: Run, second: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    made, tuned = first.output("pretrain"), second.output("finetune")
    weights = made.file("model/weights.safetensors")
    flip_byte(weights)
    assert find_base(planned(home, "x", DAYS[2])) is None
    assert f"passed over: {weights}: missing or damaged" in capfd.readouterr().err
    # The second day reads what the first one has made: that one's run makes it again.
    manifest_path("finetune", tuned.key).unlink()
    again = run_stage(STAGES["finetune"], second)
    said = capfd.readouterr().err
    assert said.count(str(weights)) == said.count("is set aside") == 1
    assert "smar pretrain --run first makes it again" in said
    assert (again.key, again.digest) == (tuned.key, tuned.digest)
    anew = first.output("pretrain")
    assert anew.place != made.place and anew.folder and anew.digest == made.digest
    assert find_base(planned(home, "x", DAYS[2])) == second.base


def test_a_pretraining_that_is_gone(home: Path, second: Run) -> None:
    assert second.base
    gone = replace(second, name="gone", base=replace(second.base, keys=second.base.keys | {"pretrain": "0" * 64}))
    with pytest.raises(
        InputError, match="run gone: builds on the pretraining of run first, whose output of 'pretrain' is gone"
    ):
        run_stage(STAGES["pretrain"], gone)


def test_a_champion_that_is_gone_stops_fine_tuning(home: Path, first: Run) -> None:
    champion = replace(as_champion(first, "1"), model_digest="another", model_folder=str(home / "nowhere"))
    run = started(planned(home, "no-model", DAYS[2]), champion)
    with pytest.raises(InputError, match=r"nowhere: the model of version 1, .* is gone; start a new run"):
        train(run)
    assert run.find_output("finetune") is None


def test_weights_that_do_not_fit_are_left(home: Path, first: Run, tmp_path: Path) -> None:
    tokenizer, another = first.output("train-tokenizer").file("tokenizer.json"), tmp_path / "tokenizer.json"
    another.write_text("{}")
    save_model(small_model(), tmp_path / "own", tokenizer)
    torch.manual_seed(1)
    tuned = small_model()
    for name, weight in tuned.named_parameters():
        if not name.startswith("vision."):
            torch.nn.init.normal_(weight)
    save_model(tuned, tmp_path / "tuned", tokenizer)
    save_model(tuned, tmp_path / "other words", another)
    save_model(small_model(image_layers=2), tmp_path / "larger", tokenizer)
    torch.nn.init.normal_(next(tuned.vision.parameters()))
    save_model(tuned, tmp_path / "other eyes", tokenizer)
    found = {
        name: misfit(tmp_path / name, tmp_path / "own") for name in ("tuned", "other words", "larger", "other eyes")
    }
    assert found == {
        "tuned": None,
        "other words": "tokenizer",
        "larger": "architecture",
        "other eyes": "vision encoder",
    }
    larger = tmp_path / "larger"
    release = replace(as_champion(first, "1"), model_folder=str(larger), model_digest=model_digest(larger))
    run = started(planned(home, "misfit", DAYS[2], finetune=NOTHING), release)
    train(run)
    assert run.output("finetune").metrics["started_from"] == "pretraining, as version 1 has another architecture"
