"""The log of answers: rotation, a full queue, a disk or store that refuses, what killed writers leave, masking and hashing."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from smar_model.cli import app as command_line
from smar_model.errors import InputError
from smar_model.lake.process_identity import temporary_beside
from smar_model.serving import answer_log, log_folder
from smar_model.serving.answer_log import AnswerLog, open_place
from smar_model.serving.log_folder import finish_left_files
from smar_model.serving.log_rows import Action, Place, ShownList, write_rows
from smar_model.serving.shopper_ids import ShopperIds, shopper_ids
from smar_model.settings import REPOSITORY
from tests.patience import wait_until
from tests.s3_server import BUCKET, running_s3, s3_client

BEFORE_MIDNIGHT = 1_795_996_799.5
"""2026-11-29 23:59:59.5 UTC."""
PERSONAL = "call 0171 2345678 or anna@example.com 4111 1111 1111 1111 red"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SMAR_STORE", raising=False)
    return tmp_path / "home"


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def shown(query: str = "red shirt", *, items: int = 3, **more: Any) -> ShownList:
    places = [Place(f"item-{n}", "4", None) for n in range(items)]
    given = {"request_id": "ab" * 16, "query": query, "user": "anna", "session": "s1", "routing": None} | more
    return ShownList(places=places, **given)


def running(place: Path | str, clock: Clock, **options: Any) -> AnswerLog:
    log = AnswerLog(open_place(str(place)), shopper_ids(), CollectorRegistry(), clock=clock, **options)
    log.start()
    return log


def rows_of(place: Path) -> list[dict[str, Any]]:
    """Rows of files that readers list."""
    files = sorted(place.glob("dt=*/[!._]*.jsonl"))
    return [json.loads(line) | {"dt": file.parent.name} for file in files for line in file.read_text().splitlines()]


def value(log: AnswerLog, name: str, **labels: str) -> float:
    return log.registry.get_sample_value(name, labels) or 0.0


def test_a_day_s_file_gets_its_name_when_the_day_is_over(tmp_path: Path) -> None:
    place, clock = tmp_path / "click_log", Clock(BEFORE_MIDNIGHT)
    log = running(place, clock)
    assert log.offer([shown()]) == 1
    wait_until(lambda: list(place.glob("dt=2026-11-29/.*")) and next(place.glob("dt=2026-11-29/.*")).stat().st_size)
    assert rows_of(place) == []
    clock.now += 1
    log.offer([shown(items=1)])
    wait_until(lambda: rows_of(place))
    assert [(row["dt"], row["position"]) for row in rows_of(place)] == [("dt=2026-11-29", n) for n in (1, 2, 3)]
    log.close()
    rows = rows_of(place)
    assert [row["dt"] for row in rows] == ["dt=2026-11-29"] * 3 + ["dt=2026-11-30"]
    assert [row["event_time"] for row in rows[2:]] == ["2026-11-29T23:59:59.500000Z", "2026-11-30T00:00:00.500000Z"]
    assert not list(place.rglob(".*"))
    assert value(log, "smar_log_events_total", event="impression") == 4


def test_a_large_file_is_finished_and_another_begun(tmp_path: Path) -> None:
    log = running(tmp_path / "log", Clock(BEFORE_MIDNIGHT), maximum_file=5_000)
    for n in range(20):
        log.offer([shown(f"query {n}", items=5)])
    log.close()
    files = list((tmp_path / "log").glob("dt=2026-11-29/smar-*.jsonl"))
    assert len(files) > 3
    assert all(file.stat().st_size < 7_000 for file in files)
    counted = sorted((int(row["query"].split()[1]), row["position"]) for row in rows_of(tmp_path / "log"))
    assert counted == [(n, position) for n in range(20) for position in range(1, 6)]


def test_what_does_not_fit_is_dropped_and_counted(tmp_path: Path) -> None:
    log = AnswerLog(
        open_place(str(tmp_path / "log")), shopper_ids(), registry := CollectorRegistry(), maximum_queued=10
    )
    assert log.offer([shown(items=4)] * 4) == 2
    assert registry.get_sample_value("smar_log_queued") == 8
    assert value(log, "smar_log_dropped_total", event="impression") == 8
    log.start()
    log.close()
    assert len(rows_of(tmp_path / "log")) == 8
    assert log.offer([shown()]) == 0, "after its end it takes nothing"


def test_a_full_disk_is_told_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(answer_log, "RETRY_SECONDS", 0.05)
    written, full = os.pwrite, True

    def refuse(descriptor: int, content: bytes, offset: int) -> int:
        if not full:
            return written(descriptor, content, offset)
        if len(content) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(descriptor, content[: len(content) // 2], offset)

    monkeypatch.setattr(os, "pwrite", refuse)
    log = running(tmp_path / "log", Clock(BEFORE_MIDNIGHT))
    log.offer([shown()])
    wait_until(lambda: value(log, "smar_log_failures_total", place="disk") >= 3)
    log.offer([shown("blue")])
    assert [r.levelname for r in caplog.records].count("ERROR") == 1
    assert "No space left on device" in caplog.text and "answers go on" in caplog.text
    assert f"--log {tmp_path / 'log'}" in caplog.text and "/dt=2026-11-29/.smar-" in caplog.text
    wait_until(lambda: "6 rows wait" in " ".join(log.problems()))
    assert value(log, "smar_log_queued") == 6
    full = False
    wait_until(lambda: "works again" in caplog.text)
    assert (log.problems(), log.waiting) == ([], 0)
    log.close()
    assert [row["query"] for row in rows_of(tmp_path / "log")] == ["red shirt"] * 3 + ["blue"] * 3
    assert value(log, "smar_log_dropped_total", event="impression") == 0


def test_a_disk_that_refuses_until_the_end_costs_rows_that_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(answer_log, "CLOSE_SECONDS", 0.1)

    def refuse(*_: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    log = running(tmp_path / "log", Clock(BEFORE_MIDNIGHT))
    monkeypatch.setattr(os, "pwrite", refuse)
    log.offer([shown()])
    log.close()
    assert value(log, "smar_log_dropped_total", event="impression") == 3
    assert value(log, "smar_log_events_total", event="impression") == 0
    assert "3 rows of the log are lost" in caplog.text


WRITER = """
import os, sys, time
from pathlib import Path
from prometheus_client import CollectorRegistry
from smar_model.serving.answer_log import AnswerLog
from smar_model.serving.log_rows import Place, ShownList
log = AnswerLog.at(sys.argv[1], CollectorRegistry())
log.start()
number = 0
while True:
    log.offer([ShownList(request_id=f"{number:032x}", query="red", user=None, session=None, routing=None, places=[Place("a", "4", None)])])
    number += 1
    if number % 10 == 0:
        print(number, time.time(), flush=True)
    time.sleep(0.001)
