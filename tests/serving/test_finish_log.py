"""`smar finish-log` where what it finds is no file that a server has left, or there is no log."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smar_model.cli import app as command_line
from smar_model.errors import InputError
from smar_model.lake.process_identity import temporary_beside
from smar_model.serving.log_rows import write_rows
from smar_model.serving.shopper_ids import ShopperIds
from tests.serving.test_answer_log import BEFORE_MIDNIGHT, shown


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))


def test_what_is_no_left_file_is_told_and_left(tmp_path: Path) -> None:
    folder = tmp_path / "log" / "dt=2026-11-28"
    folder.mkdir(parents=True)
    whole = write_rows(BEFORE_MIDNIGHT - 86_400, shown(), ShopperIds(b"k" * 32))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    def left(name: str) -> Path:
        made = temporary_beside(folder / f"{name}.jsonl")
        return made.with_name(f".{name}.jsonl.{gone.pid:x}-{made.name.rpartition('.')[2].partition('-')[2]}")

    (elsewhere := tmp_path / "elsewhere").write_bytes(whole + b'{"torn')
    left("a-folder").mkdir()
    left("link").symlink_to(elsewhere)
    (folder / "taken.jsonl").write_text("of another\n")
    (taken := left("taken")).write_bytes(whole + b'{"torn')
    left("whole").write_bytes(whole)
    (half_done := left("twice")).write_bytes(whole)
    os.link(half_done, folder / "twice.jsonl")
    done = CliRunner().invoke(command_line, ["finish-log", str(tmp_path / "log")])
    assert done.exit_code == 0, done.output
    assert "a link, which no server has made" in done.output and "a folder, pipe or device" in done.output
    assert "taken.jsonl exists already" in done.output
    assert elsewhere.read_bytes() == taken.read_bytes() == whole + b'{"torn'
    assert (folder / "taken.jsonl").read_text() == "of another\n"
    assert sorted(file.name for file in folder.glob("[!.]*")) == ["taken.jsonl", "twice.jsonl", "whole.jsonl"]
    assert not half_done.exists()


def test_a_log_that_is_not_there_is_not_finished(tmp_path: Path) -> None:
    for place in (str(tmp_path / "no" / "log"), "", " "):
        done = CliRunner().invoke(command_line, ["finish-log", place])
        assert isinstance(done.exception, InputError), done.output
    assert not (tmp_path / "no").exists()
