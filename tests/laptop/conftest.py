"""One Airflow home for all tests here: preparing it takes ten seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from laptop.airflow_environment import prepare


@pytest.fixture(scope="session")
def airflow_ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """SMAR_HOME with a migrated Airflow database in it."""
    folder = tmp_path_factory.mktemp("laptop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder))
        prepare()
        yield folder
