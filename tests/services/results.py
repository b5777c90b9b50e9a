"""`benchmarks/services.md`: what `make test-services` measured, a section for each measurement, each as of its own last run."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path

from smar_model.lake.checkout import commit
from smar_model.settings import REPOSITORY

PAGE = REPOSITORY / "benchmarks" / "services.md"
HEAD = "# Services\n\nWritten by `make test-services`, section by section, each when it was last run.\n"


def record(title: str, lines: list[str]) -> None:
    """Put a section in the place of the one with its title, with when, on what and of which commit it was measured."""
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", _content(), re.S | re.M))
    where = (
        f"{len(os.sched_getaffinity(0))} cores ({processor()}), {platform.system()}, Python {platform.python_version()}"
    )
    measured = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit()}, {where}."
    sections[title] = "\n".join(["", measured, "", *lines, "", ""])
    text = HEAD + "".join(f"\n## {name}\n{content.rstrip()}\n" for name, content in sorted(sections.items()))
    PAGE.write_text(text, encoding="utf-8")


def _content() -> str:
    return PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""


def processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    return " ".join(found[1].split()) if found else platform.machine()
