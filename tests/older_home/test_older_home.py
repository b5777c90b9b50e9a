"""A home folder that an older version made, with two releases, goes on working. `make_home.py` says how it was made."""

from __future__ import annotations

import json
import os
import sqlite3
import tarfile
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from smar_model.checks.outcomes import read_checks
from smar_model.cli import app
from smar_model.evaluation.decision import read_decision
from smar_model.evaluation.evaluation_record import read_evaluation
from smar_model.lake.runs import Run, find_runs
from smar_model.release.registry import Registry
from smar_model.release.starting_points import starting_points
from smar_model.serving.served_pair import open_release, open_text_only, why_no_text_only
from smar_model.settings import load_settings
from smar_model.stages import STAGES
from tests.older_home.make_home import PLACE
from tests.tiny_shop import LAST_DAY

ARCHIVE = Path(__file__).parent / "home_of_c2b2a72.tar.xz"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as if it had been made here."""
    home = tmp_path_factory.mktemp("older") / "home"
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(home, filter="data")
    for file in [*home.glob("*.json*"), *home.glob("runs/**/*.json"), *home.glob("**/*.yaml")]:
        file.write_text(file.read_text(encoding="utf-8").replace(PLACE, str(home)), encoding="utf-8")
    dump = home / "mlflow.sql"
    with sqlite3.connect(home / "mlflow.db") as database:
        database.executescript(dump.read_text(encoding="utf-8").replace(PLACE, str(home)))
    dump.unlink()
    return home


@pytest.fixture(autouse=True)
def _here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMAR_HOME", str(home))


def settings_file(home: Path) -> Path:
    return home / "seed-2.yaml"


def smar(*words: str) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (words, done.output, done.exception)
    return done.stdout


def champion(home: Path) -> str:
    return json.loads(smar("champion", "--settings", str(settings_file(home)), "--json"))["version"]


def runs() -> list[Run]:
    return sorted(find_runs(), key=lambda run: run.name)[:2]


def test_its_runs_are_read() -> None:
    assert [run.settings.training.seed for run in runs()] == [1, 2]
    for run in runs():
        for stage in STAGES:
            output = run.output(stage)
            assert all(output.file(name).is_file() for name in output.manifest["files"])
        assert run.state("promote")["metrics"]["outcome"] == "promoted"  # type: ignore[index]


def test_what_it_judged_is_read_as_it_was_written() -> None:
    for run in runs():
        evaluated, decided = run.output("evaluate").file("evaluation.json"), run.output("gate").file("decision.json")
        for record, file in ((read_evaluation(evaluated), evaluated), (read_decision(decided), decided)):
            # What people gave, what the log's own lists tell, c(s), and whether a rule judged at all, was not written then.
            written = json.dumps(asdict(record)).replace(', "judged": true', "")
            for part in ("people", "incumbent", "interleaving", "picture_confidence"):
                written = written.replace(f', "{part}": null', "")
            assert written == json.dumps(json.loads(file.read_text(encoding="utf-8")))
        checks = read_checks(run.output("check-data").file("checks.json"))
        # Their kind was not written then.
        assert sum(check.kind == "drift" for check in checks) == 18 < len(checks)


def test_its_release_is_found_answers_and_is_served(home: Path) -> None:
    assert champion(home) == "2"
    moves = json.loads(smar("history", "--json"))
    assert [(move["action"], move["to"]) for move in moves] == [("promote", "1"), ("promote", "2")]
    words = ("search", "red shirt", "-k", "3", "--settings", str(settings_file(home)), "--json")
    assert len(json.loads(smar(*words))["hits"]) == 3
    smar("reconcile", "--settings", str(settings_file(home)))
    registry = Registry(load_settings(settings_file(home)))
    for version in ("1", "2"):
        pair = open_release(registry.release(version))
        assert pair.version == version and pair.searcher.search(["red shirt"], k=3)[0][0]


def test_its_text_only_baseline_answers_though_nothing_was_kept_for_that(home: Path) -> None:
    assert why_no_text_only(runs()[1].name) is None
    pair = open_text_only(runs()[1].name)
    assert len(pair.searcher.search(["red shirt"], k=3)[0][0]) == 3


def test_a_new_run_meets_its_champion_and_finds_nothing_odd(home: Path) -> None:
    said = smar("start", "--settings", str(settings_file(home)), "--run", "next", "--date", str(LAST_DAY))
    assert "version 2" in said and "WARNING" not in said
    run = next(run for run in find_runs() if run.name == "next")
    assert run.champion and run.champion.version == "2"
    assert starting_points(run, run.champion)["oracle"] is None


def test_it_is_rolled_back_to_the_release_before(home: Path) -> None:
    start = ("--settings", str(settings_file(home)), "--run", "back", "--date", str(LAST_DAY))
    smar("start", *start, "--release", "previous")
    for stage in ("prepare-items", "embed-release", "refresh-index", "publish-index"):
        smar(stage, "--run", "back")
    smar("rollback", "--run", "back", "--reason", "finds no dresses", "--by", "somebody")
    assert champion(home) == "1"
    words = ("search", "red shirt", "-k", "3", "--settings", str(settings_file(home)), "--json")
    assert len(json.loads(smar(*words))["hits"]) == 3
    assert yaml.safe_load(settings_file(home).read_text())["shop"]["root"] == os.fspath(home / "shop")
