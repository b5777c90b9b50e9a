"""What `smar prune` removes and what it never does: a registry (SQLite) with eight releases, and their runs and index builds."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from smar_model.errors import InputError, NoAnswer
from smar_model.lake.artifacts import Artifact, find_artifact
from smar_model.lake.digests import digest_json
from smar_model.lake.earlier_outputs import Base, Oracle, SearchableModel
from smar_model.lake.publishing import Attempt
from smar_model.lake.release_copies import cache_folder
from smar_model.lake.release_manifest import WITHIN_VERSION
from smar_model.lake.runs import Run, create_run
from smar_model.release.changes import note_last_good, tag_history
from smar_model.release.history import append_history, new_entry
from smar_model.release.lease import registry_lease
from smar_model.release.prune import kept_versions, prune
from smar_model.release.registry import CHALLENGER, CHAMPION, Registry, source_tag
from smar_model.settings import Settings
from tests.earlier_models import a_release
from tests.tiny_shop import LAST_DAY, publish_with, tiny_settings

VERSIONS = 9
OWN = "a" * 63
"""Digest of the build that a version was released with, but for its number."""
RELEASE = {"keep": 3, "keep_days": 14}


def ago(days: float) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="milliseconds")


class Shop:
    """Version n was released n·10 days before version 9, by the run `run-n`; 9 was rejected, 8 is the champion."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.settings: Settings = tiny_settings(home / "shop", release=RELEASE)
        self.registry = Registry(self.settings)
        self.registry.client.create_registered_model("smar")
        for number in range(1, VERSIONS + 1):
            days = 10.0 * (VERSIONS - number)
            self.run(f"run-{number}", days, "extract-clicks", "finetune", "evaluate")
            tags = {"smar.run": f"run-{number}", "smar.date": "2026-11-19", "smar.cutoff": "2026-11-19T00:00:00+00:00"}
            tags |= {
                "smar.model_digest": str(number),
                "smar.index_digest": OWN + str(number),
                "index": OWN + str(number),
            }
            if number < VERSIONS:
                before = str(number - 1) if number > 1 else "none"
                tags |= {"smar.promoted_at": ago(days), "smar.promoted_from": before}
            (home / f"version-{number}").mkdir()
            self.registry.client.create_model_version(
                "smar", source=(home / f"version-{number}").as_uri(), tags=tags | {"index_source": WITHIN_VERSION}
            )
            if number < VERSIONS:
                values = {"number": number, "from": str(number - 1) if number > 1 else None, "to": str(number)}
                values |= {"index": OWN + str(number), "run": f"run-{number}", "date": "2026-11-19", "by": "the gate"}
                append_history(new_entry("smar", "promote", **values, reason="", evidence={}) | {"at": ago(days)})
        self.set_champion("8")
        self.registry.client.set_registered_model_alias("smar", CHALLENGER, "9")
        tag_history(self.registry)

    def set_champion(self, version: str) -> None:
        self.registry.client.set_registered_model_alias("smar", CHAMPION, version)
        note_last_good(self.registry, version, self.registry.version(version).tags["index"])

    def run(self, name: str, days: float, *stages: str, **fields: Any) -> Run:
        """A run that did its last step so many days ago; each stage has an output of its own, as old."""
        settings = fields.pop("settings", self.settings)
        run = create_run(
            Run(
                name=name,
                date=LAST_DAY,
                settings_source="tests",
                settings=settings,
                champion=None,
                promotion="never",
                **fields,
            )
        )
        for stage in stages:
            self.output(run, stage, days)
        if not stages:
            run.write_state("start", "finished")
        return run

    def output(self, run: Run, stage: str, days: float) -> Artifact:
        attempt = Attempt(stage, digest_json([run.name, stage]))
        (attempt.folder / "content.txt").write_text(f"{run.name} {stage}")
        made = attempt.publish(metrics={}, inputs={}, settings={})
        publish_with(stage, made.key, finished_at=ago(days))
        run.write_state(stage, "finished", key=made.key)
        self.set_time(run, stage, days)
        return made

    def set_time(self, run: Run, stage: str, days: float) -> None:
        path = run.folder / f"{stage}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"at": ago(days)}))
        os.utime(run.folder, (time.time() - 86_400 * days,) * 2)

    def refresh(self, version: str, days: float) -> Artifact:
        """Refresh a version so many days ago."""
        run = self.run(f"refresh-{version}-{days}", days, "embed-release", "refresh-index")
        build, before = run.output("refresh-index"), self.registry.version(version).tags["index"]
        for tag, value in ((source_tag(build.digest), build.folder.as_uri()), ("index", build.digest)):
            self.registry.tag(version, tag, value)
        values = {"from": version, "to": version, "index_from": before, "index": build.digest, "run": run.name}
        append_history(
            new_entry("smar", "refresh", **values, date="", by="", reason="", evidence={}) | {"at": ago(days)}
        )
        if self.registry.aliased(CHAMPION) == version:
            note_last_good(self.registry, version, build.digest)
        return build

    def there(self, run: str, *stages: str) -> list[bool]:
        """Which outputs of a run are there, whole."""
        found = [find_artifact(stage, digest_json([run, stage])) for stage in stages]
        return [a is not None and a.file("content.txt").read_text() == f"{run} {a.stage}" for a in found]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_registry: Path) -> Shop:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    shutil.copy2(empty_registry, tmp_path / "mlflow.db")
    return Shop(tmp_path)


