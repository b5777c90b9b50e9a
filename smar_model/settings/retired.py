"""Settings that older versions had and that are constants now: files and records that still name one with its value go on working."""

from __future__ import annotations

from smar_model.errors import InputError
from smar_model.yaml_files import Document

RETIRED: dict[tuple[str, str], float] = {
    ("clicks", "bot_clicks"): 5,
    ("clicks", "bot_dwell_seconds"): 1.0,
    ("clicks", "skew_minutes"): 15,
    ("clicks", "maximum_weight"): 10.0,
    ("segments", "head_share"): 0.5,
    ("segments", "torso_share"): 0.8,
    ("segments", "sparse_words"): 3,
    ("segments", "misleading_clicks"): 5,
    ("segments", "misleading_share"): 0.8,
    ("training", "text_only_steps"): 1.0,
}
"""Section and name → the value that it always has."""


def without_retired(document: Document) -> Document:
    """The settings without those that are constants now.

    Raises:
        InputError: one has another value than the constant.
    """
    kept = dict(document.content)
    for (section, name), value in RETIRED.items():
        if isinstance(values := kept.get(section), dict) and name in values:
            if values[name] != value:
                raise InputError(f"{document.where((section, name))}: is always {value:g} now; take the line out")
            kept[section] = {n: v for n, v in values.items() if n != name}
    return Document(document.source, kept, document.lines)
