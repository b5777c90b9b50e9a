"""Pages in `benchmarks/` that tests write: what was measured, a section for each measurement, each as of its own last run."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path

from smar_model.lake.checkout import commit
from smar_model.settings import REPOSITORY


def record(title: str, lines: list[str], *, page: str = "services") -> None:
    """Put a section in the place of the one with its title, with when, on what and of which commit it was measured.

    Args:
        page: `benchmarks/PAGE.md`, which `make test-PAGE` writes.
    """
    file = REPOSITORY / "benchmarks" / f"{page}.md"
    content = file.read_text(encoding="utf-8") if file.is_file() else ""
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", content, re.S | re.M))
    where = (
        f"{len(os.sched_getaffinity(0))} cores ({processor()}), {platform.system()}, Python {platform.python_version()}"
    )
    measured = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit()}, {where}."
    sections[title] = "\n".join(["", measured, "", *lines, "", ""])
    head = f"# {page.capitalize()}\n\nWritten by `make test-{page}`, section by section, each when it was last run.\n"
    text = head + "".join(f"\n## {name}\n{content.rstrip()}\n" for name, content in sorted(sections.items()))
    file.write_text(text, encoding="utf-8")


def processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    return " ".join(found[1].split()) if found else platform.machine()