@pytest.fixture(scope="module")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """MLflow's tables take seconds to make."""
    home = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(home))
        assert Registry(tiny_settings(home / "shop")).aliased(CHAMPION) is None
    return home / "mlflow.db"


def everything(home: Path) -> dict[str, int]:
    locks = {".guard", ".number"}
    files = (f for f in home.rglob("*") if f.is_file() and f.suffix not in locks)
    return {str(f.relative_to(home)): f.stat().st_mtime_ns for f in files}


STAGES = ("extract-clicks", "finetune", "evaluate")


def test_the_last_releases_and_their_runs_stay_and_those_of_old_ones_go(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kept_versions(shop.registry) == {"6", "7", "8", "9"}
    before = everything(shop.home)
    prune(shop.settings, dry_run=True)
    assert {n: t for n, t in everything(shop.home).items() if "mlflow.db" not in n} == {
        n: t for n, t in before.items() if "mlflow.db" not in n
    }
    listed = capsys.readouterr().out
    assert "would remove finetune" in listed and "15 would be removed" in listed
    prune(shop.settings)
    for number in range(1, VERSIONS + 1):
        assert shop.there(f"run-{number}", *STAGES) == [number >= 6] * 3, number
        assert (shop.home / "runs" / f"run-{number}" / "run.json").is_file()
    capsys.readouterr()
    prune(shop.settings)
    assert "prune: 0 removed" in capsys.readouterr().out


def test_predecessors_stay_however_old(shop: Shop) -> None:
    # Rolled back to 2 long after: 1 is its predecessor, and 8 is not among the last releases but for having been one.
    shop.set_champion("2")
    values = {"number": 9, "from": "8", "to": "2", "index": OWN + "2", "run": "run-2", "date": "", "by": "Ada"}
    append_history(new_entry("smar", "rollback", **values, reason="a fault", evidence={}))
    assert kept_versions(shop.registry) == {"1", "2", "7", "8", "9"}
    shop.registry.client.set_registered_model_alias("smar", CHALLENGER, "5")
    assert kept_versions(shop.registry) == {"1", "2", "4", "5", "7", "8"}


def test_what_a_running_or_young_run_takes_or_names_stays(shop: Shop) -> None:
    base = shop.run("base", 60, "train-tokenizer", "pretrain")
    oracle = shop.run("oracle", 60, "finetune")
    shop.run("another-oracle", 70, "finetune")
    mined = shop.run("mined", 60, "finetune", "index")
    keys = {stage: base.output(stage).key for stage in ("train-tokenizer", "pretrain")}
    model = {"cutoff": "2026-11-19T00:00:00+00:00", "model_digest": "0", "model_folder": ""}
    told = Oracle(
        **model | {"model_folder": str(oracle.output("finetune").folder / "model")}, run="oracle", truth="visible"
    )
    shop.run("young", 3, "gate", base=Base(run="base", cutoff="", keys=keys), oracle=told)
    # It began a month ago, and trains to this moment.
    searched = SearchableModel(**model, run="mined", index_digest="0", index_folder=str(mined.output("index").folder))
    running = shop.run("running", 30, "check-data", mined_from=searched)
    running.write_state("pretrain", "running")
    shop.run("idle", 30, "check-data")
    elsewhere = shop.settings.model_copy(
        update={"release": shop.settings.release.model_copy(update={"model": "another"})}
    )
    shop.run("of-another-model", 90, "finetune", settings=elsewhere)
    unreadable = shop.run("unreadable", 90, "finetune")
    (unreadable.folder / "run.json").write_text(
        (unreadable.folder / "run.json").read_text().replace('"gate"', '"gate_of_old"')
    )
    taken = shop.run("took-from-old", 2)
    taken.take(shop.run("old", 60, "prepare-items", "embed").output("prepare-items"), stage="prepare-items")
    prune(shop.settings)
    assert shop.there("base", "train-tokenizer", "pretrain") == [True, True]
    assert shop.there("oracle", "finetune") == [True]
    assert shop.there("another-oracle", "finetune") == [False]
    assert shop.there("mined", "finetune", "index") == [False, True]
    assert shop.there("running", "check-data") == [True]
    assert shop.there("idle", "check-data") == [False]
    assert shop.there("of-another-model", "finetune") == [True]
    assert shop.there("unreadable", "finetune") == [True]
    assert shop.there("old", "prepare-items", "embed") == [True, False]


@pytest.mark.parametrize("damaged", ["run.json", "prepare-items.json"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe{", b"{}"], ids=["empty", "binary", "no fields"])
def test_while_it_is_not_known_what_a_run_needs_nothing_is_removed_that_it_may(
    shop: Shop, damaged: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    needs = shop.run("needs", 2)
    needs.take(shop.run("old", 60, "prepare-items").output("prepare-items"), stage="prepare-items")
    file = needs.folder / damaged
    whole = file.read_bytes()
    file.write_bytes(content)
    prune(shop.settings)
    assert shop.there("old", "prepare-items") == [True]
    assert shop.there("run-1", *STAGES) == [True] * 3
    said = [line for line in capsys.readouterr().err.splitlines() if str(file) in line]
    assert len(said) == 1 and "no output and no copy is removed" in said[0]
    file.write_bytes(whole)
    prune(shop.settings)
    assert shop.there("old", "prepare-items") == [True]
    assert shop.there("run-1", *STAGES) == [False] * 3


def test_the_newest_oracle_stays_and_older_ones_go(shop: Shop) -> None:
    for name, days in (("oracle-1", 60), ("oracle-2", 50)):
        run = shop.run(name, days, "finetune", "reveal-visible-truth")
        run.take(run.output("reveal-visible-truth"), stage="prepare-items")
        shop.set_time(run, "prepare-items", days)
    older = shop.home / "runs" / "oracle-1" / "run.json"
    older.write_text(older.read_text().replace(str(LAST_DAY), str(LAST_DAY - timedelta(days=7))))
    prune(shop.settings)
    assert shop.there("oracle-1", "finetune") == [False]
    assert shop.there("oracle-2", "finetune", "reveal-visible-truth") == [True, True]


def test_index_builds_that_were_replaced_go_and_old_releases_get_their_own_back(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced, previous = shop.refresh("8", 5), shop.refresh("8", 3)
    current = shop.refresh("8", 0.1)
    of_predecessor, of_old = shop.refresh("7", 5), shop.refresh("3", 5)
    prune(shop.settings)
    tags = shop.registry.version("8").tags
    assert tags["index"] == current.digest
    assert {n for n in tags if n.startswith("index_source.")} == {
        source_tag(current.digest),
        source_tag(previous.digest),
    }
    there = [
        find_artifact("refresh-index", b.key) is not None for b in (replaced, previous, current, of_predecessor, of_old)
    ]
    assert there == [False, True, True, True, False]
    tags = shop.registry.version("3").tags
    assert tags["index"] == OWN + "3"
    assert not [n for n in tags if n.startswith("index_source.")]
    assert shop.registry.unverified_release("3")[0].index_folder.endswith("version-3/artifacts/index")
    # Runs that only refresh leave their outputs after a day, and their records later.
    assert shop.there("refresh-8-0.1", "embed-release") == [True]
    assert shop.there("refresh-7-5", "embed-release") == [False]
    assert (shop.home / "runs" / "refresh-7-5").is_dir()
    shop.refresh("7", 20)
    skipped = shop.home / "runs" / "skipped"
    skipped.mkdir()
    (skipped / "start.json").write_text(json.dumps({"stage": "start", "state": "skipped", "at": ago(20)}))
    prune(shop.settings)
    assert not (shop.home / "runs" / "refresh-7-20").exists()
    assert not skipped.exists()


def test_copies_of_what_is_not_kept_go(shop: Shop) -> None:
    names = [
        "smar-3",
        "smar-8",
        "another-3",
        f"index-{OWN}8",
        f"index-{OWN}3",
        "index-0f",
        ".smar-9.cut-off",
        ".smar-9.new",
    ]
    named = cache_folder() / "smar-4"
    for name in (*names, "smar-4"):
        (cache_folder() / name).mkdir(parents=True)
        if name != ".smar-9.new":
            os.utime(cache_folder() / name, (time.time() - 2 * 86_400,) * 2)
    run = shop.run("young", 1, "gate", release=a_release(version="4", model_folder=str(named / "artifacts" / "model")))
    assert run.release
    prune(shop.settings)
    left = {path.name for path in cache_folder().iterdir()}
    assert left == {"smar-8", "another-3", f"index-{OWN}8", f"index-{OWN}3", ".smar-9.new", "smar-4"}


def test_a_failure_is_told_and_the_rest_is_done(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = find_artifact("finetune", digest_json(["run-1", "finetune"]))
    assert stuck
    remove = shutil.rmtree

    def rmtree(path: Path, **options: Any) -> None:
        if path == stuck.folder:
            raise PermissionError(f"{path}: not permitted")
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    with pytest.raises(InputError, match=r"1 could not be removed:\nfinetune .*not permitted"):
        prune(shop.settings)
    assert shop.there("run-1", "extract-clicks", "evaluate") == [False, False]
    assert not (shop.home / "registry.lock").exists()


def test_nothing_is_pruned_beside_another_holder_or_a_champion_that_cannot_serve(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registry_lease(purpose="promote x"):
        monkeypatch.setattr(
            "smar_model.release.prune.registry_lease", lambda purpose: registry_lease(purpose=purpose, wait_seconds=0.1)
        )
        with pytest.raises(NoAnswer, match=r"held by process .* \(promote x\)"):
            prune(shop.settings)
    shop.registry.client.set_registered_model_alias("smar", CHAMPION, "3")
    with pytest.raises(InputError, match="nothing is pruned while this is so: the champion"):
        prune(shop.settings)
    assert shop.there("run-1", *STAGES) == [True] * 3


def test_an_output_that_a_run_takes_meanwhile_stays(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at all runs and the removal a run finds an old output again."""
    from smar_model.release import prune as module

    whole = module._survey

    def survey(*arguments: Any) -> Any:
        found = whole(*arguments)
        run = shop.run("backfill", 0)
        old = find_artifact("finetune", digest_json(["run-1", "finetune"]))
        assert old
        run.take(old, stage="finetune")
        return found

    monkeypatch.setattr(module, "_survey", survey)
    prune(shop.settings)
    assert shop.there("run-1", *STAGES) == [False, True, False]
