"""The data stages of the tiny shop, run once in a process for all files that train on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_shop import DATA_STAGES, run_stages, tiny_run, write_tiny_shop


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder to copy, with `shop` and, for SMAR_HOME, `var`, whose lake holds the shop's data stages under usual settings."""
    folder = tmp_path_factory.mktemp("tiny_data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder / "var"))
        run_stages(tiny_run(write_tiny_shop(folder / "shop"), "data"), *DATA_STAGES)
    return folder
