"""Refresh, rollback, promotion by a person and by hand, and what is left of each when its process is killed or the registry is lost at
any step: real registry (SQLite), models and indexes."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from typer.testing import CliRunner

from smar_model.cli import app, main
from smar_model.errors import InputError, NothingToDo
from smar_model.lake.digests import digest_json
from smar_model.lake.output_digests import content_digests
from smar_model.lake.runs import Run
from smar_model.release.changes import HISTORY_TAG, TAG_LENGTH, tag_history
from smar_model.release.describe_decision import describe_decision
from smar_model.release.history import append_history, read_history, read_moves, read_pending
from smar_model.release.promote import promote_run
from smar_model.release.publish_index import publish_index
from smar_model.release.reconcile import reconcile
from smar_model.release.register import register_run
from smar_model.release.registry import CANNOT_SERVE, CHAMPION, Registry, source_tag
from smar_model.release.rollback import roll_back
from smar_model.release.show import show_champion
from smar_model.release.start import start_run
from smar_model.retrieval.search import Searcher
from smar_model.settings import REPOSITORY
from smar_model.training.model_folder import model_digest
from tests.patience import PATIENCE_SECONDS
from tests.release.interrupted import registry_lost_at
from tests.release.judged_runs import judged_run, refresh_run, write_settings
from tests.tiny_shop import LAST_DAY, tiny_items, write_tiny_shop

RECORD = ("releases.jsonl", "releases.pending.json", "runs")


@dataclass(kw_only=True)
class Releases:
    """Version 1 was released, then 2, the champion; the run of 3 waits for promotion; runs that refreshed the index of 1 and of 2."""

    home: Path
    settings_file: Path
    first: Run
    second: Run
    third: Run
    refresh_first: Run
    refresh_second: Run

    @property
    def registry(self) -> Registry:
        return Registry(self.first.settings)

    def pointer(self) -> tuple[str, str]:
        version = self.registry.aliased(CHAMPION)
        assert version is not None
        return version, self.registry.version(version).tags["index"]

    def start(self, name: str, **options: Any) -> Run:
        return start_run(
            settings_path=self.settings_file, name=name, day=LAST_DAY, promotion="automatic", steps=(), **options
        )

    def move_by_hand(self, version: str) -> None:
        self.registry.client.set_registered_model_alias("smar", CHAMPION, version)

    def keep(self, folder: Path) -> None:
        """Copy the registry and the record: what `put_back` goes back to."""
        with sqlite3.connect(self.home / "mlflow.db") as now, sqlite3.connect(folder / "mlflow.db") as kept:
            now.backup(kept)
        for name in RECORD:
            if (self.home / name).is_dir():
                shutil.copytree(self.home / name, folder / name)
            elif (self.home / name).is_file():
                shutil.copy2(self.home / name, folder / name)

    def put_back(self, folder: Path) -> None:
        with sqlite3.connect(self.home / "mlflow.db") as now, sqlite3.connect(folder / "mlflow.db") as kept:
            kept.backup(now)
        for name in RECORD:
            if (folder / name).is_dir():
                shutil.rmtree(self.home / name)
                shutil.copytree(folder / name, self.home / name)
            elif (folder / name).is_file():
                shutil.copy2(folder / name, self.home / name)
            else:
                (self.home / name).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Releases, Path]]:
    home, kept = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(home))
        write_tiny_shop(home / "shop")
        first = judged_run(home, "first", seed=1, drawn=False)
        register_run(first)
        promote_run(first)
        second, third = judged_run(home, "second", seed=2, drawn=False), None
        register_run(second)
        promote_run(second)
        third = judged_run(home, "third", seed=3, drawn=False)
        register_run(third)
        releases = Releases(
            home=home,
            settings_file=write_settings(home),
            first=first,
            second=second,
            third=third,
            refresh_first=refresh_run(home, "refresh-first", release="previous"),
            refresh_second=refresh_run(home, "refresh-second", release="champion"),
        )
        releases.keep(kept)
        yield releases, kept


@pytest.fixture
def releases(made: tuple[Releases, Path]) -> Iterator[Releases]:
    yield made[0]
    made[0].put_back(made[1])


@pytest.fixture(scope="module")
def killed_at(made: tuple[Releases, Path]) -> Iterator[Callable[[int | str, list[str]], int]]:
    """Runs a `smar` command that is killed right before a step of its own; its exit code."""
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.release.interrupted"],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(made[1] / "killed.log").open("w"),
        text=True,
    )
    assert driver.stdin and driver.stdout
    assert driver.stdout.readline() == "ready\n", (made[1] / "killed.log").read_text()

    def run(step: int | str, arguments: list[str]) -> int:
        assert driver.stdin and driver.stdout
        driver.stdin.write(json.dumps({"arguments": arguments, "step": step}) + "\n")
        driver.stdin.flush()
        return int(driver.stdout.readline())

    yield run
    driver.stdin.close()
    assert driver.wait(timeout=PATIENCE_SECONDS) == 0


def assert_whole(releases: Releases, *allowed: tuple[str, str]) -> tuple[str, str]:
    """What the registry names opens, belongs together and answers; returns it."""
    version, index = releases.pointer()
    assert (version, index) in allowed
    release = releases.registry.release(version)
    assert digest_json(content_digests(Path(release.index_folder))) == release.index_digest == index
    assert model_digest(Path(release.model_folder)) == release.model_digest
    searcher = Searcher.load(Path(release.model_folder), Path(release.index_folder))
    assert searcher.search(["red shirt"], k=3)[0][0]
    return version, index


def assert_recorded(releases: Releases, *, action: str, times: int) -> None:
    """The record is complete: history, tags, no change under way."""
    moves, registered = read_moves("smar"), releases.registry.registered()
    assert read_pending("smar") is None
    assert [e["action"] for e in read_history("smar")].count(action) == times
    assert registered.last_good == releases.pointer()
    assert moves[-1]["to"] == registered.aliases[CHAMPION]
    assert [move["number"] for move in moves] == list(range(1, len(moves) + 1))
    tags = {int(n.removeprefix(HISTORY_TAG)): v for n, v in registered.tags.items() if n.startswith(HISTORY_TAG)}
    assert {n: json.loads(text)["to"] for n, text in tags.items()} == {m["number"]: m["to"] for m in moves}
    version = releases.registry.version(moves[-1]["to"])
    assert version.tags["smar.promoted_at"] == moves[-1]["at"]
    assert version.tags["smar.promoted_from"] == (releases.registry.predecessor(moves[-1]["to"]) or "none")


@dataclass(frozen=True, kw_only=True)
class Change:
    """A command that changes what serves, and what it leaves."""

    arguments: list[str]
    again: Callable[[Releases], str]
    after: Callable[[Releases], tuple[str, str]]
    action: str
    before: int
    """Lines of this action that the history has already."""


def build(run: Run, stage: str) -> str:
    return run.output(stage).digest


CHANGES = {
    "promote": Change(
        arguments=["promote", "--run", "third", "--approved-by", "Ada", "--comment", "looks right"],
        again=lambda releases: promote_run(releases.third, approved_by="Ada", comment="looks right"),
        after=lambda releases: ("3", build(releases.third, "index")),
        action="promote",
        before=2,
    ),
    "publish-index": Change(
        arguments=["publish-index", "--run", "refresh-second"],
        again=lambda releases: publish_index(releases.refresh_second),
        after=lambda releases: ("2", build(releases.refresh_second, "refresh-index")),
        action="refresh",
        before=0,
    ),
    "rollback": Change(
        arguments=["rollback", "--run", "refresh-first", "--reason", "a fault", "--by", "Ada"],
        again=lambda releases: roll_back(releases.refresh_first, reason="a fault", by="Ada"),
        after=lambda releases: ("1", build(releases.refresh_first, "refresh-index")),
        action="rollback",
        before=0,
    ),
}
REPAIRS: list[Callable[[Releases, int], Any]] = [
    lambda releases, step: reconcile(releases.first.settings),
    lambda releases, step: releases.start(f"after-{step}"),
    lambda releases, step: promote_run(replace(releases.first, promotion="ask")),
]


def check_repair(releases: Releases, change: Change, step: int, old: tuple[str, str]) -> None:
    new = change.after(releases)
    is_new = assert_whole(releases, old, new) == new
    REPAIRS[step % len(REPAIRS)](releases, step)
    assert_recorded(releases, action=change.action, times=change.before + is_new)
    change.again(releases)
    assert releases.pointer() == new
    assert_recorded(releases, action=change.action, times=change.before + 1)
    entry = next(e for e in reversed(read_history("smar")) if e["action"] == change.action)
    assert entry["evidence"]["answered"]["found"] > 0
    assert entry["by"] == ("smar publish-index" if change.action == "refresh" else "Ada")


@pytest.fixture
def prepared(
    releases: Releases, tmp_path: Path, request: pytest.FixtureRequest
) -> tuple[Releases, Change, Callable[[], None]]:
    """All that comes before a change is done; and what goes back to there."""
    if request.param == "rollback":
        assert publish_index(releases.refresh_first) == "published"
    releases.keep(tmp_path)
    return releases, CHANGES[request.param], lambda: releases.put_back(tmp_path)


@pytest.mark.parametrize("prepared", CHANGES, indirect=True)
def test_a_process_killed_at_any_step_leaves_one_release_whole_and_the_next_command_repairs(
    prepared: tuple[Releases, Change, Callable[[], None]], killed_at: Callable[[int | str, list[str]], int]
) -> None:
    releases, change, put_back = prepared
    old, left = releases.pointer(), set()
    for step in range(1, 60):
        code = killed_at(step, change.arguments)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        left.add(releases.pointer() == old)
        check_repair(releases, change, step, old)
        put_back()
    assert step > 10, "the command has more steps than these"
    assert left == {True, False}, "it was killed before the change and after it"
    assert releases.pointer() == change.after(releases)


@pytest.mark.parametrize("prepared", ["promote", "publish-index"], indirect=True)
def test_a_registry_lost_at_any_step_leaves_one_release_whole_and_the_next_command_repairs(
    prepared: tuple[Releases, Change, Callable[[], None]],
) -> None:
    releases, change, put_back = prepared
    old = releases.pointer()
    for step in range(1, 60):
        with registry_lost_at(step) as steps, suppress(MlflowException):
            change.again(releases)
        if steps.count < step:
            break
        assert not (releases.home / "registry.lock").exists()
        check_repair(releases, change, step, old)
        put_back()
    assert step > 4, "the command has more steps than these"


DAMAGED = {
    "line of the history": "releases.jsonl",
    "note": "releases.pending.json",
    "lock": "registry.lock",
    "number of the lock's holder": "registry.lock.number",
    "record of the run that trained what is left": "runs/second/run.json",
    "record of the run that trained what is returned to": "runs/first/run.json",
    "record of another run": "runs/third/run.json",
    "state of another run": "runs/third/gate.json",
    "manifest of the index that is returned to": "lake/index",
    "manifest of the model that is returned to": "lake/finetune",
    "manifest of a refreshed index": "lake/refresh-index",
    "manifest of refreshed embeddings": "lake/embed-release",
    "contract's record": "lake/contracts",
    "cache of digests": "file_digests.db",
}


CONTENTS = (b"", b"\xff\x00{", b"[1]", b'{"at": ')


def test_a_rollback_works_with_any_one_small_file_damaged(
    made: tuple[Releases, Path], releases: Releases, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, back = releases.pointer(), CHANGES["rollback"].after(releases)
    lake = tmp_path / "lake"
    shutil.copytree(releases.home / "lake", lake)
    for number, (what, name) in enumerate(DAMAGED.items()):
        target, content = releases.home / name, CONTENTS[number % len(CONTENTS)]
        for file in sorted(target.glob("*.json")) if target.is_dir() else [target]:
            old = file.read_bytes() if file.is_file() else b""
            # The second move, which says what the champion's predecessor is.
            lines = old.splitlines(keepends=True)
            file.write_bytes(
                b"".join([*lines[:1], content + b"\n", *lines[2:]]) if file.suffix == ".jsonl" else content
            )
        run = refresh_run(releases.home, f"damaged-{number}", release="previous")
        assert run.release is not None and run.release.version == "1", what
        assert publish_index(run) == "published", what
        assert roll_back(run, reason="a fault", by="Ada") == "rolled back", what
        assert assert_whole(releases, back) != before
        assert [move["number"] for move in read_moves("smar")] == [1, 2, 3], what
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        releases.put_back(made[1])
        shutil.rmtree(releases.home / "lake")
        shutil.copytree(lake, releases.home / "lake")


def test_a_refresh_moves_the_index_of_its_release_and_says_what_changed(releases: Releases) -> None:
    old = releases.pointer()
    assert publish_index(releases.refresh_second) == "published"
    version, index = assert_whole(releases, CHANGES["publish-index"].after(releases))
    release = releases.registry.release(version)
    searcher = Searcher.load(Path(release.model_folder), Path(release.index_folder))
    assert len(searcher.items["item_id"]) == len(tiny_items()) - 1
    entry = read_history("smar")[-1]
    assert (entry["from"], entry["to"]) == ("2", "2")
    assert (entry["index_from"], entry["index"]) == (old[1], index)
    assert (entry["evidence"]["items"], entry["evidence"]["items_removed"]) == (len(tiny_items()) - 1, 1)
    # The build before can still be asked for by its digest, as by a server that has just read it.
    assert Path(releases.registry.release(version, index=old[1]).index_folder).parent.name == "artifacts"
    assert publish_index(releases.refresh_second) == "unchanged"
    assert [e["action"] for e in read_history("smar")] == ["promote", "promote", "refresh"]


def test_a_refresh_after_a_refresh_of_the_same_catalogue_is_the_same_build(releases: Releases) -> None:
    publish_index(releases.refresh_second)
    again = refresh_run(releases.home, "again", release="2")
    assert again.release is not None
    assert again.release.index_digest == build(releases.refresh_second, "refresh-index")
    assert publish_index(again) == "unchanged"


def test_another_refresh_meanwhile_is_not_undone(releases: Releases) -> None:
    release = releases.registry.release("2", index=build(releases.second, "index"))
    publish_index(releases.refresh_second)
    late = replace(releases.refresh_second, release=replace(release, index_digest="0" * 64))
    late.take(releases.second.output("index"), stage="refresh-index")
    before = releases.pointer()
    assert publish_index(late) == "kept"
    assert releases.pointer() == before


def test_a_build_of_another_model_or_one_that_does_not_answer_is_not_published(releases: Releases) -> None:
    before, run = releases.pointer(), releases.refresh_second
    own = run.output("refresh-index")
    run.take(releases.refresh_first.output("refresh-index"), stage="refresh-index")
    with pytest.raises(InputError, match="built for the model"):
        publish_index(run)
    run.take(own, stage="refresh-index")
    file = own.file("index.faiss")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match=r"index\.faiss: missing or damaged"):
        publish_index(run)
    file.write_bytes(whole)
    assert releases.pointer() == before
    assert source_tag(own.digest) not in releases.registry.version("2").tags
    with pytest.raises(InputError, match="met no release"):
        publish_index(replace(run, release=None))


def test_rolling_back_takes_a_refreshed_index_a_reason_and_a_release(releases: Releases) -> None:
    run = releases.refresh_first
    with pytest.raises(InputError, match="--reason"):
        roll_back(run, reason=" ", by="Ada")
    with pytest.raises(
        InputError, match="refresh the index of version 1 first: `smar publish-index --run refresh-first`"
    ):
        roll_back(run, reason="a fault", by="Ada")
    publish_index(run)
    assert roll_back(run, reason="a fault", by="Ada") == "rolled back"
    assert_whole(releases, CHANGES["rollback"].after(releases))
    entry = read_history("smar")[-1]
    assert (entry["action"], entry["from"], entry["to"]) == ("rollback", "2", "1")
    assert (entry["by"], entry["reason"]) == ("Ada", "a fault")
    assert roll_back(run, reason="a fault", by="Ada") == "unchanged"
    assert_recorded(releases, action="rollback", times=1)


def test_a_version_that_was_never_released_is_not_rolled_back_to(releases: Releases) -> None:
    run = releases.start("to-the-third", release="3")
    run.write_state("publish-index", "finished")
    with pytest.raises(InputError, match="version 3 was never released"):
        roll_back(run, reason="a fault", by="Ada")
    with pytest.raises(InputError, match="no version '77'"):
        releases.start("to-none", release="77")
    with pytest.raises(InputError, match="works on version 3; choose another name"):
        releases.start("to-the-third", release="1")


def test_a_rollback_begun_before_a_promotion_is_refused(releases: Releases) -> None:
    publish_index(releases.refresh_first)
    promote_run(releases.third)
    with pytest.raises(InputError, match="the champion became version 3 while this run, which met version 2"):
        roll_back(releases.refresh_first, reason="a fault", by="Ada")


def test_the_previous_release_is_what_the_champion_once_replaced(releases: Releases) -> None:
    previous = releases.start("previous", release="previous")
    assert previous.release and previous.champion
    assert (previous.release.version, previous.champion.version) == ("1", "2")
    publish_index(releases.refresh_first)
    roll_back(releases.refresh_first, reason="a fault", by="Ada")
    # Not the one that was rolled back from.
    with pytest.raises(NothingToDo, match="version 1, the champion, is the first release"):
        releases.start("before-the-first", release="previous")
    third = releases.start("after-the-rollback")
    assert third.champion and third.champion.version == "1"
    promote_run(replace(releases.third, champion=third.champion))
    previous = releases.start("previous-of-3", release="previous")
    assert previous.release and previous.release.version == "1"


def test_without_a_previous_release_start_ends_as_a_skipped_task_does(
    releases: Releases, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = write_settings(releases.home, release={"model": "another"})
    arguments = [
        "start",
        "--settings",
        str(settings),
        "--run",
        "none",
        "--date",
        str(LAST_DAY),
        "--release",
        "previous",
    ]
    monkeypatch.setattr(sys, "argv", ["smar", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 99
    assert (
        capsys.readouterr().err.strip()
        == "nothing to do: model 'another' has no previous release: there is no champion"
    )
    assert json.loads((releases.home / "runs" / "none" / "start.json").read_text())["state"] == "skipped"
    assert not (releases.home / "runs" / "none" / "run.json").exists()


def test_a_run_that_asks_waits_for_a_person_and_says_who_decided(
    releases: Releases, capsys: pytest.CaptureFixture[str]
) -> None:
    run = replace(releases.third, promotion="ask")
    assert promote_run(run) == "kept"
    assert "waits for a person: smar promote --run third --approved-by WHO" in capsys.readouterr().out
    with pytest.raises(InputError, match="state one of them"):
        promote_run(run, approved_by="Ada", rejected_by="Ben")

    for _ in range(2):
        assert promote_run(run, rejected_by="Ben", comment="too slow") == "kept"
    assert releases.pointer()[0] == "2"
    entry = read_history("smar")[-1]
    assert (entry["action"], entry["version"], entry["to"]) == ("reject", "3", "2")
    assert [e["action"] for e in read_history("smar")].count("reject") == 1
    tags = releases.registry.version("3").tags
    assert (tags["smar.decision"], tags["smar.decided_by"], tags["smar.decision_reason"]) == (
        "rejected",
        "Ben",
        "too slow",
    )

    assert promote_run(run, approved_by="Ada") == "promoted"
    tags = releases.registry.version("3").tags
    assert (tags["smar.decision"], tags["smar.decided_by"]) == ("approved", "Ada")
    assert read_history("smar")[-1]["by"] == "Ada"
    assert promote_run(run, approved_by="Ada") == "unchanged"
    assert [
        json.loads(v)["by"] for n, v in sorted(releases.registry.registered().tags.items()) if n.startswith(HISTORY_TAG)
    ] == [
        "the gate",
        "the gate",
        "Ada",
    ]


def test_who_is_asked_reads_the_figures_the_rules_and_where_the_report_is(releases: Releases) -> None:
    run = replace(releases.third, note="a [link](http://127.0.0.1) | <b>")
    text = describe_decision(run)
    lines = text.splitlines()
    evaluation = json.loads(run.output("evaluate").file("evaluation.json").read_text(encoding="utf-8"))
    mean = evaluation["models"]["challenger"]["fashion"]["recall_at_50"]["mean"]
    row = next(line for line in lines if line.startswith("| **this run**"))
    assert row.split("|")[4].strip() == f"{100 * mean:.1f}"
    assert all(any(line.startswith(f"| **{name}**") for line in lines) for name in ("champion", "text-only", "BM25"))
    assert lines[0].startswith("**Run** third, version 3, trained up to")
    assert "**Champion**: version 2." in lines[0]
    assert sum(line.startswith("- ✓") for line in lines) >= 5
    assert lines[-1].startswith("[Report in MLflow](http://127.0.0.1:5000/#/experiments/")
    assert lines[-1].endswith("(answers while `make ui` runs)")
    assert any(re.fullmatch(r"\d+ of \d+ rules passed; \d+ not judged:", line) for line in lines)
    assert sum(line.startswith("- –") for line in lines) >= 1
    assert "\\[link\\]" in text and "\\<b\\>" in text


def test_a_champion_set_by_hand_is_verified_and_written_down(
    releases: Releases, capsys: pytest.CaptureFixture[str]
) -> None:
    reconcile(releases.first.settings)
    assert [e["action"] for e in read_history("smar")] == ["promote", "promote"]
    releases.move_by_hand("3")
    reconcile(releases.first.settings)
    assert "moved by hand from version 2 to 3; it answers" in capsys.readouterr().out
    entry = read_history("smar")[-1]
    assert (entry["action"], entry["from"], entry["to"], entry["by"]) == ("by hand", "2", "3", "unknown")
    assert entry["evidence"]["answered"]["found"] > 0
    assert_recorded(releases, action="by hand", times=1)
    releases.move_by_hand("1")
    releases.start("met-by-hand")
    assert_recorded(releases, action="by hand", times=2)
    # It was released before: what it replaced then is still its predecessor.
    assert releases.registry.predecessor("3") == "2"
    assert releases.registry.predecessor("1") is None


def test_an_index_set_by_hand_is_verified_and_written_down(releases: Releases) -> None:
    refreshed = releases.refresh_second.output("refresh-index")
    publish_index(releases.refresh_second)
    releases.registry.tag("2", "index", build(releases.second, "index"))
    reconcile(releases.first.settings)
    assert read_history("smar")[-1]["index"] == build(releases.second, "index")
    releases.registry.tag("2", "index", refreshed.digest)
    reconcile(releases.first.settings)
    entry = read_history("smar")[-1]
    assert (entry["action"], entry["by"], entry["index"]) == ("refresh", "unknown", refreshed.digest)
    assert releases.registry.registered().last_good == ("2", refreshed.digest)


def _damage_model(releases: Releases) -> None:
    (Path(releases.registry.release("3").model_folder) / "weights.safetensors").rename(releases.home / "model")


def _repair_model(releases: Releases) -> None:
    (releases.home / "model").rename(
        Path(releases.registry.unverified_release("3")[0].model_folder) / "weights.safetensors"
    )


def _foreign_index(releases: Releases) -> None:
    foreign = releases.refresh_first.output("refresh-index")
    releases.registry.tag("3", source_tag(foreign.digest), foreign.folder.as_uri())
    releases.registry.tag("3", "index", foreign.digest)


def _own_index(releases: Releases) -> None:
    releases.registry.tag("3", "index", build(releases.third, "index"))


@pytest.mark.parametrize(
    ("spoil", "mend", "says"),
    [
        (_damage_model, _repair_model, "weights.safetensors: gone, a file of this release"),
        (_foreign_index, _own_index, "has no signature"),
        (
            lambda releases: releases.registry.client.delete_model_version_tag("smar", "3", "smar.run"),
            lambda releases: releases.registry.tag("3", "smar.run", "third"),
            "not made by `smar register`",
        ),
    ],
)
def test_a_champion_set_by_hand_that_cannot_serve_is_reported_and_the_last_good_one_stands(
    releases: Releases,
    spoil: Callable[[Releases], None],
    mend: Callable[[Releases], None],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(releases)
    releases.move_by_hand("3")
    for _ in range(2):
        with pytest.raises(InputError, match="version 2 goes on serving") as raised:
            reconcile(releases.first.settings)
        assert says in str(raised.value)
        assert "version 3" in str(raised.value)
        assert len(str(raised.value).splitlines()) == 1
    assert says in releases.registry.version("3").tags[CANNOT_SERVE]
    assert releases.registry.aliased(CHAMPION) == "3", "no alias is moved by itself"
    assert len(read_history("smar")) == 2
    # Runs go on with what serves.
    run = releases.start("meanwhile")
    assert "WARNING: the champion of model 'smar', version 3" in capsys.readouterr().out
    assert run.champion and run.champion.version == "2"
    mend(releases)
    reconcile(releases.first.settings)
    assert CANNOT_SERVE not in releases.registry.version("3").tags
    assert_recorded(releases, action="by hand", times=1)


def test_smar_champion_names_what_serves_in_the_place_of_one_that_cannot(
    releases: Releases, capsys: pytest.CaptureFixture[str]
) -> None:
    releases.registry.client.delete_model_version_tag("smar", "3", "smar.run")
    releases.move_by_hand("3")
    show_champion(releases.first.settings, as_json=True)
    said = capsys.readouterr()
    assert json.loads(said.out)["version"] == "2"
    assert "the champion cannot serve: version 3" in said.err and "serves, version 2" in said.err
    releases.registry.tag("3", "smar.run", "third")


def test_a_run_can_be_promoted_in_the_place_of_a_champion_that_cannot_serve(releases: Releases) -> None:
    _foreign_index(releases)
    releases.move_by_hand("3")
    release = releases.start("back", release="champion").release
    assert release and release.version == "2"
    run = replace(releases.refresh_second, release=release)
    publish_index(run)
    assert roll_back(run, reason="3 cannot serve", by="Ada") == "rolled back"
    assert releases.registry.aliased(CHAMPION) == "2"
    assert_recorded(releases, action="rollback", times=1)
    _own_index(releases)


def test_an_alias_that_is_gone_is_reported(releases: Releases) -> None:
    releases.registry.client.delete_registered_model_alias("smar", CHAMPION)
    with pytest.raises(
        InputError, match="lost its alias 'champion', which stood at version 2; version 2 goes on serving"
    ):
        reconcile(releases.first.settings)


def test_a_history_that_is_lost_comes_back_from_the_registry(releases: Releases) -> None:
    before = read_moves("smar")
    (releases.home / "releases.jsonl").unlink()
    releases.start("on-a-new-machine")
    after = read_moves("smar")
    short = ("number", "at", "action", "from", "to", "run", "date", "by", "index")
    assert [[m[n] for n in short] for m in after] == [[m[n] for n in short] for m in before]
    assert releases.registry.predecessor("2") == "1"
    append_history(before[-1] | {"number": 3, "from": "2", "to": "3", "reason": '"\\é' * 5_000})
    tag_history(releases.registry)
    kept = releases.registry.registered().tags[f"{HISTORY_TAG}00003"]
    assert json.loads(kept)["to"] == "3"
    assert len(kept) <= TAG_LENGTH


def test_a_torn_line_of_the_history_is_no_line(releases: Releases) -> None:
    before = read_history()
    with (releases.home / "releases.jsonl").open("a") as file:
        file.write('{"at": "2026-11-')
    assert read_history() == before
    promote_run(releases.third)
    assert [e["to"] for e in read_history()] == ["1", "2", "3"]


def test_history_shows_who_did_what_and_why(releases: Releases) -> None:
    assert "version none → 1  (promote by the gate, run first" in CliRunner().invoke(app, ["history"]).stdout
    publish_index(releases.refresh_second)
    publish_index(releases.refresh_first)
    roll_back(releases.refresh_first, reason="a fault", by="Ada")
    promote_run(replace(releases.third, promotion="ask"), rejected_by="Ben", comment="too slow")
    releases.move_by_hand("2")
    reconcile(releases.first.settings)
    lines = [line for line in CliRunner().invoke(app, ["history"]).stdout.splitlines() if not line.startswith(" ")]
    assert "version 2: index refreshed by smar publish-index" in lines[2]
    assert "version 2 → 1  (rollback by Ada, run refresh-first, data up to 2026-11-19): a fault" in lines[4]
    assert "version 3 rejected by Ben, version 1 stays" in lines[5]
    assert "version 1 → 2  (by hand by unknown" in lines[6]
    assert len(json.loads(CliRunner().invoke(app, ["history", "--json"]).stdout)) == 7


def test_a_version_registered_after_being_killed_is_one_version(
    releases: Releases, killed_at: Callable[[int | str, list[str]], int]
) -> None:
    before = releases.pointer()
    fresh = judged_run(releases.home, "fresh", seed=5, drawn=False)
    for call in ("sign_manifest", "record_manifest", "create_model_version", "set_registered_model_alias"):
        assert killed_at(call, ["register", "--run", "fresh"]) == -signal.SIGKILL
        assert releases.pointer() == before
    register_run(fresh)
    digest = fresh.output("finetune").manifest["content"]["model"]
    found = releases.registry.client.search_model_versions("name = 'smar'")
    assert [str(v.version) for v in found if v.tags["smar.model_digest"] == digest] == ["4"]
    assert releases.registry.aliased("challenger") == "4"
    assert register_run(fresh) == "4"
    # A refresh does not make it another version.
    releases.registry.tag("4", "index", "0" * 64)
    assert register_run(fresh) == "4"
