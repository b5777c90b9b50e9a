"""Who wrote something is told apart from every other process: one that took its PID, one before a restart, one in another PID namespace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smar_model.errors import InputError
from smar_model.lake.durable_files import sweep_temporaries
from smar_model.lake.process_identity import process_state, temporary_beside, this_process, writer_state
from smar_model.lake.publishing import Attempt
from smar_model.release.history import append_history, history_file, new_entry, read_pending, write_pending
from smar_model.release.lease import registry_lease
from smar_model.settings import REPOSITORY
from tests.privileged import NEW_NAMESPACE, need_namespaces
from tests.tiny_shop import tiny_run

TELL = """
import json, time
from pathlib import Path
from smar_model.lake.process_identity import temporary_beside, this_process
from smar_model.settings import home
(home() / "runs" / "x").mkdir(parents=True)
for path in (home() / "releases.jsonl", home() / "runs" / "x" / "start.json", home() / "lake"):
    temporary_beside(path).write_text("half of")
print(json.dumps(this_process()), flush=True)
time.sleep(600)
"""
ELSEWHERE = """
from smar_model.errors import NoAnswer
from smar_model.lake.sweeping import sweep_orphans
from smar_model.lake.runs import load_run
from smar_model.lake.durable_files import sweep_temporaries
from smar_model.release.lease import registry_lease
print("swept", sweep_orphans(), sweep_temporaries())
print("state", load_run("tiny").state("index")["state"])
try:
    with registry_lease(purpose="second", wait_seconds=0.5):
        print("taken")
except NoAnswer as error:
    print(error)
