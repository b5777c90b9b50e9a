"""The checks of a run as one HTML page that needs nothing else, neither network nor other files."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from smar_model.checks.outcomes import Check

_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
h2 { margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid #8884 }
td { white-space: pre-wrap; overflow-wrap: anywhere }
td.number { text-align: right; font-variant-numeric: tabular-nums }
summary { cursor: pointer; margin: .6rem 0 }
.critical td:first-child { background: #b3261e; color: white }
.warning td:first-child { background: #f2c14e; color: black }
.passed td:first-child { color: #3f8f49 }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRows:
    """What a table holds."""

    name: str
    """`stage/table`"""
    rows: int
    columns: Sequence[tuple[str, int, Any, Any]]
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
    failed = [c for c in checks if not c.passed and c.severity == "critical"]
    warned = [c for c in checks if not c.passed and c.severity != "critical"]
    passed = [c for c in checks if c.passed]
    parts = [f"<p>{len(checks)} checks: {len(failed)} failed, {len(warned)} warnings.</p>"]
    if failed:
        parts.append("<p>Nothing is trained on this data: correct what failed, then clear the task check-data.</p>")
    if failed or warned:
        parts.append(_check_table(failed + warned))
    if unused:
        total = sum(rows for _, _, rows, _ in unused)
        parts.append(f"<h2>Rows not used</h2><p>{total:,} rows, by reason, with some of their keys.</p>")
        parts.append(_table(("Source", "Reason", "Rows", "Such as"), (("", row) for row in unused)))
    parts.append(f"<details><summary>{len(passed)} checks passed</summary>{_check_table(passed)}</details>")
    if tables:
        parts.append("<h2>Tables</h2>")
    for table in tables:
        heads = ("Column", "Nulls", "Least (texts: length)", "Greatest")
        rows = (("", column) for column in table.columns)
        summary = f"{html.escape(table.name)}: {table.rows:,} rows"
        parts.append(f"<details><summary>{summary}</summary>{_table(heads, rows)}</details>")
    name = html.escape(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style>'
        f"</head><body><h1>{name}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _check_table(checks: Iterable[Check]) -> str:
    rows = []
    for check in checks:
        state = "passed" if check.passed else check.severity
        rows.append((state, (state, check.table, check.check, check.observed, check.detail)))
    return _table(("State", "Table", "Check", "Observed", "Detail"), rows)


def _table(heads: Sequence[str], rows: Iterable[tuple[str, Sequence[Any]]]) -> str:
    """Rows are (class, cells)."""
    lines = []
    for kind, cells in rows:
        filled = "".join(
            f'<td class="number">{cell:,}</td>'
            if isinstance(cell, int)
            else f"<td>{html.escape('' if cell is None else str(cell))}</td>"
            for cell in cells
        )
        lines.append(f'<tr class="{kind}">{filled}</tr>')
    head = "".join(f'<th scope="col">{h}</th>' for h in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n" + "\n".join(lines) + "\n</tbody></table>"
