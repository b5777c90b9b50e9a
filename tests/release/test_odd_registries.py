"""A registry in an odd state: the next run goes on, what is gone is named in one line, and nothing is vouched for that was not opened.

Real registry (SQLite), models and indexes.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from smar_model.cli import main
from smar_model.errors import InputError, NothingToDo
from smar_model.lake.runs import Run
from smar_model.release.history import read_history, read_moves, read_pending
from smar_model.release.promote import promote_run
from smar_model.release.prune import prune
from smar_model.release.reconcile import reconcile
from smar_model.release.register import register_run
from smar_model.release.registry import CANNOT_SERVE, CHALLENGER, CHAMPION, LAST_GOOD, Registry
from smar_model.release.rollback import roll_back
from smar_model.release.start import start_run
from smar_model.release.tracking import track_run
from smar_model.serving.follower import Follower
from smar_model.serving.metrics import Metrics
from tests.release.judged_runs import judged_run, write_settings
from tests.tiny_shop import LAST_DAY, write_tiny_shop

RECORD = ("releases.jsonl", "releases.pending.json", "runs")


@dataclass(kw_only=True)
class Shop:
    """Version 1 was released, then 2, the champion; the run `third` is judged, and not registered yet."""

    home: Path
    settings_file: Path
    first: Run
    second: Run
    third: Run

    @property
    def registry(self) -> Registry:
        return Registry(self.first.settings)

    @property
    def client(self) -> MlflowClient:
        return self.registry.client

    def start(self, name: str, **options: Any) -> Run:
        return start_run(
            settings_path=self.settings_file, name=name, day=LAST_DAY, promotion="automatic", steps=(), **options
        )

    def change_database(self, *statements: str) -> None:
        """What MLflow's own interface refuses, but a database brought back from a backup, or an older MLflow, may hold."""
        with sqlite3.connect(self.home / "mlflow.db") as database:
            for statement in statements:
                database.execute(statement)

    def folder(self, version: str) -> Path:
        return Path(self.registry.release(version).folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shop, Path]]:
    home, kept = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("kept") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(home))
        write_tiny_shop(home / "shop")
        runs = {}
        for seed, name in enumerate(("first", "second", "third"), start=1):
            runs[name] = judged_run(home, name, seed=seed, drawn=False)
            if name != "third":
                register_run(runs[name])
                promote_run(runs[name])
        shop = Shop(home=home, settings_file=write_settings(home), **runs)
        shutil.copytree(home, kept)
        yield shop, kept


@pytest.fixture
def shop(made: tuple[Shop, Path]) -> Iterator[Shop]:
    shop, kept = made
    yield shop
    with sqlite3.connect(shop.home / "mlflow.db") as now, sqlite3.connect(kept / "mlflow.db") as before:
        before.backup(now)
    for name in (*RECORD, "mlflow-artifacts"):
        path = shop.home / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if (kept / name).is_dir():
            shutil.copytree(kept / name, path)
        elif (kept / name).is_file():
            shutil.copy2(kept / name, path)


