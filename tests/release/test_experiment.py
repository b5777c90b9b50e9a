"""gate.interleaving: a version that passed the gate waits until shoppers have said what they prefer; real registry, runs and log."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from smar_model.cli import app
from smar_model.errors import NothingToDo
from smar_model.lake.runs import Run
from smar_model.release.describe_decision import describe_decision, refuse_idle_question
from smar_model.release.experiment import EXPERIMENT, Evidence, experiment_under_way, rule
from smar_model.release.history import read_history, read_pending
from smar_model.release.promote import promote_run
from smar_model.release.register import register_run
from smar_model.release.registry import CHALLENGER, CHAMPION, Registry
from smar_model.release.start import start_run
from smar_model.settings import REPOSITORY, Interleaving
from tests.evaluation.test_interleaving import click, impressions
from tests.patience import PATIENCE_SECONDS
from tests.release.interrupted import Steps
from tests.release.judged_runs import judged_run, write_settings
from tests.tiny_shop import LAST_DAY, write_rows, write_tiny_shop

BEGAN = date(2026, 11, 20)
ASKED = {"users": 30, "days": 100_000}
RECORD = ("releases.jsonl", "releases.pending.json", "runs")


@dataclass(kw_only=True)
class Shop:
    """Version 1 is the champion; the runs of 2 and 3, registered one after the other, ask for interleaving."""

    home: Path
    kept: Path
    settings_file: Path
    driver: subprocess.Popen[str]
    second: Run
    third: Run

    @property
    def registry(self) -> Registry:
        return Registry(self.second.settings)

    def began(self, day: date = BEGAN) -> None:
        """The experiment of version 2 has begun on a day."""
        promote_run(self.second)
        self.registry.tag("2", EXPERIMENT, f"1 {day}")

    def log(self, *, won: int, lost: int, day: date = BEGAN) -> None:
        names, events = {"challenger": "2", "champion": "1"}, []
        for number in range(won + lost):
            shown = impressions(f"r{number}", f"u{number}", "AB", day=day, second=number)
            shown = [row | {"version": names[row["team"]]} for row in shown]
            events += [*shown, click(shown, 1 if number < won else 2)]
        write_rows(self.home / "shop" / "click_log" / f"dt={day}" / "part-0.parquet", "click_log", events)

    def put_back(self) -> None:
        with sqlite3.connect(self.home / "mlflow.db") as now, sqlite3.connect(self.kept / "mlflow.db") as kept:
            kept.backup(now)
        for name in RECORD:
            if (self.kept / name).is_dir():
                shutil.rmtree(self.home / name)
                shutil.copytree(self.kept / name, self.home / name)
            elif (self.kept / name).is_file():
                shutil.copy2(self.kept / name, self.home / name)
            else:
                (self.home / name).unlink(missing_ok=True)

    def keep(self) -> None:
        with sqlite3.connect(self.home / "mlflow.db") as now, sqlite3.connect(self.kept / "mlflow.db") as kept:
            now.backup(kept)
        for name in RECORD:
            if (self.home / name).is_dir():
                shutil.copytree(self.home / name, self.kept / name, dirs_exist_ok=True)
            elif (self.home / name).is_file():
                shutil.copy2(self.home / name, self.kept / name)

    def command(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--settings", str(self.settings_file)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    home, kept = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(home))
        driver = start_driver(kept)  # which imports meanwhile
        write_tiny_shop(home / "shop")
        first = judged_run(home, "first", seed=1, drawn=False, interleaving=ASKED)
        register_run(first)
        assert promote_run(first) == "promoted", "nobody is there to be interleaved with"
        second = judged_run(home, "second", seed=2, drawn=False, interleaving=ASKED)
        register_run(second)
        third = judged_run(home, "third", seed=3, drawn=False, interleaving=ASKED)
        settings_file = write_settings(home)
        shop = Shop(home=home, kept=kept, settings_file=settings_file, driver=driver, second=second, third=third)
        shop.keep()
        yield shop
        assert driver.stdin
        driver.stdin.close()
        assert driver.wait(timeout=PATIENCE_SECONDS) == 0


def start_driver(kept: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.release.interrupted"],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(kept / "killed.log").open("w"),
        text=True,
    )


@pytest.fixture
def shop(made: Shop) -> Iterator[Shop]:
    yield made
    made.put_back()
    for day in range(20, 31):
        shutil.rmtree(made.home / "shop" / "click_log" / f"dt=2026-11-{day}", ignore_errors=True)


def rejections() -> list[Any]:
    return [entry for entry in read_history("smar") if entry["action"] == "reject"]


def test_a_version_waits_and_keeps_the_alias_while_later_runs_are_registered(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote_run(shop.second) == "kept"
    said = capsys.readouterr().out
    assert "waits for interleaving" in said and "smar serve --interleave champion:challenger" in said
    assert f"--settings {shop.second.settings_source}`" in said
    assert "smar promote --run second" in said
    assert shop.registry.version("2").tags[EXPERIMENT].startswith("1 20")
    register_run(shop.third)
    assert "stays at version 2" in capsys.readouterr().out
    assert shop.registry.registered().aliases == {CHAMPION: "1", CHALLENGER: "2"}
    assert promote_run(shop.third) == "kept"
    assert "version 2 is being interleaved" in capsys.readouterr().out
    assert EXPERIMENT not in shop.registry.version("3").tags
    # Settings that no longer ask for it end it, and that is said; not those of a run that promotes nothing.
    gate = shop.third.settings.gate.model_copy(update={"interleaving": None})
    unasked = replace(shop.third, settings=shop.third.settings.model_copy(update={"gate": gate}))
    register_run(replace(unasked, promotion="never"))
    assert shop.registry.aliased(CHALLENGER) == "2" and "stays at version 2" in capsys.readouterr().out
    register_run(unasked)
    assert shop.registry.aliased(CHALLENGER) == "3"
    assert "version 2 is no longer interleaved with the champion" in capsys.readouterr().out
    assert experiment_under_way(shop.registry) is None


def test_the_index_of_the_version_that_is_interleaved_can_be_refreshed(shop: Shop) -> None:
    def refresh(name: str) -> Run:
        return start_run(
            settings_path=shop.settings_file,
            name=name,
            day=LAST_DAY,
            promotion="never",
            steps=(),
            release="challenger",
        )

    with pytest.raises(NothingToDo, match="no version of model 'smar' is being interleaved"):
        refresh("nobody")
    shop.began()
    found = refresh("refreshed")
    assert found.release and found.champion
    assert (found.release.version, found.champion.version) == ("2", "1")


def test_shoppers_who_prefer_it_promote_it(shop: Shop) -> None:
    shop.began()
    shop.log(won=20, lost=9)
    assert promote_run(shop.second) == "kept", "fewer shoppers than are asked for"
    shop.log(won=19, lost=15)
    assert promote_run(shop.second) == "kept", "nothing is shown"
    shop.log(won=32, lost=5)
    done = shop.command("promote", "--challenger")
    assert done.exit_code == 0 and "promote: promoted: version 2 is the champion" in done.stdout
    entry = read_history("smar")[-1]
    assert (entry["action"], entry["to"], entry["by"]) == ("promote", "2", "the gate")
    assert "shoppers prefer the challenger" in entry["reason"]
    assert entry["evidence"]["interleaving"]["last_look"]["wins"] == 32
    assert isinstance(shop.command("promote", "--challenger").exception, NothingToDo)


def test_shoppers_who_do_not_reject_it_once_and_whoever_approves(shop: Shop) -> None:
    shop.began()
    shop.log(won=5, lost=32)
    assert promote_run(shop.second) == "kept"
    (entry,) = rejections()
    assert (entry["version"], entry["by"], entry["to"]) == ("2", "interleaving", "1")
    assert "shoppers prefer the champion" in entry["reason"]
    shop.log(won=50, lost=5)  # later lists change nothing
    assert promote_run(replace(shop.second, promotion="ask"), approved_by="Ada") == "kept"
    assert rejections() == [entry]
    register_run(shop.third)
    assert shop.registry.aliased(CHALLENGER) == "3", "the next one has its turn"
    assert "version 2 rejected by interleaving" in CliRunner().invoke(app, ["history"]).stdout


def test_what_comes_of_an_experiment_without_a_preference() -> None:
    evidence = Evidence(champion="1", since=BEGAN, preference=None)
    asked, over = Interleaving(days=14), BEGAN + timedelta(days=15)
    assert rule(evidence, asked, today=over - timedelta(days=1)).kind == "wait"
    assert rule(evidence, asked, today=over).kind == "reject"
    assert "in 14 days" in rule(evidence, asked, today=over).text
    not_worse = Interleaving(days=14, enough="not_worse")
    assert rule(evidence, not_worse, today=over).kind == "reject", "nobody has seen it"
    assert rule(replace(evidence, since=None), asked, today=over).kind == "wait"


def test_lists_of_before_the_experiment_and_another_champion_say_nothing(shop: Shop) -> None:
    shop.log(won=32, lost=5)
    assert promote_run(shop.second) == "kept"
    shop.registry.tag("2", EXPERIMENT, f"1 {BEGAN + timedelta(days=1)}")
    assert promote_run(shop.second) == "kept"
    shop.registry.tag("2", EXPERIMENT, f"7 {BEGAN}")
    assert experiment_under_way(shop.registry) is None
    assert promote_run(shop.second) == "kept"
    assert shop.registry.version("2").tags[EXPERIMENT].startswith("1 "), "it has begun anew"


def test_a_person_is_asked_once_shoppers_prefer_it_and_reads_what_they_preferred(shop: Shop) -> None:
    asking = replace(shop.second, promotion="ask")
    shop.began()
    shop.log(won=19, lost=15)
    with pytest.raises(NothingToDo, match="interleaved with version 1"):
        refuse_idle_question(asking)
    shop.log(won=32, lost=5)
    refuse_idle_question(asking)
    text = describe_decision(asking)
    assert "| 1:2 | 2026-11-20 | 1 | 37 | 37 | 32 / 0 / 5 |" in text
    assert promote_run(asking) == "kept"
    assert promote_run(asking, approved_by="Ada") == "promoted"


def test_commands_want_a_run_or_the_challenger(shop: Shop) -> None:
    for arguments in ((), ("--challenger", "--run", "second")):
        done = shop.command("promote", *arguments)
        assert "state one of them" in str(done.exception)
    for name in ("promote", "describe-decision"):
        assert isinstance(shop.command(name, "--challenger").exception, NothingToDo)


@pytest.fixture(scope="module")
def killed_at(made: Shop) -> Callable[[int, list[str]], int]:
    driver = made.driver
    assert driver.stdin and driver.stdout
    assert driver.stdout.readline() == "ready\n", (made.kept / "killed.log").read_text()

    def run(step: int, arguments: list[str]) -> int:
        assert driver.stdin and driver.stdout
        driver.stdin.write(json.dumps({"arguments": arguments, "step": step}) + "\n")
        driver.stdin.flush()
        return int(driver.stdout.readline())

    return run


@pytest.mark.parametrize("outcome", ["begins", "rejected"])  # promoted: tests/release/test_changes.py
def test_killed_at_any_step_it_goes_on_with_the_next_command(
    shop: Shop, killed_at: Callable[[int, list[str]], int], outcome: str
) -> None:
    def prepare() -> None:
        shop.put_back()
        if outcome != "begins":
            shop.began()

    shop.log(won=5, lost=32)
    prepare()
    steps = Steps(lambda count: None)
    with pytest.MonkeyPatch.context() as patch:
        steps.watch_registry(patch)
        steps.watch_record(patch)
        promote_run(shop.second)
    assert_done(shop, outcome)
    # Before the first step nothing has been done; of a row of equal ones the first and the last tell what those between do.
    points = [
        step
        for step, name in enumerate(steps.names[1:], start=2)
        if steps.names[step - 2 : step + 1] != [name, name, name]
    ]
    assert len(points) == {"begins": 2, "rejected": 4}[outcome], steps.names
    for step in points:
        prepare()
        assert killed_at(step, ["promote", "--run", "second"]) == -signal.SIGKILL
        assert shop.registry.aliased(CHAMPION) == "1"
        promote_run(shop.second)
        assert_done(shop, outcome)


def assert_done(shop: Shop, outcome: str) -> None:
    tags, aliases = shop.registry.version("2").tags, shop.registry.registered().aliases
    assert read_pending("smar") is None
    assert aliases == {CHAMPION: "1", CHALLENGER: "2"}
    assert [entry["to"] for entry in read_history("smar") if entry["action"] == "promote"] == ["1"]
    assert len(rejections()) == (outcome == "rejected")
    assert tags.get("smar.decision") == (None if outcome == "begins" else "rejected")
    assert (experiment_under_way(shop.registry) is not None) == (outcome == "begins")
