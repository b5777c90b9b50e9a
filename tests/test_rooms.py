"""Rooms: imports keep to what `[tool.importlinter]` in pyproject.toml says, and docs/architecture.md shows just that."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from smar_model.settings import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
CONTRACTS = PROJECT["tool"]["importlinter"]["contracts"]


def table_of_rooms() -> list[tuple[set[str], set[str]]]:
    """Modules of each room of the page's first table, and what they never import."""
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.partition("| room |")[2].partition("\n\n")[0]
    rows = [line.strip("|").split(" | ") for line in table.splitlines()[2:]]
    return [(modules(room), modules(never)) for room, _, never in rows]


def modules(cell: str) -> set[str]:
    return {name.removesuffix(".py").strip("/").replace("/", ".") for name in re.findall(r"`([^`]+)`", cell)}


def test_imports_keep_to_the_rooms() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_shows_what_is_enforced() -> None:
    table = table_of_rooms()
    (order,) = (contract["layers"] for contract in CONTRACTS if contract["type"] == "layers")
    assert [set(layer.split(" : ")) for layer in reversed(order)] == [rooms for rooms, _ in table]
    for rooms, never in table:
        for room in rooms:
            forbidden = [c["forbidden_modules"] for c in CONTRACTS if room in c.get("source_modules", ())]
            assert {name for names in forbidden for name in names} == never, room


def test_every_module_is_in_a_room() -> None:
    rooms = {room for rooms, _ in table_of_rooms() for room in rooms}
    folder = REPOSITORY / "smar_model"
    found = {
        f"smar_model.{path.stem}"
        for path in folder.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert found - {"smar_model.__init__"} <= rooms
