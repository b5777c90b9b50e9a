"""Rules for all tests: the longest come first, threads that wait sleep, Spark and MLflow stay quiet, a skip says what would make it run. And what many of them build on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

UNSTATED = {"", "unconditional skip"}
LONGEST_FIRST = ("end_to_end", "jobs", "training", "release", "evaluation")
"""Rooms that take minutes: last, one would run while the other process has nothing left. While the first one has the days through Airflow the
other has Spark's jobs, so that one session of Spark serves nearly all."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {room: number for number, room in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.parent.name, len(rank)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """A skipped test without a reason fails: it would be a hole that nobody sees."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if reason.removeprefix("Skipped").lstrip(": ").strip() in UNSTATED:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: skipped without a reason; say what would make it run"
    return report


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder to copy, with `shop` and, for SMAR_HOME, `var`, whose lake holds the tiny shop's data stages under usual settings.

    Made once, by whichever of pytest's processes needs it first.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tiny_data"
    with FileLock(f"{folder}.lock", fallback_to_soft=False):
        if not folder.is_dir():
            made = tmp_path_factory.mktemp("tiny_data")
            _make_tiny_data(made)
            made.rename(folder)
    return folder


def _make_tiny_data(folder: Path) -> None:
    from pyspark.sql import SparkSession

    from jobs.spark_session import start_session
    from tests.tiny_shop import DATA_STAGES, run_stages, tiny_run, write_tiny_shop

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder / "var"))
        run = tiny_run(write_tiny_shop(folder / "shop"), "data")
        is_another = SparkSession.getActiveSession() is not None
        session = start_session(run.settings.spark, name="tiny data", scratch=folder / "spark")
        try:
            run_stages(run, *DATA_STAGES)
        finally:
            if not is_another:  # stages would use it, and leave it running
                session.stop()