"""


def test_a_kill_costs_no_more_than_the_last_second(tmp_path: Path) -> None:
    place = tmp_path / "log"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(place)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    try:
        said = iter(process.stdout or ())
        told = []
        while not told or told[-1][1] < told[0][1] + 2.5:
            number, moment = next(said).split()
            told.append((int(number), float(moment)))
        found = finish_left_files(place)
        assert (found.files, len(found.growing)) == ([], 1), "a living process's file was touched"
    finally:
        process.kill()
        process.wait()
    killed_at = told[-1][1]
    hidden = next(place.glob("dt=*/.*"))
    with hidden.open("ab") as file:
        file.write(b'{"event_time": "2026-11-2')
    done = CliRunner().invoke(command_line, ["finish-log", str(place)])
    assert done.exit_code == 0, done.output
    assert "25 bytes of a torn last line cut off" in done.output
    rows = rows_of(place)
    assert [int(row["request_id"], 16) for row in rows] == list(range(len(rows)))
    assert len(rows) >= max(number for number, moment in told if moment <= killed_at - 1.0)
    again = CliRunner().invoke(command_line, ["finish-log", str(place)])
    assert again.output.strip() == "nothing was left"


def test_the_next_server_finishes_what_another_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "log" / "dt=2026-11-28"
    folder.mkdir(parents=True)
    whole = write_rows(BEFORE_MIDNIGHT - 86_400, shown(), ShopperIds(b"k" * 32))
    contents = {"torn": whole + b'{"a', "zeros": whole + bytes(5_000) + b"\n\0\0", "nothing": b'{"a', "empty": b""}
    for name, content in contents.items():
        made = temporary_beside(folder / f"{name}.jsonl")
        rest = made.name.rpartition(".")[2].partition("-")[2]
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        made.with_name(f".{name}.jsonl.{gone.pid:x}-{rest}").write_bytes(content)
    strange = folder / ".other.jsonl.12-34-00000000-0"  # of another machine
    strange.write_bytes(whole)
    log = running(tmp_path / "log", Clock(BEFORE_MIDNIGHT))
    wait_until(lambda: len(list(folder.glob("*.jsonl"))) == 2)
    log.close()
    assert {file.name: file.read_bytes() for file in folder.glob("[!.]*")} == {
        "torn.jsonl": whole,
        "zeros.jsonl": whole,
    }
    assert [file.name for file in folder.glob(".*")] == [strange.name], "it may still be written to"
    os.utime(strange, (0, 0))
    assert [file.name for file in finish_left_files(tmp_path / "log").files] == ["other.jsonl"]


def test_a_living_writer_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that one of another machine is told from one that is gone."""
    monkeypatch.setattr(log_folder, "TOUCHED_SECONDS", 0.0)
    log = running(tmp_path / "log", Clock(BEFORE_MIDNIGHT))
    log.offer([shown()])
    wait_until(lambda: list((tmp_path / "log").glob("dt=*/.*")))
    hidden = next((tmp_path / "log").glob("dt=*/.*"))
    os.utime(hidden, (0, 0))
    wait_until(lambda: hidden.stat().st_mtime > 1)
    log.close()


def test_two_servers_may_write_to_one_place(tmp_path: Path) -> None:
    logs = [running(tmp_path / "log", Clock(BEFORE_MIDNIGHT)) for _ in range(2)]
    for n in range(50):
        logs[n % 2].offer([shown(f"query {n}", items=1)])
    for log in logs:
        log.close()
    assert sorted(int(row["query"].split()[1]) for row in rows_of(tmp_path / "log")) == list(range(50))