def smar(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["smar", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def delete_champion(shop: Shop) -> None:
    shop.client.delete_model_version("smar", "2")


def alias_of_none(shop: Shop) -> None:
    shop.change_database("UPDATE registered_model_aliases SET version = 99 WHERE alias = 'champion'")


def alias_of_a_deleted_version(shop: Shop) -> None:
    delete_champion(shop)
    shop.client.set_registered_model_alias("smar", CHAMPION, "1")
    shop.change_database("UPDATE registered_model_aliases SET version = 2 WHERE alias = 'champion'")


def delete_model(shop: Shop) -> None:
    shop.client.delete_registered_model("smar")


def new_database(shop: Shop) -> None:
    """As MLflow makes it where the file is gone; within a process it would go on with the old one."""
    empty = shop.home / "empty.db"
    MlflowClient(tracking_uri=f"sqlite:///{empty}").search_experiments()
    with sqlite3.connect(empty) as made, sqlite3.connect(shop.home / "mlflow.db") as now:
        made.backup(now)


def last_good_of_none(shop: Shop) -> None:
    shop.client.delete_registered_model_alias("smar", CHAMPION)
    shop.client.set_registered_model_tag("smar", LAST_GOOD, f"99 {'0' * 64}")


def registered_by_hand(shop: Shop) -> None:
    source = shop.folder("1").as_uri()
    version = shop.client.create_model_version("smar", source=source).version
    shop.client.set_registered_model_alias("smar", CHAMPION, str(version))


def champions_files_gone(shop: Shop) -> None:
    shutil.rmtree(shop.folder("2"))


def champions_index_gone(shop: Shop) -> None:
    shutil.rmtree(shop.folder("2") / "artifacts" / "index")


def champions_weights_flipped(shop: Shop) -> None:
    weights = shop.folder("2") / "artifacts" / "model" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()  # it may be a link to the lake's
    weights.write_bytes(content)


def tag_of_the_champion(name: str, value: str | None) -> Callable[[Shop], None]:
    def spoil(shop: Shop) -> None:
        if value is None:
            shop.client.delete_model_version_tag("smar", "2", name)
        else:
            shop.client.set_model_version_tag("smar", "2", name, value)

    return spoil


def not_ready(shop: Shop) -> None:
    shop.change_database("UPDATE model_versions SET status = 'FAILED_REGISTRATION' WHERE version = 2")


def nothing_left(shop: Shop) -> None:
    delete_champion(shop)
    shutil.rmtree(shop.folder("1"))


def foreign_source(shop: Shop) -> None:
    shop.change_database(
        "UPDATE model_versions SET source = 'cloud://bucket/model', storage_location = 'cloud://bucket/model' WHERE version = 2"
    )


CHAMPION_LOST: dict[Callable[[Shop], None], tuple[str, str | None]] = {
    delete_champion: ("lost its alias 'champion', which stood at version 2, and that version is gone", "1"),
    alias_of_none: ("has no version '99'", "2"),
    alias_of_a_deleted_version: ("has no version '2'", "1"),
    delete_model: ("model 'smar' is gone from sqlite:", None),
    new_database: ("model 'smar' is gone from sqlite:", None),
    last_good_of_none: ("lost its alias 'champion', which stood at version 2;", "2"),
    registered_by_hand: ("version 3 of model 'smar' lacks the tag 'smar.run'", "2"),
    champions_files_gone: ("mlflow-artifacts.*this folder, which the registry names, is gone", "1"),
    champions_index_gone: ("artifacts/index: version 2 lacks this folder", "1"),
    champions_weights_flipped: (r"weights\.safetensors: damaged, or changed after it was signed", "1"),
    tag_of_the_champion("index", None): ("lacks the tag 'index'", "1"),
    tag_of_the_champion("index", "rubbish"): ("the registry says 'rubbish'", "2"),
    tag_of_the_champion("index_source", "no place"): ("no place", "1"),
    tag_of_the_champion("smar.cutoff", "yesterday"): ("smar.cutoff.*'yesterday', which is no date", "1"),
    not_ready: ("FAILED_REGISTRATION", "1"),
    foreign_source: ("cloud://bucket/model", "1"),
    nothing_left: ("version 2, and that version is gone from the registry; nothing can serve in its place", None),
}
"""How → what `smar reconcile` says, and the version that the next run meets."""


@pytest.mark.parametrize(
    ("spoil", "says", "met"),
    [(s, *expected) for s, expected in CHAMPION_LOST.items()],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_run_goes_on_without_a_champion_that_is_lost(
    shop: Shop,
    spoil: Callable[[Shop], None],
    says: str,
    met: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(shop)
    capsys.readouterr()
    settings = ["--settings", str(shop.settings_file)]
    assert smar(monkeypatch, "reconcile", *settings) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert re.search(says, said), said
    assert (f"version {met} goes on serving" if met else "nothing can serve in its place") in said

    assert smar(monkeypatch, "champion", "--json", *settings) == (0 if met else 2)
    told = capsys.readouterr()
    assert len(told.err.splitlines()) == 1
    assert met is None or json.loads(told.out)["version"] == met

    run = shop.start("next")
    assert "[next] start: WARNING: " in capsys.readouterr().out
    assert (run.champion and run.champion.version) == met


@pytest.mark.parametrize("spoil", [delete_champion, alias_of_none, delete_model, champions_files_gone, nothing_left])
def test_after_a_champion_was_lost_the_next_run_is_released(
    shop: Shop, spoil: Callable[[Shop], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(shop)
    settings, met = ["--settings", str(shop.settings_file)], CHAMPION_LOST[spoil][1]
    run = shop.start("next")
    assert smar(monkeypatch, "reconcile", *settings) == 2, "it is said as long as it is so"
    assert smar(monkeypatch, "history") == 0
    assert smar(monkeypatch, "prune", *settings) == 2
    assert "nothing is pruned while this is so" in capsys.readouterr().err
    assert smar(monkeypatch, "search", "red shirt", *settings) == (0 if met else 2)
    assert len(capsys.readouterr().err.splitlines()) == 1
    follower = Follower(settings=shop.first.settings, metrics=Metrics(), poll_seconds=1, others_kept=1)
    follower.look()
    assert follower.registry_problem is None
    assert (follower.champion and follower.champion.version) == met
    assert follower.reload_problem

    register_run(shop.third)
    assert promote_run(replace(shop.third, champion=run.champion)) == "promoted"
    number = shop.registry.aliased(CHAMPION)
    assert smar(monkeypatch, "reconcile", *settings) == 0
    assert read_moves("smar")[-1]["from"] == met
    after = shop.start("after")
    assert after.champion and (after.champion.version, after.champion.run) == (number, "third")
    prune(shop.first.settings, dry_run=True)


def dangling_challenger(shop: Shop) -> None:
    shop.client.set_registered_model_alias("smar", CHALLENGER, "1")
    shop.change_database("UPDATE registered_model_aliases SET version = 99 WHERE alias = 'challenger'")


def rubbish_tags(shop: Shop) -> None:
    (shop.home / "releases.jsonl").unlink()
    shop.client.set_registered_model_tag("smar", "smar.release.00001", "{cut")
    shop.client.set_registered_model_tag("smar", "smar.release.first", "{}")
    shop.client.set_registered_model_tag("smar", LAST_GOOD, "rubbish")
    for name, value in (("smar.over_bm25", "much"), ("smar.cutoff", "yesterday"), ("smar.promoted_from", "nowhere")):
        shop.client.set_model_version_tag("smar", "1", name, value)


def delete_runs(shop: Shop) -> None:
    for version in ("1", "2"):
        shop.client.delete_run(shop.registry.version(version).run_id)


def delete_experiment(shop: Shop) -> None:
    shop.client.delete_experiment(shop.registry.experiment_id())


def pending_for_none(shop: Shop) -> None:
    entry = read_history("smar")[-1] | {"to": "99", "number": 3}
    (shop.home / "releases.pending.json").write_text(json.dumps({"smar": entry}), encoding="utf-8")


def unreadable_predecessor(shop: Shop) -> None:
    shutil.rmtree(shop.folder("1"))


@pytest.mark.parametrize(
    "spoil",
    [dangling_challenger, rubbish_tags, delete_runs, delete_experiment, pending_for_none, unreadable_predecessor],
)
def test_what_is_odd_beside_a_champion_that_serves_stops_nothing(
    shop: Shop, spoil: Callable[[Shop], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(shop)
    run = shop.start("next")
    assert run.champion and run.champion.version == "2"
    assert smar(monkeypatch, "reconcile", "--settings", str(shop.settings_file)) == 0
    assert read_pending("smar") is None
    prune(shop.first.settings)
    follower = Follower(settings=shop.first.settings, metrics=Metrics(), poll_seconds=1, others_kept=1)
    follower.look()
    assert follower.champion and follower.champion.version == "2"
    assert follower.registry_problem is None and follower.reload_problem is None
    if spoil in (rubbish_tags, unreadable_predecessor):
        with pytest.raises(
            NothingToDo, match=r"the previous release cannot be read: .*(no version 'nowhere'|which is no date|is gone)"
        ):
            shop.start("back", release="previous")
    register_run(shop.third)
    assert promote_run(replace(shop.third, champion=run.champion)) == "promoted"
    assert track_run(shop.third)
    assert shop.registry.aliased(CHAMPION) == "3"
    capsys.readouterr()


def test_a_change_that_was_begun_for_a_version_that_is_gone_is_dropped(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    pending_for_none(shop)
    shop.start("next")
    assert "the promote of version 99 that was begun at" in (said := capsys.readouterr().out)
    assert "is dropped: the version is gone from the registry" in said
    assert [move["to"] for move in read_moves("smar")] == ["1", "2"]


def test_versions_of_a_new_registry_are_not_those_of_the_history(shop: Shop) -> None:
    new_database(shop)
    run = shop.start("next")
    assert run.champion is None
    # Run `second` was registered as version 2; there is none, and then one of another run.
    with pytest.raises(InputError, match="no version '2'"):
        promote_run(replace(shop.second, champion=None))
    assert register_run(shop.third) == "1"
    with pytest.raises(InputError, match="version 1 of model 'smar' is not the one that run first registered"):
        promote_run(shop.first)
    # Run `second` met a version 1 too; it was compared with another model than the one that is champion now.
    assert promote_run(replace(shop.third, champion=None)) == "promoted"
    assert register_run(shop.second) == "2"
    assert promote_run(shop.second) == "kept"
    assert shop.registry.predecessor("1") is None
    with pytest.raises(NothingToDo, match="version 1, the champion, is the first release"):
        shop.start("back", release="previous")
    # The history knows a move to a version 2, which this one never was part of.
    back = shop.start("to-the-second", release="2")
    back.write_state("publish-index", "finished")
    with pytest.raises(InputError, match="version 2 was never released"):
        roll_back(back, reason="a fault", by="Ada")
    assert [(move["number"], move["from"], move["to"]) for move in read_moves("smar")] == [
        (1, None, "1"),
        (2, "1", "2"),
        (3, None, "1"),
    ]


def test_a_champion_whose_files_come_back_is_the_champion_again(shop: Shop, tmp_path: Path) -> None:
    folder = shop.folder("2")
    folder.rename(tmp_path / "away")
    with pytest.raises(InputError, match=f"{folder}: this folder, which the registry names, is gone"):
        reconcile(shop.first.settings)
    assert CANNOT_SERVE in shop.registry.version("2").tags
    (tmp_path / "away").rename(folder)
    reconcile(shop.first.settings)
    assert CANNOT_SERVE not in shop.registry.version("2").tags
    assert shop.registry.registered().last_good == ("2", shop.second.output("index").digest)
    assert [move["to"] for move in read_moves("smar")] == ["1", "2"]


def test_a_home_folder_that_was_moved_goes_on_with_its_own_files(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The registry names folders by where they first were; those of the present home folder are taken, and nothing is written to the first."""
    moved, away = tmp_path / "moved", tmp_path / "away"
    shutil.copytree(shop.home, moved)
    shop.home.rename(away)
    try:
        monkeypatch.setenv("SMAR_HOME", str(moved))
        settings = ["--settings", str(moved / shop.settings_file.name)]
        for command in ("reconcile", "champion", "prune"):
            assert smar(monkeypatch, command, *settings) == 0
        assert f"{moved}/mlflow-artifacts" in capsys.readouterr().out
        there = Registry(shop.first.settings)
        there.experiment_id()
        register_run(shop.third)
        assert promote_run(shop.third) == "promoted"
        assert Path(there.release("3").folder).is_relative_to(moved)
        assert there.client.get_model_version_download_uri("smar", "3").startswith(moved.as_uri())
        assert not shop.home.exists()
        champion = Path(there.release("3").folder)
        shutil.rmtree(champion)
        assert smar(monkeypatch, "reconcile", *settings) == 2
        said = capsys.readouterr().err
        assert f"{champion}: this folder, which the registry names, is gone" in said
        assert "version 2 goes on serving" in said and len(said.splitlines()) == 1
    finally:
        away.rename(shop.home)
