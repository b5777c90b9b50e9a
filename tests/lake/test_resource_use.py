"""What a stage takes of the machine is recorded with its child processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from smar_model.lake.resource_use import recorded_resources

BUSY = """
import time
held = bytearray(300 * 2**20)
end = time.monotonic() + 2.2
while time.monotonic() < end:
    pass
"""


def test_a_child_process_counts(tmp_path: Path) -> None:
    file = tmp_path / "run" / "stage.resources.jsonl"
    with recorded_resources(file):
        subprocess.run([sys.executable, "-c", BUSY], check=True)
    samples = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert samples, "the first comes after a second"
    assert max(s["cpu_percent"] for s in samples) > 20
    assert max(s["memory_mib"] for s in samples) > 300
    assert all(0 < s["machine_memory_percent"] < 100 for s in samples)


def test_work_that_fails_ends_the_sampling(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), recorded_resources(tmp_path / "a.jsonl"):
        raise ValueError("no")
    assert (tmp_path / "a.jsonl").read_text(encoding="utf-8") == ""


def test_a_library_that_is_being_imported_does_not_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "torch.cuda"):  # as `sys.modules` has them meanwhile
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    with recorded_resources(tmp_path / "a.jsonl"):
        time.sleep(1.5)
    assert (tmp_path / "a.jsonl").read_text(encoding="utf-8").count("\n") >= 1
