"""A run leaves out days of the log that are not complete when it begins, says so, and keeps to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smar_model.errors import NoAnswer
from smar_model.lake.runs import Run, load_run
from smar_model.release.start import start_run
from tests.release.judged_runs import write_settings
from tests.tiny_shop import DAYS, LAST_DAY, write_tiny_shop


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    write_tiny_shop(tmp_path / "shop")
    return tmp_path


def mark(home: Path, *days: object) -> None:
    for day in days:
        (home / "shop" / "click_log" / f"dt={day}" / "_SUCCESS").touch()


def begin(home: Path, name: str) -> Run:
    shop = {"root": "shop", "visual_departments": ["Clothing"], "complete_day": {"marker": "_SUCCESS"}}
    path = write_settings(home, shop=shop)
    return start_run(settings_path=path, name=name, day=LAST_DAY, promotion="automatic", steps=())


def test_a_day_that_is_not_complete_is_left_out_and_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark(home, DAYS[0], DAYS[2])
    # What is delivered of it so far is not even looked at.
    (home / "shop" / "click_log" / f"dt={DAYS[1]}" / "part-0.parquet").write_bytes(b"half of it")
    run = begin(home, "nightly")
    assert f"left out as not complete: {DAYS[1]} has no _SUCCESS" in capsys.readouterr().out
    assert (run.days, run.training_days, run.evaluation_days) == ([DAYS[0], DAYS[2]], [DAYS[0]], [DAYS[2]])
    record = json.loads((home / "runs" / "nightly" / "run.json").read_text(encoding="utf-8"))
    assert record["left_out"] == {str(DAYS[1]): "has no _SUCCESS"}
    state = json.loads((home / "runs" / "nightly" / "start.json").read_text(encoding="utf-8"))
    assert state["metrics"]["days_left_out"] == f"{DAYS[1]} has no _SUCCESS"
    # Complete meanwhile: the run goes on with what it began with.
    mark(home, DAYS[1])
    assert load_run("nightly").days == run.days


@pytest.mark.parametrize(("complete", "what"), [(DAYS[:2], "judge"), (DAYS[2:], "train")])
def test_a_run_without_a_complete_day_to_train_or_judge_on_is_tried_again_later(
    complete: list[object], what: str, home: Path
) -> None:
    mark(home, *complete)
    with pytest.raises(
        NoAnswer, match=rf"click_log: no day to {what} on is complete \(.*has no _SUCCESS.*\); run again once"
    ):
        begin(home, "early")
    assert not (home / "runs" / "early" / "run.json").exists()
    mark(home, *DAYS)
    assert begin(home, "early").days == DAYS
