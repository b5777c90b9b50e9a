"""Releases as runs of tests meet them: of what is not stated, something of the right form."""

from __future__ import annotations

from typing import Any

from smar_model.lake.earlier_outputs import Release

UNSTATED = {
    **{"version": "1", "run": "first", "date": "2026-11-19", "cutoff": "2026-11-19T00:00:00+00:00"},
    **{"started_from": "pretraining", "model_digest": "m" * 64, "index_digest": "i" * 64},
    **{"source": "", "index_source": "version", "folder": "", "model_folder": "", "index_folder": ""},
}


def a_release(**values: Any) -> Release:
    return Release(**UNSTATED | values)
