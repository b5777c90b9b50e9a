"""The checks of a run as one HTML page that needs nothing else, neither network nor other files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from smar_model.checks.outcomes import Check


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRows:
    """What a table holds."""

    name: str
    """`stage/table`"""
    rows: int
    columns: Sequence[tuple[str, int, object, object]]
    """Name, nulls, least and greatest value; of texts their lengths."""


def render_page(
    checks: Sequence[Check],
    *,
    title: str,
    unused: Sequence[tuple[str, str, int, str]] = (),
    tables: Sequence[TableRows] = (),
) -> str:
    """Failed checks first, then warnings; what passed is folded away.

    Args:
        unused: rows in quarantine as (source, reason, rows, sample keys).
        tables: what was checked.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    return environment.get_template("checks_page.html.j2").render(
        title=title,
        checks=checks,
        failed=[c for c in checks if not c.passed and c.severity == "critical"],
        warned=[c for c in checks if not c.passed and c.severity != "critical"],
        passed=[c for c in checks if c.passed],
        unused=unused,
        tables=tables,
    )
