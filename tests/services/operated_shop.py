"""The tiny shop as the operation's tests run it: settings whose gate lets a model of four steps through, and a comparison of two."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.tiny_shop import LAST_DAY, tiny_settings, write_tiny_shop

MODEL = "tiny"
COMPARED = ("text_only", "default")


def operated_settings(home: Path) -> dict[str, str]:
    """Environment of Airflow under which its forms offer this shop's files."""
    return {"SMAR_SETTINGS": str(home / "tiny.yaml"), "SMAR_COMPARISON": str(home / "compare_tiny.yaml")}


def write_operated_shop(home: Path, *, tracking_uri: str) -> Path:
    """Write the shop, its settings and a comparison; returns the settings file."""
    root = write_tiny_shop(home / "shops" / "tiny")
    content = tiny_settings(root, release={"tracking_uri": tracking_uri, "model": MODEL, "experiment": MODEL})
    settings = content.model_dump(mode="json")
    # A model of four steps beats nothing: the floors are for real ones.
    settings["gate"] |= {"over_popularity": 0.0, "over_bm25": 0.0, "minimum_queries": 1, "champion_margin": 1.0}
    settings_file, comparison_file = map(Path, operated_settings(home).values())
    settings_file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    comparison = {
        "base": str(settings_file),
        "date": str(LAST_DAY),
        "output": "comparisons/tiny",
        "kept": "home",
        "tables": {
            "Core": {
                "text_only": {"label": "Text-only", "variant": "text_only"},
                "default": {"label": "Ours", "variant": "default"},
                "smar": {"label": "SMAR as published", "variant": "smar"},
            }
        },
        "pairs": [{"first": "default", "second": "text_only"}],
    }
    comparison_file.write_text(yaml.safe_dump(comparison, sort_keys=False), encoding="utf-8")
    return settings_file
