"""What `make retrain` says can be done next."""

from __future__ import annotations

import pytest

from laptop.retrain import next_commands


@pytest.mark.parametrize(
    ("source", "options"),
    [("configs/sample_shop.yaml", ""), ("configs/my shop.yaml", " --settings 'configs/my shop.yaml'")],
)
def test_pages_search_and_serve_are_named_with_the_shops_settings(source: str, options: str) -> None:
    lines = [line.removeprefix("Next:").strip() for line in next_commands(source).splitlines()]
    assert lines[0] == "make ui"
    assert lines[1].startswith('.venv/bin/smar search "') and lines[1].endswith(f'"{options}')
    assert lines[2] == f".venv/bin/smar serve{options}"
