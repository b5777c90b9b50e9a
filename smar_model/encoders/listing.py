"""What `smar encoder list` and `smar doctor` say of the encoders that have been added."""

from __future__ import annotations

from smar_model.lake.encoder_store import WORDS, StoredEncoder, list_encoders

HEADINGS = ("name", "has", "weights", "size", "languages", "scripts", "licence", "digest", "source")


def list_page() -> str:
    """A table, one line an encoder."""
    encoders = list_encoders()
    if not encoders:
        return "No encoder has been added. `smar encoder add minilm` and `smar encoder add lite0` fetch small ones (docs/encoders.md)."
    rows = [HEADINGS, *(_cells(encoder) for encoder in encoders)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def describe_encoder(encoder: StoredEncoder) -> str:
    """One line."""
    named = (f"{heading} {cell}" for heading, cell in zip(HEADINGS[1:], _cells(encoder)[1:], strict=True))
    return f"{encoder.name}: {', '.join(named)}"


def _cells(encoder: StoredEncoder) -> tuple[str, ...]:
    record = encoder.record
    size = sum(file["bytes"] for file in record["files"].values())
    return (
        encoder.name,
        " + ".join([*encoder.has, *(["words"] if WORDS in record["files"] else [])])
        + (f" (one space of {record['aligned']})" if "aligned" in record else ""),
        f"{sum(record['parameters'].values()) / 1e6:.1f} M",
        f"{size / 1e6:,.0f} MB",
        " ".join(record["languages"]) or "unknown",
        " ".join(record["scripts"]) or "–",
        record["licence"] or "unknown",
        record["digest"][:12],
        record["source"],
    )
