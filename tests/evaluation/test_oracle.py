"""`smar train-oracle`, and how a later run finds an oracle to be judged beside."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from smar_model.cli import app
from smar_model.errors import InputError
from smar_model.evaluation.oracle import train_oracle
from smar_model.lake.runs import Run, load_run
from smar_model.lake.stage import stage_inputs
from smar_model.lake.stage_key import key_parts
from smar_model.release.starting_points import find_oracle
from smar_model.stages import COMPARISON_STAGES, STAGES
from smar_model.training.model_files import load_model
from tests.evaluation.published_run import publish_run


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    folder = tmp_path_factory.mktemp("oracle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder / "home"))
        published = publish_run(folder / "shop", with_truth=True, variant="default")
        result = CliRunner().invoke(app, ["train-oracle", "--run", "tiny"])
        assert result.exit_code == 0, result.output
        assert "run tiny-oracle-visible" in result.output
    return published.run, folder / "home"


@pytest.fixture
def run(run_once: tuple[Run, Path], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("SMAR_HOME", str(run_once[1]))
    return run_once[0]


def test_an_oracle_is_trained_on_the_runs_tables_as_text_only_is_but_told_truth(run: Run) -> None:
    told = load_run("tiny-oracle-visible")
    model = load_model(told.output("finetune").folder / "model")
    assert (model.shape.network.variant, model.shape.network.text.tower) == ("oracle", "words"), "as `default` has them"
    assert told.output("finetune").metrics["pairs"] == 4 * 8
    for stage in ("extract-clicks", "generate-queries", "label-fashion"):
        assert told.output(stage).key == run.output(stage).key
    own, revealed = (pq.read_table(r.output("prepare-items").files("catalogue")).to_pylist() for r in (run, told))
    assert [row["item_id"] for row in own] == [row["item_id"] for row in revealed]
    assert all("colour" in dict(row["attributes"]) for row in revealed)
    assert run.output("prepare-items").stage == "prepare-items"
    before = told.output("finetune").key
    assert train_oracle(run, "visible", COMPARISON_STAGES).output("finetune").key == before, (
        "a second call trains nothing"
    )


def test_a_later_run_finds_the_newest_oracle_that_does_not_know_its_evaluation_days(run: Run) -> None:
    told = load_run("tiny-oracle-visible")
    found = find_oracle(run)
    assert found is not None
    assert (found.run, found.truth, found.cutoff) == (told.name, "visible", run.cutoff.isoformat())
    assert Path(found.model_folder).is_dir()
    assert find_oracle(replace(run, date=run.date + timedelta(days=6))) == found
    assert find_oracle(replace(run, date=run.date - timedelta(days=1))) is None, "it has learned from those days"
    other = run.settings.model_copy(update={"shop": run.settings.shop.model_copy(update={"root": Path("another")})})
    assert find_oracle(replace(run, settings=other)) is None
    # Of the same day the one told all is second to the one told what pictures show.
    train_oracle(run, "all", COMPARISON_STAGES)
    assert find_oracle(run) == found


def test_which_oracle_it_was_is_part_of_the_evaluations_key(run: Run) -> None:
    parts = []
    for oracle in (None, find_oracle(run)):
        stage = replace(STAGES["evaluate"], inputs=("prepare-items",), optional_inputs=(), raw=())
        asked = replace(run, oracle=oracle)
        parts.append(key_parts(stage, asked, stage_inputs(stage, asked)))
    assert parts[0]["release"] is None
    assert parts[1]["release"] == [find_oracle(run).model_digest]


def test_an_oracle_that_is_gone_or_unknown_is_refused_or_passed_over(run: Run, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(InputError, match="--truth some: give one of all, visible"):
        train_oracle(run, "some", COMPARISON_STAGES)
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))
    plain = publish_run(tmp_path / "plain", with_truth=False).run
    with pytest.raises(InputError, match="an oracle needs a shop with truth"):
        train_oracle(plain, "visible", COMPARISON_STAGES)
    assert find_oracle(plain) is None, "its run has begun, but there is no model"