"""
PAUSED = """
import os, signal, sys
from smar_model.errors import InputError
from smar_model.release.history import append_history, new_entry, write_pending
from smar_model.release.lease import registry_lease
with registry_lease(purpose="paused", lease_seconds=0.5) as lease:
    entry = new_entry("smar", "promote", **{"from": None, "to": "9"}, run="r", date="", index="i", by="", reason="", evidence={})
    print(lease.number, flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    for write in (lambda: write_pending("smar", entry | {"number": 1}), lambda: append_history(entry)):
        try:
            write()
            print("written")
        except InputError as error:
            print(error)
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    return tmp_path


def start(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def writer(home: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A process that is writing three files under temporary names, and what it says of itself."""
    process = start(TELL)
    assert process.stdout
    yield process, json.loads(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_process_is_alive_until_it_ends_even_while_nobody_asks_for_its_exit_code(
    writer: tuple[subprocess.Popen[str], dict[str, Any]],
) -> None:
    process, identity = writer
    assert process_state(identity) == "alive"
    assert process_state({"host": identity["host"], "pid": identity["pid"]}) == "alive"  # as earlier versions wrote it
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert process_state(identity) == "gone"
    process.wait()
    assert process_state(identity) == "gone"
    assert process_state({"host": identity["host"], "pid": identity["pid"]}) == "gone"


def test_a_pid_that_another_process_has_got_is_not_the_one_that_wrote() -> None:
    mine = this_process()
    assert process_state(mine | {"started": mine["started"] - 1}) == "gone"


@pytest.mark.parametrize(
    "change",
    [{"boot": "another"}, {"pid_namespace": 1}, {"host": "another"}, {"pid": "7"}, {"pid": -1}, {"pid": True}],
    ids=str,
)
def test_of_what_cannot_be_asked_for_nothing_is_claimed(change: dict[str, Any]) -> None:
    assert process_state(this_process() | change) == "unknown"
    assert process_state({}) == "unknown"


def test_what_a_killed_process_was_writing_is_swept_and_never_what_a_living_one_is(
    home: Path, writer: tuple[subprocess.Popen[str], dict[str, Any]]
) -> None:
    earlier = home / "runs" / f".run.json.{'0' * 32}"  # by an earlier version, so only age tells
    earlier.write_text("half of")
    hidden = [home / ".profile", home / "runs" / ".part-0.parquet.crc"]
    for path in hidden:
        path.write_text("ours to keep")
    assert sweep_temporaries() == 0
    writer[0].kill()
    writer[0].wait()
    assert sweep_temporaries() == 3
    assert earlier.exists()
    os.utime(earlier, (time.time() - 2 * 86_400,) * 2)
    assert sweep_temporaries() == 1
    assert all(path.exists() for path in hidden)
    assert not [path for path in home.rglob(".*") if path not in hidden]


def test_a_name_of_another_boot_or_namespace_is_left_to_its_age(home: Path) -> None:
    name = temporary_beside(home / "x").name
    assert writer_state(name) == "alive"
    pid, started, machine, count = name.rpartition(".")[2].split("-")
    other = f".x.{pid}-{started}-{'0' * 8 if machine != '0' * 8 else '1' * 8}-{count}"
    assert writer_state(other) == "unknown"
    assert writer_state(f".x.{pid}-{int(started, 16) + 1:x}-{machine}-{count}") == "gone"


def test_from_another_pid_namespace_nothing_of_a_living_process_is_taken(home: Path) -> None:
    need_namespaces()
    run = tiny_run(home / "shop")
    run.write_state("index", "running")
    attempt, half = Attempt("embed", "0" * 64), temporary_beside(home / "runs" / "y")
    half.write_text("half of")
    with registry_lease(purpose="first", lease_seconds=600) as lease:
        command = [*NEW_NAMESPACE, sys.executable, "-c", ELSEWHERE]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        lease.verify()
    assert done.stdout.splitlines()[:2] == ["swept 0 0", "state running"]
    assert f"held by process {os.getpid()} on" in done.stdout
    assert "taken" not in done.stdout
    assert attempt.folder.exists() and half.exists()


def test_two_namespaces_beside_each_other_do_not_take_each_other_for_dead(home: Path) -> None:
    """Both processes have a PID that means another process here, or none."""
    need_namespaces()
    command = [*NEW_NAMESPACE, sys.executable, "-c", TELL]
    first = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout
        identity = json.loads(first.stdout.readline())
        assert identity["pid"] < 10
        assert process_state(identity) == "unknown"
        assert sweep_temporaries() == 0
        asked = (
            "import json, sys; from smar_model.lake.process_identity import process_state\n"
            "print(process_state(json.loads(sys.argv[1])))"
        )
        command = [*NEW_NAMESPACE, sys.executable, "-c", asked, json.dumps(identity)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        assert done.stdout == "unknown\n"
    finally:
        first.kill()
        first.wait()
        assert first.stdout
        first.stdout.close()


def test_who_was_paused_until_the_lease_ran_out_writes_neither_note_nor_history(home: Path) -> None:
    entry = new_entry("smar", "promote", **{"from": None, "to": "1"}, run="r", date="", index="i", by="", reason="")
    process = start(PAUSED)
    try:
        assert process.stdout
        number = int(process.stdout.readline())
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        with registry_lease(purpose="second", wait_seconds=60) as lease:
            assert lease.number > number
            append_history(entry)
        before = history_file().read_bytes()
        process.send_signal(signal.SIGCONT)
        answer = process.communicate(timeout=60)[0].splitlines()
        assert len(answer) == 2 and all("the lease ran out before the change was made" in line for line in answer)
    finally:
        process.kill()
        process.wait()
    assert history_file().read_bytes() == before
    assert read_pending("smar") is None


@pytest.mark.parametrize("damage", ["cut", "binary", "gone"])
def test_numbers_of_holders_grow_whatever_becomes_of_the_files(home: Path, damage: str) -> None:
    lock, numbers = home / "registry.lock", []
    with registry_lease(purpose="first") as lease:
        numbers.append(lease.number)
    with registry_lease(purpose="second") as late:
        numbers.append(late.number)
        for file in (lock, home / "registry.lock.number"):
            content = file.read_bytes()
            file.unlink() if damage == "gone" else file.write_bytes(content[:3] if damage == "cut" else b"\xff\x00\x9f")
        with registry_lease(purpose="third", wait_seconds=0) as lease:
            numbers.append(lease.number)
            with pytest.raises(InputError, match="lease ran out"):
                late.verify()
            write_pending("smar", None)
            lease.verify()
    assert numbers == sorted(set(numbers))
