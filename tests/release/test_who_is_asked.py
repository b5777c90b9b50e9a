"""Where a run has nothing to do or nobody to ask, its command says so by exit code 99 (tests of Airflow: tests/laptop)."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from smar_model.errors import InputError, NothingToDo
from smar_model.lake.publishing import Attempt
from smar_model.release.describe_decision import refuse_idle_question
from smar_model.release.start import start_run
from tests.tiny_shop import LAST_DAY, tiny_run, tiny_settings, write_tiny_shop


def test_a_refresh_needs_a_champion_and_no_click_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    root = write_tiny_shop(tmp_path / "shop")
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump(tiny_settings(root).model_dump(mode="json")), encoding="utf-8")

    def start(name: str, release: str | None) -> None:
        start_run(settings_path=settings, name=name, day=LAST_DAY, promotion="automatic", steps=(), release=release)

    for release in ("champion", "previous"):
        with pytest.raises(NothingToDo, match="champion"):
            start(f"refresh-{release}", release)
    start("trains", None)
    shutil.rmtree(root / "click_log")  # not delivered yet
    with pytest.raises(NothingToDo):
        start("refresh", "champion")
    with pytest.raises(InputError, match="click_log"):
        start("trains-too", None)


def test_nobody_is_asked_where_a_word_would_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    run = replace(tiny_run(write_tiny_shop(tmp_path / "shop")), promotion="ask")

    def decide(promote: bool, verdict: str) -> None:
        attempt = Attempt("gate", verdict.replace(" ", "-"))
        decision = {"promote": promote, "verdict": verdict, "better": [], "compared_with": {}, "reasons": []}
        (attempt.folder / "decision.json").write_text(json.dumps(decision), encoding="utf-8")
        run.take(attempt.publish(metrics={}, inputs={}, settings={}), stage="gate")

    with pytest.raises(InputError, match="gate"):
        refuse_idle_question(run)
    decide(True, "promote")
    refuse_idle_question(run)
    for policy in ("automatic", "never"):
        with pytest.raises(NothingToDo, match=policy):
            refuse_idle_question(replace(run, promotion=policy))  # type: ignore[arg-type]
    decide(False, "keep the champion")
    with pytest.raises(NothingToDo, match="keep the champion"):
        refuse_idle_question(run)
