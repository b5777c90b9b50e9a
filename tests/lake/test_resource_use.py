"""What a stage takes of the machine is recorded with its child processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from smar_model.lake.resource_use import recorded_resources
from tests.patience import wait_until

BUSY = """
held = bytearray(300 * 2**20)
while True:
    pass
"""


def test_a_child_process_counts(tmp_path: Path) -> None:
    file = tmp_path / "run" / "stage.resources.jsonl"

    def samples() -> list[dict[str, float]]:
        # The last line may be half-written.
        return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]

    with recorded_resources(file), subprocess.Popen([sys.executable, "-c", BUSY]) as child:
        try:
            # This process itself only waits, and holds less.
            wait_until(lambda: any(s["cpu_percent"] > 5 and s["memory_mib"] > 300 for s in samples()))
        finally:
            child.kill()
    assert all(0 < s["machine_memory_percent"] < 100 for s in samples())


def test_work_that_fails_ends_the_sampling(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), recorded_resources(tmp_path / "a.jsonl"):
        raise ValueError("no")
    assert (tmp_path / "a.jsonl").read_text(encoding="utf-8") == ""


def test_a_library_that_is_being_imported_does_not_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "torch.cuda"):  # as `sys.modules` has them meanwhile
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    with recorded_resources(tmp_path / "a.jsonl"):
        wait_until(lambda: "\n" in (tmp_path / "a.jsonl").read_text(encoding="utf-8"))
