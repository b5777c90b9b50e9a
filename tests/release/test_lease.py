"""The registry's lock between real processes: it excludes, it is freed, a dead or late holder loses it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from smar_model.errors import InputError, NoAnswer
from smar_model.release.lease import registry_lease

HOLD = """
import time
from smar_model.release.lease import registry_lease
with registry_lease(purpose="hold"):
    print("held", flush=True)
    time.sleep(60)
"""
COUNT = """
import sys, time
from pathlib import Path
from smar_model.release.lease import registry_lease
counter = Path(sys.argv[1])
for _ in range(10):
    with registry_lease(purpose="count"):
        value = int(counter.read_text())
        time.sleep(0.005)
        counter.write_text(str(value + 1))
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def holder(home: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_waits_and_then_names_the_holder(holder: subprocess.Popen[str]) -> None:
    with (
        pytest.raises(NoAnswer, match=rf"held by process {holder.pid} .*\(hold\)"),
        registry_lease(purpose="second", wait_seconds=0.5),
    ):
        pytest.fail("two hold the lock")


def test_a_killed_holder_loses_it(holder: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with registry_lease(purpose="second", wait_seconds=0.5) as lease:
        lease.verify()
    assert f"taken over from process {holder.pid}" in capsys.readouterr().out


def test_whose_lease_ran_out_must_not_go_on(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with registry_lease(purpose="slow", lease_seconds=0.05) as slow:
        time.sleep(0.1)
        with registry_lease(purpose="quick", wait_seconds=0) as quick:
            with pytest.raises(InputError, match="lease ran out"):
                slow.verify()
            quick.verify()
    assert "its lease ran out" in capsys.readouterr().out
    assert not (home / "registry.lock").exists()


@pytest.mark.parametrize("ends", ["1e300", "99999999999"])
def test_a_lease_that_no_clock_of_today_ends_is_none(home: Path, ends: str) -> None:
    holder = '{"token": "x", "pid": 1, "host": "elsewhere", "purpose": "hold", "expires_at": ' + ends + "}"
    (home / "registry.lock").write_text(holder)
    with registry_lease(purpose="next", wait_seconds=0) as lease:
        lease.verify()


def test_an_error_frees_it(home: Path) -> None:
    with pytest.raises(RuntimeError), registry_lease(purpose="broken"):
        raise RuntimeError
    with registry_lease(purpose="next", wait_seconds=0):
        assert (home / "registry.lock").exists()


def test_no_update_is_lost_between_processes(home: Path) -> None:
    counter = home / "counter"
    counter.write_text("0")
    writers = [subprocess.Popen([sys.executable, "-c", COUNT, str(counter)]) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert counter.read_text() == "30"
