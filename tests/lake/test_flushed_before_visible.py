"""Durable before visible: what a name leads to is on the disk before the name is, in the order of the system calls really made."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smar_model.lake.artifacts import lake, manifest_path
from smar_model.lake.publishing import Attempt
from smar_model.lake.shared_files import create_if_absent, replace_file
from smar_model.release.history import append_history, history_file, new_entry

Call = tuple[str, Path]


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """fsync, with what it flushed and a file's content then; and each name that a link or a renaming made. All are carried out."""
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))
    made: list[Call] = []

    def recorded(name: str, path_of: Callable[..., Path]) -> None:
        call = getattr(os, name)

        def wrapper(*arguments: Any, **options: Any) -> Any:
            path = path_of(*arguments)
            result = call(*arguments, **options)
            made.append((name, path))
            if name == "fsync" and path.is_file():
                flushed[path] = path.read_bytes()
            return result

        monkeypatch.setattr(os, name, wrapper)

    recorded("fsync", lambda descriptor: Path(os.readlink(f"/proc/self/fd/{descriptor}")))
    for name in ("link", "rename", "replace"):
        recorded(name, lambda source, target: Path(target))
    flushed.clear()
    return made


flushed: dict[Path, bytes] = {}
"""What a file held when it was last flushed."""


def publish_some(key: str) -> Any:
    attempt = Attempt("stage", key)
    (attempt.folder / "model").mkdir()
    (attempt.folder / "model" / "weights.bin").write_bytes(b"weights" * 1_000)
    mapped = np.lib.format.open_memmap(attempt.folder / "rows.npy", mode="w+", dtype=np.float32, shape=(1_000,))
    mapped[:] = 7
    mapped.flush()
    return attempt.publish(metrics={}, inputs={}, settings={})


def test_files_folders_manifest_and_its_folder_are_flushed_in_this_order(calls: list[Call]) -> None:
    made = publish_some("key")
    visible = calls.index(("link", manifest_path("stage", "key")))
    before, after = calls[:visible], calls[visible + 1 :]
    for name in made.manifest["files"]:
        file = made.place / name
        assert flushed.get(file) == file.read_bytes(), f"{name} was flushed as it is"
        assert ("fsync", file) in before
        for folder in (folder for folder in file.parents if folder.is_relative_to(made.place)):
            assert ("fsync", folder) in before[before.index(("fsync", file)) :], f"{folder} after {name}"
    assert ("fsync", made.place.parent) in before, "the folder that names the attempt"
    assert ("fsync", lake() / "stage") in before, "new, the folder that names the attempts"
    assert ("fsync", lake()) in before
    manifest = next(path for call, path in reversed(before) if call == "fsync" and path.name.startswith(".key.json"))
    assert json.loads(flushed[manifest])["key"] == "key"
    assert ("fsync", lake() / "stage") in after


@pytest.mark.parametrize("write", [create_if_absent, replace_file])
def test_a_new_name_is_flushed_with_its_folder_and_those_above_it(
    write: Any, calls: list[Call], tmp_path: Path
) -> None:
    path = tmp_path / "home" / "runs" / "run" / "run.json"
    write(path, "content")
    visible = next(n for n, call in enumerate(calls) if call[0] in {"link", "rename", "replace"} and call[1] == path)
    content = [n for n, call in enumerate(calls) if call[0] == "fsync" and call[1].name.startswith(".run.json")]
    assert content and content[-1] < visible
    assert ("fsync", path.parent) in calls[visible:], "the name itself"
    for folder in (tmp_path, tmp_path / "home", tmp_path / "home" / "runs"):
        assert ("fsync", folder) in calls[:visible], f"{folder} has a new folder in it"


def test_the_history_of_releases_is_flushed_with_its_folder(calls: list[Call], tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    append_history(new_entry("model", "promote", to="1"))
    assert calls[-2:] == [("fsync", history_file()), ("fsync", tmp_path / "home")]
    assert b'"to": "1"' in flushed[history_file()]
