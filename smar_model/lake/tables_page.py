"""The page `docs/tables.md`: all contracts for people. Apart from `contracts.py`, which stages are made of, as no stage's output depends on it."""

from __future__ import annotations

from smar_model.lake.contracts import SCHEMAS, load_contract


def describe_tables() -> str:
    """All contracts as one page of Markdown: `docs/tables.md`."""
    lines = [
        "# Tables",
        "",
        "Written by `smar tables > docs/tables.md` from the contracts in `schemas/`; change those, not this page.",
        "A table is kept as long as the output that it is part of, unless it says otherwise: then `smar start` removes it",
        "from outputs published longer ago. A column holds no nulls unless it says so. A failed critical check ends the",
        "run before training; a warning is shown.",
    ]
    for path in sorted(SCHEMAS.glob("*.yaml")):
        contract = load_contract(path.stem)
        kept = f"Kept for {contract.retention_days} days. " if contract.retention_days else ""
        lines += ["", f"## {contract.table}", "", contract.description, ""]
        lines += [f"Owner: {contract.owner}. {kept}Version {contract.version}.", ""]
        lines += ["| column | type | meaning | unit | allowed |", "| --- | --- | --- | --- | --- |"]
        for c in contract.columns:
            kind = f"`{c.type}`{', nullable' if c.nullable else ''}"
            allowed = ", ".join(map(str, c.allowed or ()))
            cells = (f"`{c.name}`", kind, c.description, c.unit or "", allowed)
            lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
        if contract.checks:
            lines += ["", "Checks:", *(f"- {demand.severity}: `{demand}`" for demand in contract.checks)]
        for figure, limits in contract.drift.items():
            lines += [f"- {severity}: `{figure}` of all queries at most {most:g}" for severity, most in limits.items()]
    return "\n".join(lines) + "\n"
