"""One small damaged file: named in one line with what to do, made again where it can be, and never in the way of what does not need it."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from smar_model.errors import InputError, machine_failure
from smar_model.lake import records
from smar_model.lake.artifacts import find_artifact, load_artifact, manifest_path, newest_artifact
from smar_model.lake.digests import digest_raw_files
from smar_model.lake.publishing import Attempt
from smar_model.lake.runs import find_runs, load_run
from smar_model.lake.stage import Stage, StageContext, run_stage
from smar_model.lake.sweeping import sweep_orphans
from smar_model.settings import REPOSITORY
from tests.privileged import small_disk
from tests.tiny_shop import tiny_run

WORK = Stage(name="label-fashion", summary="", work=f"{__name__}:work")


def work(context: StageContext) -> dict[str, Any]:
    context.output("done.txt").write_text("done")
    return {"rows": 1}


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "cut early": lambda content: content[:10],
    "garbled": lambda content: content.replace(b":", b"}", 3),
    "empty": lambda content: b"",
    "zeroed": lambda content: bytes(len(content)),
    "binary": lambda content: bytes(range(256)),
    "not UTF-8": lambda content: content.replace(b'"', b'"\xe9', 2),
    "a list": lambda content: b"[1, 2]",
    "a number": lambda content: b"7",
    "no fields": lambda content: b"{}",
    "null": lambda content: b"null",
    "deep": lambda content: b"[" * 100_000,
    "values of other types": lambda content: re.sub(rb": [^,}]+", b": []", content),
    "another's": lambda content: content.replace(b"label-fashion", b"label-fashiom").replace(b'"tiny"', b'"other"'),
}


@pytest.fixture(params=DAMAGES)
def damage(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        path.write_bytes(DAMAGES[request.param](path.read_bytes()))

    return apply


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    records._said.clear()
    return tmp_path


def assert_one_line(text: str, path: Path) -> None:
    assert text.count("\n") <= 1 and text.startswith(f"{path}: damaged ("), text


def test_an_output_whose_manifest_is_damaged_is_set_aside_and_made_again(
    home: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run(home / "shop")
    made = run_stage(WORK, run)
    path = manifest_path(made.stage, made.key)
    damage(path)
    # Nothing that looks at all outputs is stopped, and its files stay: a release may answer from them.
    assert newest_artifact(made.stage, made.manifest["made_by"]) is None
    assert sweep_orphans() == 0
    capsys.readouterr()
    again = run_stage(WORK, run)
    said = capsys.readouterr().err
    assert_one_line(said, path)
    assert "set aside" in said and "again" in said
    assert again.place != made.place and again.file("done.txt").read_text() == "done"
    assert load_artifact(made.stage, made.key).digest == made.digest
    assert len(list((home / "lake" / made.stage / "damaged").rglob("*.json"))) == 1
    assert sweep_orphans() == 0
    assert (made.place / "done.txt").exists()


def test_who_needs_an_output_with_a_damaged_manifest_is_told_to_make_it_again(
    home: Path, damage: Callable[[Path], None]
) -> None:
    run = tiny_run(home / "shop")
    made = run_stage(WORK, run)
    damage(manifest_path(made.stage, made.key))
    with pytest.raises(InputError) as raised:
        run.output(WORK.name)
    assert_one_line(str(raised.value), manifest_path(made.stage, made.key))
    assert "again" in str(raised.value) and "label-fashion" in str(raised.value)


def test_of_many_who_meet_a_damaged_manifest_none_moves_the_one_that_was_made_again(home: Path) -> None:
    run = tiny_run(home / "shop")
    made = run_stage(WORK, run)
    path = manifest_path(made.stage, made.key)
    whole = path.read_text()
    for _ in range(20):
        path.write_text("{")
        barrier, lost = threading.Barrier(4), []

        def meet(barrier: threading.Barrier = barrier, lost: list[int] = lost) -> None:
            barrier.wait()
            if find_artifact(made.stage, made.key) is None:
                lost.append(1)
                if not path.exists():
                    path.write_text(whole)

        threads = [threading.Thread(target=meet) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert lost and find_artifact(made.stage, made.key) is not None


def test_another_run_s_damaged_record_is_passed_over_and_said_once(
    home: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_run(home / "shop")
    tiny_run(home / "shop", name="whole")
    path = home / "runs" / "tiny" / "run.json"
    damage(path)
    assert [run.name for run in find_runs()] == ["whole"] == [run.name for run in find_runs()]
    assert_one_line(capsys.readouterr().err.removeprefix("passed over: "), path)
    with pytest.raises(InputError, match="begin the run again with `smar start --run tiny") as raised:
        load_run("tiny")
    assert_one_line(str(raised.value), path)


def test_a_run_s_own_damaged_state_is_named_with_the_step_to_do_again(
    home: Path, damage: Callable[[Path], None]
) -> None:
    run = tiny_run(home / "shop")
    run_stage(WORK, run)
    path = run.folder / "label-fashion.json"
    damage(path)
    with pytest.raises(InputError, match="do that step again: `smar label-fashion --run tiny`") as raised:
        run.output(WORK.name)
    assert_one_line(str(raised.value), path)
    assert run_stage(WORK, run).digest == run.output(WORK.name).digest


def test_an_owner_that_cannot_be_read_is_left_to_its_age(home: Path, damage: Callable[[Path], None]) -> None:
    attempt = Attempt("embed", "0" * 64)
    damage(attempt.folder / ".owner.json")
    assert sweep_orphans() == 0
    os.utime(attempt.folder, (0, 0))
    sweep_orphans()
    assert attempt.folder.exists() == ((attempt.folder / ".owner.json").exists())


def test_a_damaged_cache_of_digests_is_made_anew(
    home: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "input").write_text("content")
    digest = digest_raw_files([home / "input"], root=home)
    cache = home / "file_digests.db"
    damage(cache)
    assert digest_raw_files([home / "input"], root=home) == digest
    assert capsys.readouterr().err.count("\n") <= 1
    with sqlite3.connect(cache) as connection:
        assert connection.execute("SELECT count(*) FROM digest").fetchone() == (1,)
    connection.close()


@pytest.mark.parametrize("statement", ["DROP TABLE digest; CREATE TABLE digest (x)", "UPDATE digest SET digest = 'x'"])
def test_a_cache_of_other_content_is_made_anew(home: Path, statement: str) -> None:
    (home / "input").write_text("content")
    digest = digest_raw_files([home / "input"], root=home)
    connection = sqlite3.connect(home / "file_digests.db")
    connection.executescript(statement)
    connection.close()
    assert digest_raw_files([home / "input"], root=home) == digest


def test_nobody_waits_for_another_s_hashing(home: Path) -> None:
    """The second input of the first process is a pipe that nobody has written into yet."""
    (home / "a").write_text("first")
    (home / "c").write_text("third")
    os.mkfifo(home / "b")
    digests: list[str] = []
    slow = threading.Thread(
        target=lambda: digests.append(digest_raw_files([home / "a", home / "b"], root=home)), daemon=True
    )
    slow.start()
    with (home / "b").open("wb") as pipe:  # opens when the other side is reading
        digest_raw_files([home / "c"], root=home)
        assert slow.is_alive()
        pipe.write(b"second")
    slow.join(60)
    assert len(digests) == 1


def test_a_home_folder_that_cannot_be_written_to_does_not_stop_a_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "input").write_text("content")
    whole = digest_raw_files([tmp_path / "input"], root=tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "file" / "home"))
    assert digest_raw_files([tmp_path / "input"], root=tmp_path) == whole
    assert "file_digests.db: not usable" in capsys.readouterr().err


def smar(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "smar_model.cli", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"SMAR_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_full_and_a_read_only_disk_are_one_line_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", size="64k") as disk:
        monkeypatch.setenv("SMAR_HOME", str(disk))
        tiny_run(tmp_path / "shop")
        with suppress(OSError), (disk / "filling").open("wb", buffering=0) as file:
            while file.write(b"x" * 4_096):
                pass
        full = smar("measure-drift", "--run", "tiny", home=disk)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        locked = smar("measure-drift", "--run", "tiny", home=disk)
        left = [path for path in disk.rglob(".*") if path.is_file()]
    for done, problem in (
        (full, "No space left on device; free some space"),
        (locked, "Read-only file system; make it"),
    ):
        assert done.returncode == 1, done.stderr
        line = done.stderr.splitlines()[-1]
        assert line.startswith(f"error: {disk}/runs/tiny/") and problem in line
        assert "Traceback" not in done.stderr
    assert not left


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/d/a"), "/d/a: No space left on device; free some space"),
        (OSError(errno.EMFILE, "Too many open files", "/d/a"), "/d/a: Too many open files; raise the limit"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "/home: Disk quota exceeded; free some space"),
        (OSError(errno.EIO, "Input/output error", "/d/a"), "/d/a: Input/output error; check that disk"),
        (
            RuntimeError(
                "An error occurred while calling o7.parquet.\n: java.io.IOException: No space left on device\n\tat x"
            ),
            "/home: No space left on device; free some space",
        ),
        (sqlite3.OperationalError("database or disk is full"), "/home: database or disk is full; free some space"),
        (
            RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "/home: No space left on device; free",
        ),
        (
            RuntimeError("write /d/index.faiss: no space left on device"),
            "/d/index.faiss: no space left on device; free",
        ),
        (OSError("16000 requested and 0 written"), "/home: requested and 0 written; free some space"),
    ],
    ids=str,
)
def test_libraries_say_it_in_their_own_words(error: Exception, line: str) -> None:
    try:
        try:
            raise error
        except Exception as cause:
            raise ValueError("the stage failed") from cause
    except ValueError as wrapped:
        said = machine_failure(wrapped, default_place="/home")
    assert said and said.startswith(line) and "\n" not in said
    assert machine_failure(FileNotFoundError(errno.ENOENT, "No such file", "/d/a"), default_place="/home") is None


@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo], ids=["a folder", "a pipe"])
def test_what_is_no_file_is_passed_over_where_it_is_another_runs_and_named_where_it_is_needed(
    home: Path, put: Callable[[Path], None]
) -> None:
    run = tiny_run(home / "shop")
    (home / "runs" / "other").mkdir(parents=True)
    put(home / "runs" / "other" / "run.json")
    assert [found.name for found in find_runs()] == [run.name]
    with pytest.raises(InputError, match=r"other/run\.json: .*move it away"):
        load_run("other")