def test_an_object_store_gets_whole_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_log.Bucket, "longest_seconds", 0.2)
    clock = Clock(BEFORE_MIDNIGHT - 60)
    with running_s3() as variables:
        for name, text in variables.items():
            monkeypatch.setenv(name, text)
        log = running(f"s3://{BUCKET}/shop/click_log", clock)
        log.offer([shown()])
        client = s3_client(variables)

        def objects() -> list[str]:
            return [each["Key"] for each in client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]

        wait_until(lambda: list((home / "answer-log").rglob(".smar-*")))
        clock.now += 1
        wait_until(objects)
        (key,) = objects()
        assert key.startswith("shop/click_log/dt=2026-11-29/smar-") and key.endswith(".jsonl")
        content = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        assert len(content.splitlines()) == 3
        log.offer([shown()])
        log.close()
        assert len(objects()) == 2
        assert not list((home / "answer-log").rglob("*.jsonl*"))


def test_a_store_that_is_away_keeps_nobody_waiting(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(self: answer_log.Bucket) -> None:
        raise InputError("the object store does not answer")

    monkeypatch.setattr(answer_log.Bucket, "send", away)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    log = running(f"s3://{BUCKET}/click_log", Clock(BEFORE_MIDNIGHT))
    log.offer([shown()])
    wait_until(lambda: "the store of the log refuses" in caplog.text)
    log.close()
    assert caplog.text.count("the store of the log refuses") == 1
    assert len(list((home / "answer-log").rglob("smar-*.jsonl"))) == 1, "it is sent by the next server"


def test_no_personal_data_reaches_a_file() -> None:
    ids = ShopperIds(b"k" * 32)
    action = Action(
        kind="click",
        request_id="ab" * 16,
        item_id="i",
        position=7,
        query=PERSONAL,
        user="anna@example.com",
        session="0171",
    )
    for entry in (shown(PERSONAL, user="anna@example.com", session="anna 1"), action):
        text = write_rows(BEFORE_MIDNIGHT, entry, ids).decode()
        for secret in ("anna", "example", "0171", "2345678", "4111", "1111"):
            assert secret not in text.replace(ids.user("anna@example.com", ""), "")
        row = json.loads(text.splitlines()[0])
        assert row["query"] == "call <phone> or <email> <card> red"
    known = shown("4111 1111 1111 1111", catalogue_numbers={"4111111111111111"})
    assert json.loads(write_rows(0.0, known, ids).splitlines()[0])["query"] == "4111 1111 1111 1111"
    # One that is longer than any that is used is cut behind its masks.
    long = json.loads(write_rows(0.0, shown("x " * 248 + PERSONAL + " y" * 5_000), ids).splitlines()[0])["query"]
    assert len(long) == 501 and not {"anna", "4111", "0171"} & set(long.replace("@", " ").split())


def test_ids_are_the_same_after_a_restart_and_others_with_another_key(home: Path) -> None:
    first = shopper_ids()
    key = home / "keys" / "shopper_ids.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert shopper_ids().user("anna", "1") == first.user("anna", "2")
    assert first.user(None, "1") != first.user(None, "2")
    assert first.session(None, "anna", "1", "2026-11-29") != first.session(None, "anna", "1", "2026-11-30")
    assert first.session("s", "anna", "1", "2026-11-29") == first.session("s", "anna", "2", "2026-11-30")
    shown_id = CliRunner().invoke(command_line, ["shopper-id", "anna"])
    assert shown_id.output.strip() == first.user("anna", "1")
    key.unlink()
    for user, says in (("anna", "no key here"), ("", "1 to 200"), ("a" * 201, "1 to 200")):
        refused = CliRunner().invoke(command_line, ["shopper-id", user])
        assert isinstance(refused.exception, InputError) and says in str(refused.exception)
        assert not key.exists()
    assert shopper_ids().user("anna", "1") != first.user("anna", "1")


@pytest.mark.parametrize("case", ["open to others", "short", "missing", "shared home"])
def test_a_key_that_cannot_be_used_is_named(home: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    file = home / "team.key"
    home.mkdir()
    if case == "shared home":
        monkeypatch.setenv("SMAR_STORE", "s3://somewhere/else")
    else:
        monkeypatch.setenv("SMAR_SHOPPER_KEY", str(file))
    if case in {"open to others", "short"}:
        file.write_text("k" * (40 if case == "open to others" else 8))
        file.chmod(0o644 if case == "open to others" else 0o600)
    says = {
        "open to others": "chmod 600",
        "short": "openssl rand",
        "missing": "cannot be read",
        "shared home": "SMAR_SHOPPER_KEY",
    }
    with pytest.raises(InputError, match=says[case]):
        shopper_ids()


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (str(tmp_path / "file" / "log"), "ftp://host/log"):
        done = CliRunner().invoke(command_line, ["finish-log", place])
        assert isinstance(done.exception, InputError)
        assert place in str(done.exception)
